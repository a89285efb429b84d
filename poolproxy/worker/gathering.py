"""Clients of a small pool that go to its home, see ``pool.ledger.gathering``.

A client goes when it has logged in, or when a transaction of it ends: of a busy one that is the only certain
moment. What it sends meanwhile is in its socket and is read there. So at most one
transaction of each is served where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import trio

from poolproxy.ipc.messages import Gather
from poolproxy.relay.client import Client
from poolproxy.relay.client_state import is_quiet
from poolproxy.worker import client_moves
from poolproxy.worker.client_moves import BATCH, CATCH_EVERY, MOST_IN_FLIGHT
from poolproxy.worker.worker import HERE, Worker


def begin(worker: Worker, order: Gather) -> None:
    """Obey the order."""
    key = order.pool
    if order.home < 0:
        worker.homes.pop(key, None)
    else:
        worker.homes[key] = HERE if order.here else order.home
    pool = worker.pools.get(key)
    if pool is None:
        return
    worker.set_draining(pool)
    if pool.draining and not pool.session_mode:
        clients = [client for client in worker.clients.values() if client.pool is pool]
        worker.start(_sweep, worker, clients)


async def _sweep(worker: Worker, clients: Sequence[Client]) -> None:
    """Send those that do nothing now."""
    for start in range(0, len(clients), BATCH):
        for client in clients[start : start + BATCH]:
            consider(worker, client)
        await trio.sleep(CATCH_EVERY)


def consider(worker: Worker, client: Client) -> None:
    """Send the client to its pool's home, if that is elsewhere and nothing of the client is under way."""
    home = worker.homes.get(client.pool.key, HERE)
    departing = worker.departing
    if (
        home != HERE
        and not client.pool.session_mode
        and worker.clients.get(client.id) is client
        and len(departing.clients) < MOST_IN_FLIGHT
        and monotonic() >= departing.rests_until
        and is_quiet(client)
    ):
        client_moves.send(worker, client, home)
