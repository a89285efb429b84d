"""Sending clients away between their transactions: of the whole pooler, or of one database.

A client that has sent something gets its answer first. Where a busy client leaves no gap that the timer
would see, the end of its transaction is the moment (``Host.between_transactions``): then its next request is
answered with the error.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Drain
from poolproxy.pool.draining import Draining
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.worker.leaving import SHUTTING_DOWN
from poolproxy.worker.parting import may_go, part, stay
from poolproxy.worker.worker import Worker

ALL = ""

DRAINED = PoolerError(
    "database is being drained",
    sqlstate="57P01",
    hint="Somebody works on this database. Connect again later.",
    reason="database_drained",
)


def begin(worker: Worker, message: Drain) -> None:
    """Obey a Drain message."""
    name = message.database
    if worker.drains.pop(name, None) is not None:
        for client in _clients(worker, name):
            stay(worker, client)
    if message.until:
        count = sum(1 for _ in _clients(worker, name))
        worker.drains[name] = Draining(count, monotonic(), message.until, message.deadline)
    for pool in worker.pools.values():
        worker.apply_orders(pool)
    tick(worker, monotonic())


def tick(worker: Worker, now: float) -> None:
    """Called by the janitor."""
    for name, drain in worker.drains.items():
        clients = [client for client in _clients(worker, name) if client.parting is None]
        due = drain.due(len(clients), now)
        if drain.over(now):
            for client in list(_clients(worker, name)):
                client.fail(_error(name))
        elif due:
            ready = [client for client in clients if may_go(client)]
            ready.sort(key=lambda client: client.last_activity)
            for client in ready[:due]:
                part(worker, client, _error(name), now)
        if name != ALL and not clients:
            for pool in _pools(worker, name):
                for server in pool.resting():
                    server.end("database is being drained")


def consider(worker: Worker, client: Client, now: float) -> None:
    """A transaction of a client has just ended: if its pool is drained, it may be its turn."""
    for name in (ALL, client.pool.key.database):
        drain = worker.drains.get(name)
        if drain is not None:
            remaining = sum(c.parting is None for c in _clients(worker, name))
            if drain.due(remaining, now) and may_go(client):
                part(worker, client, _error(name), now)
                return


def _error(name: str) -> PoolerError:
    return SHUTTING_DOWN if name == ALL else DRAINED


def _pools(worker: Worker, name: str) -> Iterator[Pool]:
    return (pool for pool in worker.pools.values() if name in (ALL, pool.key.database))


def _clients(worker: Worker, name: str) -> Iterator[Client]:
    return (c for c in worker.clients.values() if name in (ALL, c.pool.key.database))
