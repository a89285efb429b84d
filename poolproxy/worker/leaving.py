"""How a worker leaves: on request, or because the acceptor is gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic

import trio

from poolproxy.errors import PoolerError
from poolproxy.relay.client import Client
from poolproxy.relay.replication import close_all
from poolproxy.relay.session import let_go
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

LOOK = 0.1  # seconds between two looks at what is left
CANCEL_TIME = 1.0  # seconds for PostgreSQL to end what an orphan's clients have left behind

STOPPING = "server shutting down"
SHUTTING_DOWN = PoolerError(
    "server shutting down",
    sqlstate="57P01",
    hint="Connect again later, or to another instance.",
    reason="shutting_down",
)


def begin(worker: Worker, mode: str) -> None:
    """Obey a Leave message; the modes are explained there."""
    worker.leaving = mode
    if mode == "now":
        worker.left.set()
    elif mode == "servers":
        look(worker)
    worker.report_gone()


def look(worker: Worker) -> None:
    """End the worker when what it waits for has come to pass; called by the janitor."""
    if worker.leaving == "servers":
        free_servers(worker, STOPPING)
        for pool in worker.pools.values():
            _send_away(list(pool.waiting))
        if not any(pool.servers or pool.opening for pool in worker.pools.values()):
            _send_away(list(worker.clients.values()))
            if not worker.pumps:  # others serve these clients, and send them away
                worker.left.set()
    elif worker.leaving in ("clients", "retire"):
        worker.report_gone()


def _send_away(clients: Iterable[Client]) -> None:
    for client in clients:
        client.fail(SHUTTING_DOWN)


def free_servers(worker: Worker, reason: str) -> None:
    """Close the servers that are free, and the others as they become free."""
    for pool in worker.pools.values():
        for server in list(pool.servers):
            server.doomed = reason
        for server in pool.resting():
            server.end(reason)
        let_go(pool, len(pool.servers))
        close_all(pool, reason)


async def as_orphan(worker: Worker) -> None:
    """Nobody grants permits or counts clients any more: let transactions end, then exit.

    Clients between transactions are told at once; those in one when it is over, or at the latest
    after orphan_timeout, less the time to cancel what they run.
    """
    worker.leaving = "orphan"
    # Nobody answers any more whether another worker has them.
    for client in worker.departing.clients.values():
        client.close()
        if client.server is not None:
            client.server.let_go()
    for pipe in worker.departing.pipes.values():
        pipe.close()
    worker.departing.clients.clear()
    worker.departing.pipes.clear()
    last = monotonic() + max(CANCEL_TIME, worker.config.settings.orphan_timeout)
    # The backends that are busy then have nobody else to end them.
    while (worker.clients or worker.closings or worker.pumps) and monotonic() < last:
        late = monotonic() >= last - CANCEL_TIME
        for client in list(worker.clients.values()):
            server = client.server
            if late or server is None or server.back.at_rest:
                client.fail(SHUTTING_DOWN)
        free_servers(worker, STOPPING)
        await trio.sleep(LOOK)
    worker.left.set()
