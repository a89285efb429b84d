"""How the pooler leaves: nobody comes in, clients go, workers end, PostgreSQL has closed its ends."""

from __future__ import annotations

import logging

import trio

from poolproxy.acceptor.doors import Doors
from poolproxy.acceptor.hub import Hub
from poolproxy.acceptor.systemd import Manager

log = logging.getLogger("poolproxy.acceptor")

OK = 0
# What workers get to close all when they are told to leave at once, and PostgreSQL to end what they
# have left behind.
NOW_SECONDS = 3.0


async def depart(hub: Hub, doors: Doors, manager: Manager) -> int:
    """Leave as ``hub.leaving`` says, within shutdown_timeout; returns the exit status."""
    manager.stopping()
    began = trio.current_time()
    settings = hub.loaded.config.settings
    timeout = settings.shutdown_timeout or float("inf")
    if hub.leaving == "drain":
        # /readyz has told it by now. Who spreads the clients may need a while to hear of it.
        await _until_now_or(hub, began + min(settings.shutdown_delay, timeout))
    doors.close_to_clients()
    if hub.leaving != "now":
        hub.dismiss(began + timeout - trio.current_time())
    with trio.move_on_at(began + timeout) as patience:
        while len(hub.workers) and hub.leaving != "now":
            await hub.workers.changed.wait()
    if patience.cancelled_caught:
        log.warning(
            "clients are still here after shutdown_timeout (%g s)", settings.shutdown_timeout
        )
        hub.leave("now")
    await _bury_all(hub)
    log.info("server shut down")
    return OK


async def _until_now_or(hub: Hub, deadline: float) -> None:
    with trio.move_on_at(deadline):
        while hub.leaving != "now":
            await hub.workers.changed.wait()


async def _bury_all(hub: Hub) -> None:
    with trio.move_on_after(NOW_SECONDS):
        while len(hub.workers) or hub.host.endings:
            await hub.workers.changed.wait()
    if hub.leaving != "now":
        while hub.host.endings and hub.leaving != "now":
            await hub.workers.changed.wait()
