"""The acceptor process from start to end."""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Sequence
from functools import partial

import attrs
import trio
from prometheus_client.registry import Collector

import poolproxy
from poolproxy import log as logs
from poolproxy.acceptor.accepting import accept_forever
from poolproxy.acceptor.http import Health, listen, serve_http
from poolproxy.acceptor.hub import Hub
from poolproxy.acceptor.listeners import Listener, open_listeners
from poolproxy.acceptor.reload import reload
from poolproxy.acceptor.signals import heed_signals, ignore_until_heeded
from poolproxy.acceptor.supervisor import Supervisor
from poolproxy.acceptor.system import (
    become,
    find_account,
    raise_descriptor_limit,
    warn_of_few_descriptors,
)
from poolproxy.acceptor.workers import COMMAND, State
from poolproxy.errors import ConfigError
from poolproxy.metrics.exposition import Exposition
from poolproxy.settings.files import LoadedConfig
from poolproxy.settings.schema import Settings

log = logging.getLogger("poolproxy.acceptor")

OK, CANNOT_START, CANNOT_BOOT = 0, 1, 3
# What workers get to close all when they are told to leave at once, and PostgreSQL to end what they
# have left behind.
NOW_SECONDS = 3.0
EXPIRE_EVERY = 1.0


def run(loaded: LoadedConfig, command: Sequence[str] = COMMAND) -> int:
    """Run the pooler until it is told to leave; returns the exit status.

    0 when it left, 1 when it could not start (an address in use, say), 3 when no worker could.
    """
    ignore_until_heeded()
    try:
        logs.set_up(loaded.config.settings)
        return trio.run(partial(serve, loaded, command))
    except ConfigError as error:
        for mistake in error.mistakes:
            log.critical("%s", mistake)
        return CANNOT_START


@attrs.define(eq=False)
class Doors:
    """The listening sockets: of clients and of metrics."""

    clients: list[Listener]
    metrics: list[socket.socket]

    def close(self) -> None:
        self.close_to_clients()
        for sock in self.metrics:
            sock.close()

    def close_to_clients(self) -> None:
        while self.clients:
            self.clients.pop().close()


async def serve(loaded: LoadedConfig, command: Sequence[str] = COMMAND) -> int:
    """The same inside trio. Raises ConfigError for what the system refuses."""
    settings = loaded.config.settings
    for note in loaded.notes:
        log.warning("%s", note)
    max_fds = raise_descriptor_limit()
    warn_of_few_descriptors(max_fds, settings.max_client_conn)
    doors = _open_doors(settings)
    try:
        async with trio.open_nursery() as nursery:
            hub = Hub(loaded, nursery)
            hub.reports.loaded(loaded, hub.generation)
            hub.reports.proxy.max_fds = max_fds
            try:
                status = await _live(hub, doors, command, nursery)
                nursery.cancel_scope.cancel()
            finally:
                hub.host.close()
    finally:
        doors.close()
    return status


def _open_doors(settings: Settings) -> Doors:
    account = find_account(settings.user) if settings.user else None
    doors = Doors(open_listeners(settings), [])
    try:
        address = settings.metrics_listen
        if address is not None:
            doors.metrics = listen(address.host, address.port)
        if account is not None:
            for listener in doors.clients:
                if listener.path and os.geteuid() == 0:
                    # Its owner may remove it from a folder such as /tmp when we end.
                    os.chown(listener.path, account.uid, -1)
            become(account)
    except BaseException:
        doors.close()
        raise
    return doors


async def _live(hub: Hub, doors: Doors, command: Sequence[str], nursery: trio.Nursery) -> int:
    settings = hub.loaded.config.settings
    count = settings.workers or len(os.sched_getaffinity(0))
    await nursery.start(heed_signals, hub.leave, lambda: hub.leaving, partial(reload, hub))
    nursery.start_soon(hub.host.keep_time)
    supervisor = Supervisor(hub, command)
    if not await supervisor.boot(count, nursery):
        if supervisor.failure:
            log.critical("%s", supervisor.failure)
            return CANNOT_BOOT
        return await _depart(hub)
    nursery.start_soon(_expire_forever, hub)
    nursery.start_soon(hub.desk.keep_averages)
    if doors.metrics:
        serve_metrics = partial(
            serve_http, scrape=partial(_scrape, hub), health=partial(_health, hub)
        )
        await nursery.start(serve_metrics, doors.metrics)
        doors.metrics = []  # serve_http closes them
    _announce(doors, count)
    async with trio.open_nursery() as accepting:
        for listener in doors.clients:
            accepting.start_soon(accept_forever, listener, hub.take, hub.room, hub.reports.proxy)
        while not hub.leaving:
            await hub.workers.changed.wait()
        accepting.cancel_scope.cancel()
    doors.close_to_clients()
    return await _depart(hub)


def _announce(doors: Doors, count: int) -> None:
    for listener in doors.clients:
        log.info("listening on %s", listener.name)
    python = f"Python {platform.python_version()}"
    log.info("process up: poolproxy %s, %s, %d workers", poolproxy.__version__, python, count)


async def _depart(hub: Hub) -> int:
    """Wait until the workers have left, as long as the mode and shutdown_timeout allow."""
    settings = hub.loaded.config.settings
    with trio.move_on_after(settings.shutdown_timeout or float("inf")) as patience:
        while len(hub.workers) and hub.leaving != "now":
            await hub.workers.changed.wait()
    if patience.cancelled_caught:
        log.warning(
            "clients are still here after shutdown_timeout (%g s)", settings.shutdown_timeout
        )
        hub.leave("now")
    with trio.move_on_after(NOW_SECONDS):
        while len(hub.workers) or hub.host.endings:
            await hub.workers.changed.wait()
    if hub.leaving != "now":
        while hub.host.endings and hub.leaving != "now":
            await hub.workers.changed.wait()
    log.info("server shut down")
    return OK


async def _expire_forever(hub: Hub) -> None:
    while True:
        await trio.sleep(EXPIRE_EVERY)
        hub.expire()
        logs.sum_up()


async def _scrape(hub: Hub) -> Collector:
    await hub.reports.collect(hub.workers)
    proxy = hub.reports.proxy
    proxy.clients = hub.clients.count
    proxy.permits_granted = hub.host.granted
    proxy.permits_returned = hub.host.returned
    proxy.permits_timed_out = hub.host.timed_out
    for state in (State.STARTING, State.READY, State.LEAVING):
        proxy.workers[state.value] = len(hub.workers.in_state(state))
    return Exposition(proxy, hub.reports.totals.view(hub.host.metrics()))


def _health(hub: Hub) -> Health:
    if hub.leaving:
        return Health(unready="shutting down")
    if not hub.workers.in_state(State.READY):
        return Health(unready="no worker is ready")
    return Health()
