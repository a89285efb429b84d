"""Time-outs, and what else goes by the clock.

Nothing here has a timer of its own: a timer for each client would cost more than looking at those
that can be late. Waiting clients are a queue, so the first ones are the late ones; linked clients are
at most as many as servers; idle clients are looked at only where client_idle_timeout is set.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from time import monotonic, process_time

import trio

from poolproxy import log as logs
from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Load
from poolproxy.metrics.registry import BOUNDS
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.relay.server import Server
from poolproxy.relay.session import is_unused
from poolproxy.worker import (
    draining,
    fast_close,
    gathering,
    leaving,
    parting,
    patience,
    pumps,
    queue_notice,
)
from poolproxy.worker.replication import make_way
from poolproxy.worker.session import unblock
from poolproxy.worker.worker import Worker

LOAD_EVERY = 0.2  # seconds; the acceptor measures over half a second
BUSY = 0.003  # seconds of processor time in a tick: then the load is told with each
TICK = 0.1  # seconds; wants are reported as often, time-outs are as exact


def _timeout(message: str, setting: str, sqlstate: str = "08P01") -> PoolerError:
    return PoolerError(
        message,
        sqlstate=sqlstate,
        hint=f"The limit is {setting}; raise it, or find out what takes so long.",
        reason=setting,
    )


QUERY_WAIT_TIMEOUT = PoolerError(
    "query_wait_timeout",
    sqlstate="08006",
    hint="No server connection became free within query_wait_timeout: raise pool_size, or look for long"
    " transactions that hold the pool's servers.",
    reason="query_wait_timeout",
)
WAITING_QUERY_TIMEOUT = _timeout("query_timeout", "query_timeout", "57014")
QUERY_TIMEOUT = _timeout("query timeout", "query_timeout", "57014")
TRANSACTION_TIMEOUT = _timeout("transaction timeout", "transaction_timeout")
IDLE_TRANSACTION_TIMEOUT = _timeout("idle transaction timeout", "idle_transaction_timeout")
CLIENT_IDLE_TIMEOUT = _timeout("client_idle_timeout", "client_idle_timeout", "57P05")


async def keep_house(worker: Worker) -> None:
    """Run for as long as the worker does."""
    worker.may_leave = partial(consider, worker)
    while True:
        due = trio.current_time() + TICK
        await trio.sleep_until(due)
        _note_lag(worker, max(0.0, trio.current_time() - due))
        tick(worker, monotonic())


async def tell_departures(worker: Worker) -> None:
    """Report clients that have gone, all those of one turn of the relay in one message.

    Not with the tick: clients that reconnect for each transaction leave in hundreds within one, and
    would be counted against max_client_conn beside their successors.
    """
    while True:
        await worker.departures.wait()
        worker.departures = trio.Event()
        worker.report_gone()


def _note_lag(worker: Worker, lag: float) -> None:
    metrics = worker.metrics
    metrics.loop_lag += lag
    metrics.loop_lag_hist[bisect_left(BOUNDS, lag)] += 1
    metrics.loop_lag_max = max(metrics.loop_lag_max, lag)


def tick(worker: Worker, now: float) -> None:
    """One round."""
    if worker.held.suspended:
        return
    for pool in list(worker.pools.values()):
        pool.count()
        _waiting(pool, now)
        queue_notice.ask(worker, pool, now)
        _servers(pool, now)
        for server, reason in pool.to_close(now, worker.config.settings.server_idle_timeout):
            server.end(reason)
        fast_close.tick(worker, pool, now)
        unblock(worker, pool)
        make_way(worker, pool)
        want = pool.refreshed_want()
        if want is not None:
            worker.channel.post(want)
        if pool.forgotten(now):
            del worker.pools[pool.key]
    for closing in [c for c in worker.closings if now >= c.deadline]:
        closing.end(clean=False)
    logs.sum_up()
    _idle_clients(worker, now)
    _tell_load(worker, now)
    patience.enforce(worker, now)
    parting.tick(worker, now)
    pumps.tick(worker, now)
    draining.tick(worker, now)
    leaving.look(worker)


def consider(worker: Worker, client: Client) -> None:
    """A transaction of a client has just ended: is this a moment to send it away?"""
    if worker.clients.get(client.id) is client:  # else it is one of our own, see worker.lookup
        now = monotonic()
        fast_close.consider(worker, client, now)
        draining.consider(worker, client, now)
        gathering.consider(worker, client)


def _tell_load(worker: Worker, now: float) -> None:
    used, told = process_time(), worker.load_told
    if now - told.at >= LOAD_EVERY or used - told.cpu >= BUSY:
        worker.load_told = Load(now, used)
        if not worker.channel.full:
            worker.channel.post(worker.load_told)


def _waiting(pool: Pool, now: float) -> None:
    query_timeout = pool.settings.query_timeout
    for client in list(pool.waiting):
        limit = client.settings.query_wait_timeout
        waited = now - client.wait_since
        if limit and waited >= limit:
            client.fail(QUERY_WAIT_TIMEOUT)
        elif query_timeout and waited >= query_timeout:
            client.fail(WAITING_QUERY_TIMEOUT)
        elif waited < TICK:
            return  # the others have come later


def _servers(pool: Pool, now: float) -> None:
    for server in list(pool.servers):
        if server.client is not None:
            error = None if server.endless else _why_late(pool, server, now)
            if error is not None:
                server.client.fail(error)
        elif server.task is not None and now - server.task.since > server.task.limit:
            server.task.late(server, now)


def _why_late(pool: Pool, server: Server, now: float) -> PoolerError | None:
    settings = pool.settings
    if 0 < settings.query_timeout <= now - server.query_since and server.query_since:
        return QUERY_TIMEOUT
    if not server.xact_since:
        return None
    if 0 < settings.transaction_timeout <= now - server.xact_since:
        return TRANSACTION_TIMEOUT
    idle = not server.query_since and now - server.last_activity
    if idle and 0 < settings.idle_transaction_timeout <= idle:
        return IDLE_TRANSACTION_TIMEOUT
    return None


def _idle_clients(worker: Worker, now: float) -> None:
    if not worker.idle_limits:
        return
    for client in list(worker.clients.values()):
        if _idle_too_long(client, now):
            client.fail(CLIENT_IDLE_TIMEOUT)


def _idle_too_long(client: Client, now: float) -> bool:
    limit = client.settings.client_idle_timeout
    return bool(
        limit
        and now - client.last_activity >= limit
        and (client.server is None or is_unused(client))
        and not client.wait_since
    )
