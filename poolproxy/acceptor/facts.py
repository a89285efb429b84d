"""What the acceptor knows, put together for the console."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, TypeAlias

import poolproxy
from poolproxy.admin.view import CONSOLE, View, WorkerFacts
from poolproxy.ipc.messages import Command, Hold, Inspect
from poolproxy.metrics.registry import BOUNDS, copied
from poolproxy.metrics.schema import PoolMetrics

if TYPE_CHECKING:
    from poolproxy.acceptor.hub import Hub

Asking: TypeAlias = Inspect | Hold | Command

VERSION = f"PgBouncer {poolproxy.PGBOUNCER_VERSION} (poolproxy {poolproxy.__version__})"


def console_pool() -> PoolMetrics:
    """What is counted of the consoles, under PgBouncer's name for it."""
    return PoolMetrics(CONSOLE, CONSOLE)


def count(pool: PoolMetrics, took: float) -> None:
    """A command of the console has ended: it is a query and a transaction."""
    pool.query_count += 1
    pool.xact_count += 1
    pool.query_time += took
    pool.xact_time += took
    pool.query_hist[bisect_left(BOUNDS, took)] += 1
    pool.xact_hist[bisect_left(BOUNDS, took)] += 1


def rows(hub: Hub) -> tuple[PoolMetrics, ...]:
    """What workers have reported of their pools, and the consoles' own."""
    own = copied(hub.desk.own)
    own.clients["active"] = sum(hub.clients.consoles.values())
    return (*hub.reports.totals.rows(), own)


def view(hub: Hub) -> View:
    """All of it, as it is now."""
    now = time.monotonic()
    return View(
        config=hub.loaded.config,
        rows=rows(hub),
        live=hub.reports.totals.names(),
        averages=hub.desk.averages,
        ledger=hub.host.statistics(),
        workers=tuple(_workers(hub, now)),
        holds=hub.holds.copy(),
        userlist=frozenset(hub.loaded.secrets),
        database_clients=hub.clients.by_database,
        user_clients=hub.clients.by_user,
        hosts=hub.host.hosts(),
        names=hub.resolver.statistics(),
        peers=hub.cancels.peers(),
        clients=hub.clients.count,
        consoles=hub.clients.consoles,
        version=VERSION,
        now=now,
    )


def _workers(hub: Hub, now: float) -> list[WorkerFacts]:
    return [
        WorkerFacts(
            worker=worker.slot,
            pid=worker.process.pid,
            state=worker.state.value,
            clients=hub.clients.load(worker.number),
            queued=worker.channel.queued,
            silent=now - worker.heard,
            age=now - worker.started,
            metrics=hub.reports.totals.worker(worker.number),
        )
        for worker in hub.workers
    ]
