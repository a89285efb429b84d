"""A worker process in reserve: it has imported all it needs, and waits to be told which worker it is.

Importing is most of what the start of a worker takes, about 0.8 s of a processor. With a spare a worker that
dies, or is to be replaced, has a successor at once, also while the machine is busy. Until then the spare has
no number, no slot and no configuration, and no figure counts it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import attrs
import trio

from poolproxy.acceptor.workers import State, Workers
from poolproxy.ipc.channel import Channel

log = logging.getLogger("poolproxy.acceptor")

# The first one is started when the clients that have waited for the pooler have come in.
FIRST_AFTER = 5.0
# After one that ended unused: if there is something wrong, starting workers finds out what.
REST = 30.0


@attrs.frozen(eq=False)
class Process:
    """A worker's process, and our end of the channel to it."""

    process: trio.Process
    channel: Channel

    async def end(self) -> None:
        """Kill it."""
        with trio.CancelScope(shield=True):
            self.process.kill()
            await self.process.wait()
            self.channel.close()


class Spare:
    """Has a process that ``spawn`` has started, as long as ``wanted`` says so; asked whenever the workers
    change.
    """

    def __init__(
        self,
        spawn: Callable[[], Awaitable[Process]],
        wanted: Callable[[], bool],
        workers: Workers,
    ) -> None:
        self._spawn = spawn
        self._wanted = wanted
        self._workers = workers
        self._one: Process | None = None

    def take(self) -> Process | None:
        """The spare, which is the caller's then; None if there is none now."""
        one = self._one
        if one is None or one.process.returncode is not None:
            return None
        self._one = None
        self._workers.notify()
        return one

    async def keep(self) -> None:
        """See to it that there is one. Runs for ever."""
        await trio.sleep(FIRST_AFTER)
        while True:
            while not self._wanted() or self._workers.in_state(State.STARTING):
                await self._workers.changed.wait()
            try:
                one = await self._spawn()
            except OSError as error:
                log.warning("can't start a spare worker: %s", error)
                await trio.sleep(REST)
                continue
            self._one = one
            try:
                await self._hold(one)
            finally:
                unused = self._one is one
                if unused:
                    self._one = None
                    ended = one.process.returncode
                    await one.end()
            if unused and ended is not None:
                log.warning("the spare worker has ended: exit status %d", ended)
                await trio.sleep(REST)

    async def _hold(self, one: Process) -> None:
        """Return when it was taken, is not wanted any more, or has ended."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await one.process.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            while self._one is one and self._wanted():
                await self._workers.changed.wait()
            nursery.cancel_scope.cancel()
