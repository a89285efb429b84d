"""Clients of a pool that go to its home, see ``pool.ledger.gathering``.

A client goes when it has logged in, or when a transaction of it ends: of a busy one that is the only certain
moment. What it sends meanwhile is in its socket and is read there. So at most one
transaction of each is served where it was. The connection of an encrypted one stays, and without
``client_moves`` that of each; it is relayed (``worker.pumps``), if that is worth it for its pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

import trio

from poolproxy.ipc.messages import Gather, PoolKey, Unrelay
from poolproxy.relay.client import Client
from poolproxy.relay.client_state import can_be_relayed, is_quiet
from poolproxy.relay.tls import TlsConnection
from poolproxy.worker import client_moves
from poolproxy.worker.client_moves import BATCH, CATCH_EVERY, MOST_IN_FLIGHT
from poolproxy.worker.pumps import ASK_EVERY
from poolproxy.worker.worker import HERE, Worker


def begin(worker: Worker, order: Gather) -> None:
    """Obey the order."""
    key = order.pool
    if order.home < 0:
        worker.homes.pop(key, None)
    else:
        worker.homes[key] = order
    if order.lone:
        worker.lane.lone.add(key)
    else:
        worker.lane.lone.discard(key)
    pool = worker.pools.get(key)
    if pool is None:
        return
    worker.apply_orders(pool)
    if _goes(worker, pool.key) and not pool.session_mode:
        clients = [client for client in worker.clients.values() if client.pool is pool]
        if clients:
            worker.start(_sweep, worker, clients)


def _goes(worker: Worker, key: PoolKey) -> bool:
    return worker.home_of(key) != HERE


def unrelay(worker: Worker, message: Unrelay) -> None:
    """Send clients back to the worker that has their connections."""
    worker.start(_send_back, worker, message)


async def _send_back(worker: Worker, message: Unrelay) -> None:
    """As each is quiet; the others are asked for again."""
    last = monotonic() + ASK_EVERY
    known = (worker.clients.get(id) for id in message.clients)
    left = [client for client in known if client is not None and client.relayed is not None]
    while left and monotonic() < last and not worker.leaving:
        left = [client for client in left if worker.clients.get(client.id) is client]
        quiet = [client for client in left if is_quiet(client)]
        for client in quiet[:BATCH] if not _is_full(worker) else ():
            client_moves.send(worker, client, message.target)
        await trio.sleep(CATCH_EVERY)


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
    if _is_relayed_there(worker, client):
        return worker.homes[client.pool.key].relay and can_be_relayed(client)
    return is_quiet(client)


def _is_relayed_there(worker: Worker, client: Client) -> bool:
    """Whether its connection stays here. One that is relayed already has left that elsewhere."""
    if client.relayed is not None:
        return False
    may_go = worker.config.settings.client_moves or worker.departing.for_good
    return isinstance(client, TlsConnection) or not may_go


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
        client_moves.send(
            worker, client, worker.home_of(pool.key), relay=_is_relayed_there(worker, client)
        )
