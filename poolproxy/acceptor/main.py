"""The acceptor process from start to end."""

from __future__ import annotations

import logging
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TextIO

import trio

import poolproxy
from poolproxy import log as logs
from poolproxy.acceptor import facts
from poolproxy.acceptor.accepting import accept_forever
from poolproxy.acceptor.departure import depart
from poolproxy.acceptor.doors import Doors, open_doors
from poolproxy.acceptor.health import health, keep_manager_informed
from poolproxy.acceptor.http import preload, serve_http
from poolproxy.acceptor.hub import Hub
from poolproxy.acceptor.listeners import Listener
from poolproxy.acceptor.pidfile import PidFile
from poolproxy.acceptor.reload import Reloader, worker_count
from poolproxy.acceptor.resolver import Lookup, look_up
from poolproxy.acceptor.signals import heed_signals, ignore_until_heeded
from poolproxy.acceptor.supervisor import Supervisor
from poolproxy.acceptor.system import raise_descriptor_limit, warn_of_few_descriptors
from poolproxy.acceptor.systemd import Manager, inherited_sockets
from poolproxy.acceptor.workers import COMMAND, State, oldest_due
from poolproxy.errors import ConfigError
from poolproxy.settings.files import LoadedConfig

if TYPE_CHECKING:
    from poolproxy.acceptor.http_app import Scrape
    from poolproxy.admin.exporter import Exporter
    from poolproxy.metrics.exposition import Exposition

log = logging.getLogger("poolproxy.acceptor")

CANNOT_START, CANNOT_BOOT = 1, 3
EXPIRE_EVERY = 1.0
REBALANCE_EVERY = 0.2
# How long the thread that encodes a scrape may keep the interpreter from the loop. Python's own 5 ms add up,
# as a server connection takes several messages: with 600 pools, scraped without pause, those who needed the
# ledger waited 171 ms in the 99th percentile, and 76 ms with this.
SWITCH_SECONDS = 0.0005


class Early(Protocol):
    """Where a start is told that will not have stderr for its log."""

    early: TextIO

    def settle(self) -> None:
        """The start is over; nothing is written to ``early`` any more."""


def run(loaded: LoadedConfig, command: Sequence[str] = COMMAND, early: Early | None = None) -> int:
    """Run the pooler until it is told to leave; returns the exit status.

    0 when it left, 1 when it could not start (an address in use, say), 3 when no worker could.
    """
    settings = loaded.config.settings
    pidfile = PidFile(settings.pidfile)

    def ready() -> None:
        pidfile.write()
        if early is not None:
            logs.set_up(settings)
            early.settle()

    ignore_until_heeded()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        logs.set_up(settings, early=early.early if early is not None else None)
        pidfile.claim()
        return trio.run(partial(serve, loaded, command, ready=ready))
    except ConfigError as error:
        _tell(error)
        return CANNOT_START
    finally:
        pidfile.remove()


def _tell(error: ConfigError) -> None:
    for mistake in error.mistakes:
        log.critical("%s", mistake)


async def serve(
    loaded: LoadedConfig,
    command: Sequence[str] = COMMAND,
    lookup: Lookup = look_up,
    ready: Callable[[], None] = lambda: None,
) -> int:
    """The same inside trio; ``lookup`` resolves the names of servers, ``ready`` is called when
    clients can come in.

    Raises ConfigError for what the system refuses.
    """
    settings = loaded.config.settings
    for note in loaded.notes:
        log.warning("%s", note)
    manager = Manager(os.environ)
    max_fds = raise_descriptor_limit()
    warn_of_few_descriptors(max_fds, settings.max_client_conn)
    doors = open_doors(settings, inherited_sockets(os.environ))
    try:
        async with trio.open_nursery() as nursery:
            hub = Hub(loaded, nursery, lookup)
            hub.reports.loaded(loaded, hub.generation)
            hub.reports.proxy.max_fds = max_fds
            try:
                supervisor = Supervisor(hub, nursery, command)
                status = await _live(hub, doors, manager, supervisor, ready)
                nursery.cancel_scope.cancel()
            finally:
                hub.host.close()
    finally:
        doors.close()
    return status


async def _live(
    hub: Hub, doors: Doors, manager: Manager, supervisor: Supervisor, ready: Callable[[], None]
) -> int:
    nursery = supervisor.nursery
    hub.reload = Reloader(hub, doors, supervisor, manager)
    await nursery.start(
        heed_signals,
        partial(_leave, hub),
        lambda: hub.leaving,
        hub.reload,
        lambda command: nursery.start_soon(hub.desk.order, command),
    )
    nursery.start_soon(hub.host.keep_time)
    nursery.start_soon(hub.resolver.keep_fresh)
    if doors.metrics:
        nursery.start_soon(trio.to_thread.run_sync, preload)
    if not await supervisor.boot(worker_count(hub.loaded.config.settings)):
        if supervisor.failure:
            log.critical("%s", supervisor.failure)
            return CANNOT_BOOT
        return await depart(hub, doors, manager)
    nursery.start_soon(_expire_forever, hub)
    nursery.start_soon(hub.desk.keep_averages)
    nursery.start_soon(_rebalance_forever, hub)
    nursery.start_soon(_recycle_forever, hub)
    nursery.start_soon(supervisor.spare.keep)
    nursery.start_soon(keep_manager_informed, manager, hub, supervisor)
    await _let_in(hub, doors, supervisor)
    try:
        ready()
    except ConfigError as error:
        _tell(error)
        return CANNOT_START
    python = f"Python {platform.python_version()}"
    count = len(hub.workers)
    log.info("process up: poolproxy %s, %s, %d workers", poolproxy.__version__, python, count)
    manager.ready()
    while not hub.leaving:
        await hub.workers.changed.wait()
    return await depart(hub, doors, manager)


async def _let_in(hub: Hub, doors: Doors, supervisor: Supervisor) -> None:
    entrance = hub.entrance

    async def accept(listener: Listener) -> None:
        await accept_forever(listener, entrance.take, entrance.room, hub.reports.proxy)

    await doors.open(
        supervisor.nursery,
        accept=accept,
        serve=partial(serve_http, scrapes=_scrapes(hub), health=partial(health, hub, supervisor)),
        take=entrance.take,
    )


def _leave(hub: Hub, mode: str) -> None:
    """Leave by a signal. TERM drains where there is a time for that, and else waits, as PgBouncer does."""
    drains = mode == "clients" and hub.loaded.config.settings.shutdown_timeout
    hub.leave("drain" if drains else mode)


async def _expire_forever(hub: Hub) -> None:
    while True:
        await trio.sleep(EXPIRE_EVERY)
        hub.cancelling.expire()
        logs.sum_up()


async def _recycle_forever(hub: Hub) -> None:
    last = -math.inf
    while True:
        await trio.sleep(EXPIRE_EVERY)
        settings, now = hub.loaded.config.settings, time.monotonic()
        worker = oldest_due(hub.workers, settings.worker_max_lifetime, last, now)
        if worker is not None and not hub.leaving and hub.recycle(worker):
            last = now


async def _rebalance_forever(hub: Hub) -> None:
    while True:
        await trio.sleep(REBALANCE_EVERY)
        hub.moves.rebalance()


def _scrapes(hub: Hub) -> dict[str, Scrape]:
    return {"/metrics": partial(_scrape, hub), "/metrics/pgbouncer": partial(_exported, hub)}


async def _exported(hub: Hub) -> Exporter:
    from poolproxy.admin.exporter import Exporter  # prometheus_client: see acceptor.http

    await hub.reports.collect(hub.workers)
    return Exporter(facts.view(hub))


async def _scrape(hub: Hub) -> Exposition:
    from poolproxy.metrics.exposition import Exposition  # prometheus_client: see acceptor.http

    await hub.reports.collect(hub.workers)
    proxy = hub.reports.proxy
    proxy.clients = hub.clients.count
    proxy.permits_granted = hub.host.granted
    proxy.permits_returned = hub.host.returned
    proxy.permits_timed_out = hub.host.timed_out
    proxy.imbalance = hub.moves.balance().imbalance
    for state in (State.STARTING, State.READY, State.LEAVING):
        proxy.workers[state.value] = len(hub.workers.in_state(state))
    return Exposition(proxy, hub.reports.totals.view(hub.host.metrics()))
