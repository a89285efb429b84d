"""Keeps a worker alive in each slot: starts it, watches it, buries it, starts the next one.

When its process has ended, what it had not read is taken back; with that its channel ends, once all that it
had said is heard. Only then are its clients forgotten and its servers ended; the clients of which it had not
read yet are given to others.
"""

from __future__ import annotations

import itertools
import logging
import subprocess
import time
from collections.abc import Sequence

import attrs
import trio

from poolproxy.acceptor.hub import Hub
from poolproxy.acceptor.spare import Process, Spare
from poolproxy.acceptor.workers import COMMAND, State, Worker, environment
from poolproxy.ipc.channel import Channel, ChannelClosed, pair
from poolproxy.ipc.codec import IpcError
from poolproxy.ipc.messages import Begin

log = logging.getLogger("poolproxy.acceptor")

BOOT_SECONDS = 30.0  # an interpreter and some imports: a slow disk may take seconds
EXIT_SECONDS = 1.0  # for a process that is not heard any more to end by itself
# Only deaths before Ready slow the restarts down: those repeat. Others cost clients, so the
# successor must be there at once.
LEFT = "left"  # in a Bye: what is expected
BACKOFF_FIRST, BACKOFF_MOST = 0.25, 5.0
# Signs that starting workers, or killing the silent, does not help any more: see Supervisor.ailing.
DOWN_SECONDS = 60.0
SILENCE_SECONDS = 10.0


@attrs.frozen
class Death:
    """How a worker ended; ``label`` is the cause as a metric's label."""

    name: str
    cause: str
    label: str
    was_ready: bool


class Supervisor:
    """Runs the workers in ``nursery``. ``failure`` tells why one could not boot at the first start.
    ``spare``: the process that is the next worker.
    """

    def __init__(self, hub: Hub, nursery: trio.Nursery, command: Sequence[str] = COMMAND) -> None:
        self._hub = hub
        self.nursery = nursery
        self._command = tuple(command)
        self._booted = False
        # The slots in use. Those that are not wanted any more go when their worker has left.
        self._slots: set[int] = set()
        self._wanted: set[int] = set()
        self._down_since: dict[int, float] = {}
        self.failure = ""
        self.spare = Spare(self._spawn, self._wants_spare, hub.workers)

    async def boot(self, count: int) -> bool:
        """Start ``count`` workers and wait until all are ready; False if one can't be."""
        self.resize(count)
        workers = self._hub.workers
        while not (self.failure or self._hub.leaving):
            if sum(worker.ready.is_set() for worker in workers) >= len(self._wanted):
                self._booted = True
                return True
            await workers.changed.wait()
        return False

    def resize(self, count: int) -> None:
        """Have ``count`` workers from now on. Those that are too many leave when their clients have."""
        surplus = sorted(self._wanted)[count:]
        self._wanted.difference_update(surplus)
        for worker in self._hub.workers:
            if worker.slot in surplus:
                self._hub.retire(worker)
        free = (slot for slot in itertools.count() if slot not in self._slots)
        for slot in itertools.islice(free, max(0, count - len(self._wanted))):
            self._wanted.add(slot)
            self._slots.add(slot)
            self.nursery.start_soon(self._keep, slot)
        self._hub.workers.notify()  # the configuration may want a spare now, or none

    def ailing(self, now: float) -> str:
        """What is so wrong with the workers that only a new start may cure it; "" if nothing is."""
        timeout = self._hub.loaded.config.settings.worker_timeout
        ready = self._hub.workers.in_state(State.READY)
        for worker in ready:
            if now - worker.heard > timeout + SILENCE_SECONDS:
                return f"{worker} is silent and was not replaced"
        for slot in sorted(self._wanted - {worker.slot for worker in ready}):
            down = now - self._down_since.get(slot, now)
            if down > DOWN_SECONDS:
                return f"worker {slot} has not been ready for {down:.0f} s"
        return ""

    async def _keep(self, slot: int) -> None:
        failures = 0
        while not self._over(slot):
            self._down_since[slot] = time.monotonic() if not failures else self._down_since[slot]
            death = await self._life(slot)
            if self._over(slot):
                break
            if death is None:
                failures = 0
                continue
            if not death.was_ready and not self._booted:
                self.failure = f"{death.name} could not start: {death.cause}"
                self._hub.workers.notify()
                return
            failures = 0 if death.was_ready else failures + 1
            delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** (failures - 1)) if failures else 0.0
            log.error("%s ended: %s; starting another in %g s", death.name, death.cause, delay)
            proxy = self._hub.reports.proxy
            proxy.worker_deaths[death.label] += 1
            proxy.worker_restarts += 1
            await trio.sleep(delay)
        self._slots.discard(slot)

    async def _life(self, slot: int) -> Death | None:
        """One worker from its start until the slot needs another; None if it lives on until that has come."""
        try:
            worker = await self._start(slot)
        except OSError as error:
            # Out of processes, memory or descriptors, or this account may not run Python.
            return Death(f"worker {slot}", f"can't run {self._command[0]}: {error}", "start", False)
        self.nursery.start_soon(self._attend, worker)
        await worker.over.wait()
        if worker.state is not State.DEAD:
            self.nursery.start_soon(self._see_off, worker)
            return None
        return Death(str(worker), _cause(worker), _label(worker), worker.ready.is_set())

    async def _see_off(self, worker: Worker) -> None:
        """Retire a worker as soon as another one can serve in its slot."""
        workers = self._hub.workers
        while (
            worker.state is State.READY
            and not self._over(worker.slot)
            and not any(
                other.slot == worker.slot and other is not worker
                for other in workers.in_state(State.READY)
            )
        ):
            await workers.changed.wait()
        self._hub.retire(worker)
        await worker.gone.wait()
        if worker.farewell == LEFT:
            log.info("%s has left", worker)
        elif not self._hub.leaving:
            log.error("%s ended before it had left: %s", worker, _cause(worker))
            self._hub.reports.proxy.worker_deaths[_label(worker)] += 1

    def _over(self, slot: int) -> bool:
        return bool(self._hub.leaving) or slot not in self._wanted

    def _wants_spare(self) -> bool:
        return self._hub.loaded.config.settings.spare_worker and not self._hub.leaving

    async def _spawn(self) -> Process:
        """A process that is no worker yet."""
        ours, theirs = pair()
        try:
            process = await trio.lowlevel.open_process(
                [*self._command, "--fd", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment(),
                # A session of its own: Ctrl-C is for the acceptor, which tells the workers.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return Process(process, Channel(ours, far_end=theirs))

    async def _start(self, slot: int) -> Worker:
        one = self.spare.take() or await self._spawn()
        number = self._hub.workers.next_number()
        now = time.monotonic()
        worker = Worker(number, slot, one.process, one.channel, heard=now, started=now)
        worker.channel.post(Begin(slot))
        worker.channel.post(self._hub.configure_message())
        worker.channel.post(self._hub.desk.hold_message())
        self._hub.workers.add(worker)
        if slot not in self._wanted:
            self._hub.retire(worker)  # a reload has changed its mind meanwhile
        log.debug("%s started", worker)
        return worker

    async def _attend(self, worker: Worker) -> None:
        """Serve the worker until it is gone, and bury it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.channel.flush_forever)
                nursery.start_soon(self._watch, worker)
                nursery.start_soon(self._see_end, worker)
                await self._listen(worker)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._bury(worker)

    async def _listen(self, worker: Worker) -> None:
        try:
            while True:
                message, fds = await worker.channel.receive()
                self._hub.handle(worker, message, fds)
        except ChannelClosed:
            worker.heard_out = True
        except IpcError as error:
            self._kill(worker, str(error))
        except Exception:
            # A mistake of ours in answering one message. Its worker's state is in doubt, and only
            # its death makes it certain again; the other workers' clients need not suffer.
            log.exception("answering %s has failed", worker)
            self._kill(worker, "its message could not be handled")

    async def _see_end(self, worker: Worker) -> None:
        # The end of the process, not of the channel, which can't end as long as its far end is kept.
        await worker.process.wait()
        _take_back(worker)

    async def _watch(self, worker: Worker) -> None:
        is_successor = self._booted
        with trio.move_on_after(BOOT_SECONDS) as boot:
            await worker.ready.wait()
        if boot.cancelled_caught:
            self._kill(worker, f"not ready within {BOOT_SECONDS:g} s")
            return
        worker.heard = asked = time.monotonic()
        if is_successor:
            log.info("%s is ready", worker)
        while True:
            timeout = self._hub.loaded.config.settings.worker_timeout
            period = min(1.0, timeout / 3)
            self._hub.reports.ask(worker)
            await trio.sleep(period)
            now = time.monotonic()
            if now - asked > 2 * period:
                # We were not running ourselves (stopped, suspended): the silence may be ours.
                worker.heard = now
            asked = now
            if now - worker.heard > timeout:
                self._kill(worker, f"silent for {timeout:g} s (worker_timeout)")
                return

    def _kill(self, worker: Worker, blame: str) -> None:
        worker.blame = worker.blame or blame
        log.error("killing %s: %s", worker, blame)
        worker.process.kill()

    async def _bury(self, worker: Worker) -> None:
        worker.state = State.DEAD
        with trio.move_on_after(EXIT_SECONDS):
            await worker.process.wait()
        if worker.process.returncode is None:
            worker.process.kill()
            await worker.process.wait()
        _take_back(worker)
        worker.channel.close()
        self._hub.worker_gone(worker)
        worker.over.set()
        worker.gone.set()


def _take_back(worker: Worker) -> None:
    worker.state = State.DEAD  # a client that it was given from now on would be lost
    worker.unread += worker.channel.take_back()


def _cause(worker: Worker) -> str:
    status = worker.process.returncode or 0
    ended = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return ", ".join(text for text in (worker.blame, worker.farewell, ended) if text)


def _label(worker: Worker) -> str:
    """The cause of a death as a metric's label: a small set."""
    status = worker.process.returncode or 0
    if worker.blame.startswith("silent"):
        return "silent"
    if worker.blame:
        return "killed"
    return "signal" if status < 0 else "exit"
