"""Sending clients away between their transactions: of the whole pooler, or of one database.

A client that has sent something gets its answer first. Where a busy client leaves no gap that the timer
would see, the end of its transaction is the moment (``Host.between_transactions``): then its next request is
answered with the error.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from functools import partial
from time import monotonic

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Drain
from poolproxy.pool.draining import Draining
from poolproxy.relay.client import Client
from poolproxy.relay.closing import Closing
from poolproxy.relay.context import Pool
from poolproxy.worker.leaving import SHUTTING_DOWN
from poolproxy.worker.worker import Worker

ALL = ""
GOODBYE = 2.0  # seconds
LULL = 0.1  # seconds without a word from a client, after which it is told without having asked

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
            client.parting = None
    worker.may_leave = partial(consider, worker)
    if message.until:
        count = sum(1 for _ in _clients(worker, name))
        worker.drains[name] = Draining(count, monotonic(), message.until, message.deadline)
    for pool in worker.pools.values():
        pool.set_draining(bool({ALL, pool.key.database} & worker.drains.keys()))
    tick(worker, monotonic())


def tick(worker: Worker, now: float) -> None:
    """Called by the janitor."""
    for closing in [closing for closing in worker.goodbyes if now >= closing.deadline]:
        closing.end(clean=False)
    for client in [c for c in worker.clients.values() if c.parting] if worker.drains else ():
        if client.parting is not None and now - client.last_activity > LULL:
            send_away(worker, client, client.parting)
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
                if now - client.last_activity > LULL:
                    send_away(worker, client, _error(name))
                else:
                    client.part(_error(name))
        if name != ALL and not clients:
            for pool in _pools(worker, name):
                for server in pool.resting():
                    server.end("database is being drained")


def consider(worker: Worker, client: Client) -> None:
    """A transaction of a client in a pool that is drained has just ended.

    It is not told at once: its library may still be reading the answer, and would take an error right
    behind that for a mere notice (libpq does).
    """
    if worker.clients.get(client.id) is not client:
        return  # one of our own, see worker.lookup
    for name in (ALL, client.pool.key.database):
        drain = worker.drains.get(name)
        if drain is not None:
            remaining = sum(c.parting is None for c in _clients(worker, name))
            if drain.due(remaining, monotonic()) and may_go(client):
                client.part(_error(name))
                return


def send_away(worker: Worker, client: Client, error: PoolerError) -> None:
    """Close the client so that it hears why, although it may be sending its next query just now.

    A socket that is closed before all was read is reset, and the client's library may never look at the
    error before it. So a duplicate stays open until the client has closed its end, or for GOODBYE seconds.
    """
    sock = socket.socket(fileno=os.dup(client.sock.fileno()))
    sock.setblocking(False)
    client.fail(error)
    closing = Closing(
        worker.engine,
        sock,
        monotonic() + GOODBYE,
        lambda clean: worker.goodbyes.discard(closing),
    )
    worker.goodbyes.add(closing)
    closing.shutdown()


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
