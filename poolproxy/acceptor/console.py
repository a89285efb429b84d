"""The console's desk in the acceptor: commands come up from workers, rows and ends go down.

One trio task a command. It gives its client one part of the rows after the other, each when the last one has
been taken; and it asks each worker for one part at a time. So neither a slow reader nor ten thousand rows
hold anything up but their own command, and no queue grows.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from poolproxy.acceptor import facts
from poolproxy.acceptor.orders import Orders, Outcome
from poolproxy.acceptor.workers import State, Worker
from poolproxy.admin.averages import Averages, Counts, by_database, stats_line
from poolproxy.admin.column import Row
from poolproxy.admin.command import Call, Order, Show, Source
from poolproxy.admin.registry import parse
from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import (
    ConsoleCommand,
    ConsoleEnd,
    ConsoleNext,
    ConsoleRows,
    Done,
    Hold,
    Inspect,
    Inspected,
)
from poolproxy.metrics.merge import summed
from poolproxy.metrics.schema import PoolMetrics

if TYPE_CHECKING:
    from poolproxy.acceptor.hub import Hub

log = logging.getLogger("poolproxy.acceptor")

PART = 48_000  # bytes of rows in a message: below what a channel sends inline
ROW_OVERHEAD = 16
# A worker that is stuck must not hold up what is known of the others.
WORKER_PATIENCE = 3.0


Rows: TypeAlias = tuple[Row, ...]


@attrs.define(eq=False)
class Running:
    """A command that is being executed, for a client of ``worker``."""

    worker: Worker
    client: int
    began: float
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    taken: trio.Event = attrs.Factory(trio.Event)


@attrs.define(eq=False)
class Question:
    """What a worker was asked and has not answered. ``answer``: None if it can't any more."""

    worker: int
    answer: Inspected | Done | None = None
    settled: trio.Event = attrs.Factory(trio.Event)


class Desk:
    """Executes the commands of console clients. ``own``: what is counted of them, as for any pool."""

    def __init__(self, hub: Hub, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.own = facts.console_pool()
        self.averages = Averages(time.monotonic())
        self._nursery = nursery
        self._running: dict[int, Running] = {}
        self._questions: dict[int, Question] = {}
        self._last_request = 0
        self.suspender: Running | None = None  # who has given SUSPEND

    # -- messages of workers ----------------------------------------------------------------------

    def command(self, worker: Worker, message: ConsoleCommand) -> None:
        """A client has given a command."""
        running = Running(worker, message.client, time.monotonic())
        self._running[message.client] = running
        self._nursery.start_soon(self._run, running, message.text)

    def next(self, worker: Worker, message: ConsoleNext) -> None:
        """A client has taken its rows, or is gone."""
        running = self._running.get(message.client)
        if running is None or running.worker is not worker:
            return
        if message.stop:
            running.scope.cancel()
        else:
            running.taken.set()

    def answered(self, worker: Worker, message: Inspected | Done) -> None:
        """A worker has answered a question, perhaps too late."""
        worker.kills.pop(message.request, None)
        question = self._questions.get(message.request)
        if question is not None and question.worker == worker.number:
            question.answer = message
            question.settled.set()
        elif isinstance(message, Inspected) and not message.last:
            worker.channel.post(Inspect(message.request, "", stop=True))

    def cancel(self, client: int) -> bool:
        """A cancel request for a console client: its command ends. False: there is none."""
        running = self._running.get(client)
        if running is not None:
            running.scope.cancel()
        return running is not None

    def worker_gone(self, worker: Worker) -> None:
        """It answers nothing any more, and its clients are gone."""
        for question in self._questions.values():
            if question.worker == worker.number:
                question.settled.set()
        if self.suspender is not None and self.suspender.worker is worker:
            self.end_suspension()
        for running in self._running.values():
            if running.worker is worker:
                running.scope.cancel()

    def clients_gone(self, clients: Iterable[int]) -> None:
        """Who has given SUSPEND must be there to end it."""
        if self.suspender is not None and self.suspender.client in clients:
            self.end_suspension()

    def end_suspension(self) -> None:
        self.suspender = None
        if self.hub.holds.suspended:
            self.hub.holds.resume("")
            self.post_holds()

    def hold_message(self, request: int = 0) -> Hold:
        """What is stopped now, for a worker."""
        holds = self.hub.holds
        return Hold(
            request=request,
            paused=holds.paused,
            suspended=holds.suspended,
            databases=tuple(sorted(holds.databases)),
            disabled=tuple(sorted(holds.disabled)),
        )

    def post_holds(self) -> None:
        """Tell everybody, and wait for nobody."""
        self.hub.host.hold(self.hub.holds)
        self.hub.workers.broadcast(self.hold_message())
        self.hub.workers.notify()

    async def order(self, text: str) -> None:
        """Give a command that no client has given; its errors go to the log."""
        call = parse(text)
        assert call is not None
        try:
            await Orders(self, None).execute(call)
        except PoolerError as error:
            log.error("%s: %s", text, error.message)

    # -- one command ------------------------------------------------------------------------------

    async def _run(self, running: Running, text: str) -> None:
        end = ConsoleEnd(
            running.client,
            error="canceling statement due to user request",
            sqlstate="57014",
        )
        try:
            with running.scope:
                outcome = await self._execute(running, text)
                end = ConsoleEnd(running.client, **attrs.asdict(outcome))
        except PoolerError as error:
            end = ConsoleEnd(
                running.client, error=error.message, sqlstate=error.sqlstate, hint=error.hint
            )
        except Exception:
            log.exception("a command of the console has failed: %s", text)
            end = ConsoleEnd(running.client, error="internal error, see the log", sqlstate="XX000")
        finally:
            self._running.pop(running.client, None)
        running.worker.channel.post(end)
        facts.count(self.own, time.monotonic() - running.began)

    async def _execute(self, running: Running, text: str) -> Outcome:
        call = parse(text)
        assert call is not None
        self.own.bytes_received += len(text)
        if isinstance(call.command, Order):
            log.info("console: %s", text.strip())
            return await Orders(self, running).execute(call)
        return await self._show(running, call, call.command)

    async def _show(self, running: Running, call: Call, show: Show) -> Outcome:
        if show.source is Source.ACCEPTOR:
            assert show.rows is not None
            if show.columns:
                await self.hub.reports.collect(self.hub.workers)
            # In a thread: with thousands of pools it takes a while, and others are to be served.
            rows = await trio.to_thread.run_sync(list, show.rows(facts.view(self.hub)))
            for part in parts(rows):
                await self._give(running, part)
            return Outcome(call.tag)
        silent = []
        for worker in self.asked():
            if not await self.inspect(worker, show.name, partial(self._give, running)):
                silent.append(f"{worker.slot}")
        notice = f"no answer in time from worker {', '.join(silent)}" if silent else ""
        return Outcome(call.tag, notice=notice)

    async def inspect(
        self, worker: Worker, what: str, take: Callable[[Rows], Awaitable[None]]
    ) -> bool:
        """Have one worker's rows taken, part by part; False if it did not answer, though it lives."""
        request = self.next_request()
        last = False
        try:
            while not last:
                answer = await self.ask(worker, Inspect(request, what), WORKER_PATIENCE)
                if not isinstance(answer, Inspected):
                    return worker.state is State.DEAD
                last = answer.last
                if answer.rows:
                    await take(answer.rows)
        finally:
            if not last:
                worker.channel.post(Inspect(request, what, stop=True))
        return True

    async def _give(self, running: Running, rows: Rows) -> None:
        running.taken = trio.Event()
        self.own.bytes_sent += sum(_size(row) for row in rows)
        running.worker.channel.post(ConsoleRows(running.client, rows))
        await running.taken.wait()

    # -- questions to workers ---------------------------------------------------------------------

    def asked(self) -> list[Worker]:
        """The workers that can be asked."""
        ready = (State.READY, State.LEAVING)
        return sorted((w for w in self.hub.workers if w.state in ready), key=lambda w: w.slot)

    def next_request(self) -> int:
        self._last_request += 1
        return self._last_request

    async def ask(
        self, worker: Worker, message: facts.Asking, patience: float = math.inf
    ) -> Inspected | Done | None:
        """Ask a worker and wait; None if it dies, or has no answer within ``patience`` seconds."""
        question = self._questions[message.request] = Question(worker.number)
        worker.channel.post(message)
        if worker.state is State.DEAD:
            question.settled.set()
        try:
            with trio.move_on_after(patience):
                await question.settled.wait()
        finally:
            del self._questions[message.request]
        return question.answer

    # -- averages ---------------------------------------------------------------------------------

    async def keep_averages(self) -> None:
        """Take a sample of the counts each stats_period. Runs for ever."""
        while True:
            await trio.sleep(self.hub.loaded.config.settings.stats_period)
            await self.hub.reports.collect(self.hub.workers)
            counts = await trio.to_thread.run_sync(_counts, facts.rows(self.hub))
            self.averages.sample(counts, time.monotonic())
            if self.hub.loaded.config.settings.log_stats:
                log.info("%s", stats_line(self.averages.of_all()))


def _counts(rows: Iterable[PoolMetrics]) -> dict[str, Counts]:
    return by_database(summed(rows))


def parts(rows: Iterable[Row]) -> Iterator[tuple[Row, ...]]:
    """The rows in parts that fit into a message."""
    part: list[Row] = []
    size = 0
    for row in rows:
        part.append(row)
        size += _size(row)
        if size >= PART:
            yield tuple(part)
            part, size = [], 0
    if part:
        yield tuple(part)


def _size(row: Row) -> int:
    return ROW_OVERHEAD + sum(len(text) for text in row if text is not None)
