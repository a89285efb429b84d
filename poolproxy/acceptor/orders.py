"""Carries out the console's orders: pure code (``pool.holds``) decides what they mean, workers do it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from poolproxy.acceptor.workers import Worker
from poolproxy.admin.command import Call, console_error
from poolproxy.errors import Mistake
from poolproxy.ipc.messages import Command, Done, Hold
from poolproxy.pool.holds import Holds, Refused
from poolproxy.settings.config import RESERVED, TEMPLATE
from poolproxy.settings.enums import Reload
from poolproxy.settings.field import settings_of
from poolproxy.settings.schema import Settings

if TYPE_CHECKING:
    from poolproxy.acceptor.console import Desk, Rows, Running

log = logging.getLogger("poolproxy.acceptor")

MODES = {"WAIT_FOR_CLIENTS": "clients", "WAIT_FOR_SERVERS": "servers"}
CLOSE_NEEDED = "CLOSE_NEEDED"  # what Inspect asks for WAIT_CLOSE
DRAIN_SECONDS = 60.0  # for DRAIN where shutdown_timeout is not set
LOOK = 0.1  # seconds between two looks at what WAIT_CLOSE waits for
# For a client that may have moved on each time; none moves that often in so little time.
MOST_LOOKS = 5
# Longer than a busy worker takes to answer; one that is stuck is killed some time.
WORKER_PATIENCE = 5.0


@attrs.frozen
class Outcome:
    """How a command has ended, as ConsoleEnd tells it."""

    tag: str
    notice: str = ""
    close: bool = False


@attrs.frozen
class Orders:
    """The orders of one console client."""

    desk: Desk
    running: Running | None

    async def execute(self, call: Call) -> Outcome:
        """Do what the order says; raises PoolerError for the client."""
        verb, argument = call.command.verb, call.argument  # type: ignore[union-attr]
        if self.desk.hub.leaving and verb in ("PAUSE", "SUSPEND", "RESUME", "KILL"):
            raise console_error("pooler is shutting down", "57P03")
        if verb == "SET":
            return await self._set(call)
        if verb == "SHUTDOWN":
            return self._shutdown(call)
        try:
            await _DO[verb](self, argument)
        except Refused as error:
            raise console_error(str(error)) from None
        return Outcome(call.tag)

    # -- configuration and leaving ----------------------------------------------------------------

    async def _reload(self, _: str) -> None:
        if await self.desk.hub.reload(None):
            raise console_error(
                "RELOAD failed, see logs for additional details",
                "F0000",
                hint="The old configuration stays in use.",
            )

    async def _set(self, call: Call) -> Outcome:
        hub = self.desk.hub
        settings = {**hub.loaded.overrides.settings, call.argument: call.value}
        mistakes = _why_not(call.argument) or await hub.reload(settings)
        if mistakes:
            raise console_error("SET failed", hint="; ".join(m.text for m in mistakes))
        return Outcome(call.tag)

    def _shutdown(self, call: Call) -> Outcome:
        mode = MODES.get(call.argument.upper(), "now")
        self.desk.hub.leave(mode)
        return Outcome(call.tag, close=mode == "now")

    # -- pausing ----------------------------------------------------------------------------------

    async def _pause(self, database: str) -> None:
        holds = self.desk.hub.holds
        if database in RESERVED:
            raise Refused(f"cannot pause admin db: {database}")
        self._demand(database)
        before = holds.copy()
        holds.pause(database)
        try:
            await self._hold()
            await self.desk.hub.host.until_quiet(database, lambda: _stops(holds, database))
        except trio.Cancelled:
            # Who gives up waiting does not want it any more.
            if not _stops(before, database) and _stops(holds, database):
                holds.resume(database)
                self.desk.post_holds()
            raise
        if not _stops(holds, database):
            raise Refused("PAUSE was ended by RESUME")

    async def _resume(self, database: str) -> None:
        holds = self.desk.hub.holds
        if database not in holds.databases:
            self._demand(database)
        holds.resume(database)
        await self._hold()

    async def _suspend(self, _: str) -> None:
        holds = self.desk.hub.holds
        holds.suspend()
        if self.running is not None:
            self.desk.suspender = self.running
        try:
            timeout = self.desk.hub.loaded.config.settings.suspend_timeout
            await self._hold(WORKER_PATIENCE + timeout)
        except trio.Cancelled:
            self.desk.end_suspension()
            raise

    async def _disable(self, database: str) -> None:
        self._demand(database)
        self.desk.hub.holds.disable(database)
        await self._hold()

    async def _enable(self, database: str) -> None:
        self._demand(database)
        self.desk.hub.holds.enable(database)
        self.desk.hub.end_drain(database)
        await self._hold()

    async def _drain(self, database: str) -> None:
        self._demand(database)
        hub = self.desk.hub
        hub.drain(database, hub.loaded.config.settings.shutdown_timeout or DRAIN_SECONDS)

    async def _hold(self, patience: float = WORKER_PATIENCE) -> None:
        """Put what holds into effect, everywhere."""
        self.desk.hub.host.hold(self.desk.hub.holds)
        await self._all(lambda _, request: self.desk.hold_message(request), patience)
        self.desk.hub.workers.notify()

    # -- servers and clients ----------------------------------------------------------------------

    async def _reconnect(self, database: str) -> None:
        self._demand(database)
        self.desk.hub.host.reconnect(database)
        await self._all(lambda _, request: Command(request, "RECONNECT", database), WORKER_PATIENCE)

    async def _wait_close(self, database: str) -> None:
        self._demand(database)
        while True:
            waits = False

            async def look(rows: Rows) -> None:
                nonlocal waits
                waits = waits or any(database in ("", row[0]) for row in rows)

            for worker in self.desk.asked():
                # One that does not answer may have some.
                waits = not await self.desk.inspect(worker, CLOSE_NEEDED, look) or waits
            if not waits:
                return
            await trio.sleep(LOOK)

    async def _kill(self, database: str) -> None:
        hub = self.desk.hub
        if database in RESERVED:
            raise Refused(f"cannot kill admin db: {database}")
        self._demand(database)
        used = {row.pool.database for row in hub.host.statistics()}
        known = {database} if database else {*hub.loaded.config.databases, *used} - {TEMPLATE}
        hub.holds.kill(known, everything=not database)
        await self._hold()
        await self._all(partial(_kill, database), WORKER_PATIENCE)

    async def _kill_client(self, argument: str) -> None:
        id = int(argument.removeprefix("C-"))
        with trio.move_on_after(WORKER_PATIENCE):
            # It may be on its way: that it has left a worker, or was refused there, is heard before that
            # worker's answer.
            for _ in range(MOST_LOOKS):
                if await self._ends(id):
                    return
        raise Refused("client not found")

    async def _ends(self, client: int) -> bool:
        """Whether the worker that is known to have it now has ended it."""
        worker = self.desk.hub.worker_of(client)
        if worker is None:
            return False
        command = Command(self.desk.next_request(), "KILL_CLIENT", str(client))
        answer = await self.desk.ask(worker, command)
        return isinstance(answer, Done) and answer.count > 0

    async def _recycle(self, argument: str) -> None:
        for worker in self.desk.asked():
            if worker.slot == int(argument) and self.desk.hub.recycle(worker):
                return
        raise Refused(f"worker {argument} can't be replaced now")

    async def _all(self, make: Callable[[Worker, int], Hold | Command], patience: float) -> None:
        """Tell all workers, and wait for those that comply in time; the message reaches the others, too.

        All messages are made before any is sent, see :func:`_kill`.
        """
        workers = tuple(self.desk.hub.workers)
        messages = [make(worker, self.desk.next_request()) for worker in workers]
        async with trio.open_nursery() as nursery:
            for worker, message in zip(workers, messages, strict=True):
                nursery.start_soon(self.desk.ask, worker, message, patience)

    def _demand(self, database: str) -> None:
        if database and self.desk.hub.loaded.config.database(database) is None:
            raise Refused(f"no such database: {database}")


def _why_not(name: str) -> Sequence[Mistake]:
    """Why this setting can't be changed on the console, whatever its value is."""
    setting = next((one for one in settings_of(Settings) if one.name == name), None)
    if setting is not None and setting.reload is Reload.RESTART:
        return [Mistake("SET", f"{name} takes effect by a restart only: change it in the file")]
    return []


def _kill(database: str, worker: Worker, request: int) -> Command:
    # Before another worker can have read its one: a client must not go there past the order.
    worker.kills[request] = database
    return Command(request, "KILL", database)


def _stops(holds: Holds, database: str) -> bool:
    return holds.stops(database) if database else holds.paused


_DO: dict[str, Callable[[Orders, str], Awaitable[None]]] = {
    "RELOAD": Orders._reload,
    "PAUSE": Orders._pause,
    "RESUME": Orders._resume,
    "SUSPEND": Orders._suspend,
    "DISABLE": Orders._disable,
    "ENABLE": Orders._enable,
    "DRAIN": Orders._drain,
    "RECONNECT": Orders._reconnect,
    "WAIT_CLOSE": Orders._wait_close,
    "KILL": Orders._kill,
    "KILL_CLIENT": Orders._kill_client,
    "RECYCLE WORKER": Orders._recycle,
}
