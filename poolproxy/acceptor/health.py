"""Whether all is well: for the probes, and for the service manager's watchdog."""

from __future__ import annotations

import time
from collections.abc import Sequence

import trio

from poolproxy.acceptor.http_app import Health
from poolproxy.acceptor.hub import Hub
from poolproxy.acceptor.supervisor import Supervisor
from poolproxy.acceptor.systemd import Manager
from poolproxy.acceptor.workers import State
from poolproxy.metrics.schema import PoolMetrics

STATUS_SECONDS = 10.0
UNKNOWN_DATABASE = "no such database"


def health(hub: Hub, supervisor: Supervisor, database: str) -> Health:
    """What the probes are told; with a ``database``, also whether its clients can be served."""
    ailing = supervisor.ailing(time.monotonic())
    if ailing:
        return Health(unhealthy=ailing)
    if hub.leaving:
        return Health(unready="shutting down")
    if not hub.workers.in_state(State.READY):
        return Health(unready="no worker is ready")
    return _of_database(hub, database) if database else Health()


def _of_database(hub: Hub, database: str) -> Health:
    if hub.loaded.config.database(database) is None:
        return Health(unknown=UNKNOWN_DATABASE)
    if database in hub.draining:
        return Health(unready="the database is being drained")
    return Health(unready=hub.host.failing(database))


async def keep_manager_informed(manager: Manager, hub: Hub, supervisor: Supervisor) -> None:
    """Tell the service manager how things are, for as long as we run.

    A sign of life is sent by the same loop that accepts clients, and only while no worker is ailing; twice
    as often as is asked for.
    """
    if not manager.listens:
        return
    period = min(STATUS_SECONDS, manager.watchdog / 2 or STATUS_SECONDS)
    status = Status(hub)
    while True:
        now = time.monotonic()
        if manager.watchdog and not supervisor.ailing(now):
            manager.alive()
        if now >= status.due:
            # In a thread: there may be many pools.
            merged = await trio.to_thread.run_sync(hub.reports.totals.view().merged)
            manager.status(status.text(merged.pools, now))
        await trio.sleep(period)


class Status:
    """The line that ``systemctl status`` shows. ``due``: when the next one is."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._counted = (0, 0)
        self._since = time.monotonic()
        self.due = self._since

    def text(self, pools: Sequence[PoolMetrics], now: float) -> str:
        """The line for the time since the last one."""
        hub = self._hub
        counted = (sum(p.xact_count for p in pools), sum(p.query_count for p in pools))
        seconds = max(now - self._since, 0.001)
        xacts, queries = (
            (new - old) / seconds for new, old in zip(counted, self._counted, strict=True)
        )
        self._counted, self._since, self.due = counted, now, now + STATUS_SECONDS
        state = "draining, " if hub.leaving else ""
        ready = len(hub.workers.in_state(State.READY))
        waiting = sum(pool.clients["waiting"] for pool in pools)
        return (
            f"{state}{ready} workers, {hub.clients.count} clients ({waiting} waiting), "
            f"{hub.host.held} server connections, {xacts:.0f} xacts/s, {queries:.0f} queries/s"
        )
