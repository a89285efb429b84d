"""Signals, with PgBouncer's meaning: TERM waits for clients, INT for servers, QUIT and every second
one of these for nothing, HUP reads the configuration again.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable

import trio

log = logging.getLogger("poolproxy.acceptor")

MODES = {signal.SIGTERM: "clients", signal.SIGINT: "servers", signal.SIGQUIT: "now"}
ORDERS = {signal.SIGUSR1: "PAUSE", signal.SIGUSR2: "RESUME"}  # commands of the console


def ignore_until_heeded() -> None:
    """Let none of the signals end the process by itself: not before :func:`heed_signals` runs, nor
    after, when a second one may come while we are on our way out. Workers inherit it.
    """
    for number in (*MODES, *ORDERS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


async def heed_signals(
    leave: Callable[[str], None],
    leaving: Callable[[], str],
    reload: Callable[[None], Awaitable[object]],
    order: Callable[[str], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Act on signals until cancelled."""
    wanted = (*MODES, *ORDERS, signal.SIGHUP)
    with trio.open_signal_receiver(*wanted) as received:
        task_status.started()
        async for number in received:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                log.info("got SIGHUP, re-reading config")
                await reload(None)
            elif (command := ORDERS.get(signal.Signals(number))) is not None:
                log.info("got %s, %s", name, command)
                order(command)
            elif leaving():
                log.info("got %s while shutting down, fast exit", name)
                leave("now")
            else:
                leave(MODES[signal.Signals(number)])
                log.info("got %s, shutting down (%s)", name, _EXPLAINED[leaving()])


_EXPLAINED = {
    "drain": "clients are sent away between transactions",
    "clients": "waiting for all clients to leave",
    "servers": "waiting for running transactions",
    "now": "at once",
}
