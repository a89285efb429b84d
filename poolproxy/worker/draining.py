"""Sending clients away between their transactions: of the whole pooler, or of one database.

A client that has sent something gets its answer first. Where a busy client leaves no gap that the timer
would see, the end of its transaction is the moment (``Host.between_transactions``).
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from functools import partial
from time import monotonic

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Drain
from poolproxy.pool.draining import Draining
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.worker.leaving import SHUTTING_DOWN
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
    worker.drains.pop(name, None)
    worker.may_leave = partial(consider, worker)
    if message.until:
        count = sum(1 for _ in _clients(worker, name))
        worker.drains[name] = Draining(count, monotonic(), message.until)
    for pool in worker.pools.values():
        pool.set_draining(bool({ALL, pool.key.database} & worker.drains.keys()))
    tick(worker, monotonic())


def tick(worker: Worker, now: float) -> None:
    """Called by the janitor."""
    for name, drain in worker.drains.items():
        clients = list(_clients(worker, name))
        due = drain.due(len(clients), now)
        if due:
            ready = [client for client in clients if may_go(client)]
            ready.sort(key=lambda client: client.last_activity)
            for client in ready[:due]:
                client.fail(_error(name))
        if name != ALL and not clients:
            for pool in _pools(worker, name):
                for server in pool.resting():
                    server.end("database is being drained")


def consider(worker: Worker, client: Client) -> None:
    """A transaction of a client in a pool that is drained has just ended."""
    if worker.clients.get(client.id) is not client:
        return  # one of our own, see worker.lookup
    for name in (ALL, client.pool.key.database):
        drain = worker.drains.get(name)
        if drain is not None:
            remaining = sum(pool.clients for pool in _pools(worker, name))
            if drain.due(remaining, monotonic()) and may_go(client):
                client.fail(_error(name))
                return


def may_go(client: Client) -> bool:
    """Whether nothing of this client is under way, as far as we can see."""
    front = client.front
    if client.wait_since or client.held or client.raw or client.drop or client.out:
        return False
    server = client.server
    if server is not None and server.endless:
        return True  # a stream of replication has no end; its client goes on where it was
    if front.left or front.head or not (server is None or (server.back.at_rest and not server.out)):
        return False
    poll = select.poll()
    poll.register(client.sock, select.POLLIN)
    return not poll.poll(0)  # it has sent something that we have not read yet


def _error(name: str) -> PoolerError:
    return SHUTTING_DOWN if name == ALL else DRAINED


def _pools(worker: Worker, name: str) -> Iterator[Pool]:
    return (pool for pool in worker.pools.values() if name in (ALL, pool.key.database))


def _clients(worker: Worker, name: str) -> Iterator[Client]:
    return (c for c in worker.clients.values() if name in (ALL, c.pool.key.database))
