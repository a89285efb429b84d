"""Clients of a pool that go to its home, see ``pool.ledger.gathering``.

A client goes when it has logged in, or when a transaction of it ends: of a busy one that is the only certain
moment. What it sends meanwhile is in its socket and is read there. So at most one
transaction of each is served where it was. An encrypted one stays and is relayed (``worker.pumps``), if
that is worth it for its pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

import trio

from poolproxy.ipc.messages import Gather, PoolKey
from poolproxy.relay.client import Client
from poolproxy.relay.client_state import can_be_relayed, is_quiet
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
    if order.relay or order.home < 0:
        worker.unrelayed.discard(key)
    else:
        worker.unrelayed.add(key)
    pool = worker.pools.get(key)
    if pool is None:
        return
    worker.set_draining(pool)
    if _goes(worker, pool.key) and not pool.session_mode:
        clients = [client for client in worker.clients.values() if client.pool is pool]
        if clients:
            worker.start(_sweep, worker, clients)


def _goes(worker: Worker, key: PoolKey) -> bool:
    return worker.homes.get(key, HERE) != HERE


async def _sweep(worker: Worker, clients: Iterable[Client]) -> None:
    """Send those that do nothing now, a few at a time."""
    left = list(clients)
    while left:
        if not _is_full(worker):
            for client in left[:BATCH]:
                consider(worker, client)
            del left[:BATCH]
        await trio.sleep(CATCH_EVERY)


def _is_full(worker: Worker) -> bool:
    departing = worker.departing
    return len(departing.clients) >= MOST_IN_FLIGHT or monotonic() < departing.rests_until


def _is_ready(worker: Worker, client: Client) -> bool:
    if can_be_relayed(client):
        return client.pool.key not in worker.unrelayed
    # One that is relayed already has left its connection where that was.
    may_move = worker.config.settings.client_moves or client.relayed is not None
    return may_move and is_quiet(client)


def consider(worker: Worker, client: Client) -> None:
    """Send the client to its pool's home, if that is elsewhere and nothing of the client is under way."""
    pool = client.pool
    if (
        _goes(worker, pool.key)
        and not pool.session_mode
        and worker.clients.get(client.id) is client
        and not _is_full(worker)
        and client_moves.is_small(client)
        and _is_ready(worker, client)
    ):
        client_moves.send(worker, client, worker.homes[pool.key])
