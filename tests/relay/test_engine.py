"""The engine: batches, errors, descriptors that are closed and used again."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from poolproxy.relay import engine as engine_module
from poolproxy.relay.closing import Closing
from poolproxy.relay.engine import CHUNK, READ, SHORT, WRITE, Engine


class Watcher:
    """Reads all there is, then does what the test wants; keeps what it was told."""

    def __init__(self, engine: Engine, then: Callable[[], None] = lambda: None) -> None:
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.then = then
        self.told: list[str] = []
        engine.watch(self.sock.fileno(), self)

    def readable(self) -> None:
        self.told.append(self.sock.recv(100).decode())
        self.then()

    def other_event(self, mask: int) -> None:
        self.told.append(f"mask {mask}")

    def crashed(self, error: Exception) -> None:
        self.told.append(f"crashed {error}")

    def close(self) -> None:
        self.sock.close()
        self.peer.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    one = Engine(quiet=lambda: False)
    yield one
    one.close()


def fail() -> None:
    raise ValueError("oh")


def test_an_error_ends_one_connection_and_not_the_batch(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are served, and the log has the traceback."""
    watchers = [Watcher(engine), Watcher(engine, fail), Watcher(engine)]
    for watcher in watchers:
        watcher.peer.send(b"hello")
    engine.turn()
    assert [watcher.told for watcher in watchers] == [
        ["hello"],
        ["hello", "crashed oh"],
        ["hello"],
    ]
    assert [record.exc_info is not None for record in caplog.records] == [True]
    for watcher in watchers:
        watcher.close()


def test_a_late_event_never_reaches_another_connection(engine: Engine) -> None:
    """All close each other in one batch: those closed get nothing, and no number is used again before
    the batch is through.
    """
    watchers: list[Watcher] = []
    newcomers: list[Watcher] = []

    def close_the_others() -> None:
        for other in watchers:
            if not other.told:
                engine.close_later(other.sock)
        newcomers.append(Watcher(engine))

    watchers += [Watcher(engine, close_the_others) for _ in range(3)]
    numbers = {watcher.sock.fileno() for watcher in watchers}
    for watcher in watchers:
        watcher.peer.send(b"hello")
    engine.turn()
    assert sorted(watcher.told for watcher in watchers) == [[], [], ["hello"]]
    assert [newcomer.told for newcomer in newcomers] == [[]]
    assert newcomers[0].sock.fileno() not in numbers
    assert len(engine) == 2
    assert [watcher.sock.fileno() == -1 for watcher in watchers] == [
        not watcher.told for watcher in watchers
    ]
    for watcher in (*watchers, *newcomers):
        watcher.close()


def test_a_socket_is_closed_at_once_outside_of_a_batch(engine: Engine) -> None:
    """Nobody waits for the next event to happen."""
    watcher = Watcher(engine)
    engine.close_later(watcher.sock)
    assert watcher.sock.fileno() == -1
    assert len(engine) == 0
    watcher.close()


def test_events_other_than_reading_are_told_apart(engine: Engine) -> None:
    """The mask is passed on."""
    watcher = Watcher(engine)
    engine.modify(watcher.sock.fileno(), READ | WRITE)
    engine.turn()
    assert set(watcher.told) == {f"mask {WRITE}"}
    watcher.told.clear()
    watcher.peer.close()
    engine.turn()
    assert watcher.told[-1] == f"mask {select.EPOLLIN | select.EPOLLOUT | select.EPOLLHUP}"
    watcher.close()


def test_what_is_forgotten_is_not_told(engine: Engine) -> None:
    """Its descriptor is still its owner's; forgetting twice is fine."""
    watcher = Watcher(engine)
    engine.forget(watcher.sock.fileno())
    engine.forget(watcher.sock.fileno())
    watcher.peer.send(b"hello")
    engine.turn()
    assert watcher.told == []
    watcher.close()


async def test_trio_wakes_the_engine_and_is_not_starved(engine: Engine) -> None:
    """Endless traffic on the engine leaves other tasks their turns."""
    turns = 0

    def ask_again() -> None:
        watcher.peer.send(b"x")

    async def count(task_status: trio.TaskStatus[None]) -> None:
        nonlocal turns
        task_status.started()
        for _ in range(20):
            await trio.lowlevel.checkpoint()
            turns += 1

    watcher = Watcher(engine, ask_again)
    ask_again()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            await nursery.start(count)
            while turns < 20:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert watcher.told
    watcher.close()


class End:
    """A Closing, and what it told."""

    def __init__(self, engine: Engine) -> None:
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.told: list[bool] = []
        self.closing = Closing(engine, self.sock, 1.0, self.told.append)


def test_an_end_is_clean_when_the_other_side_has_closed(engine: Engine) -> None:
    """Whatever it says before is discarded, and it has been told that nothing more will come."""
    end = End(engine)
    end.peer.send(b"x" * 100_000)
    end.closing.shutdown()
    engine.turn()
    assert end.peer.recv(10) == b""
    assert end.told == []
    end.peer.close()
    engine.turn()
    assert end.told == [True]
    assert end.sock.fileno() == -1


def test_an_end_is_told_once(engine: Engine) -> None:
    """Out of patience, then the other side closes after all."""
    end = End(engine)
    end.closing.end(clean=False)
    end.closing.end(clean=True)
    end.closing.shutdown()
    engine.turn()
    assert end.told == [False]
    assert end.closing.ended
    end.peer.close()


def test_an_end_does_not_wait_for_a_server_that_never_stops(engine: Engine) -> None:
    """Others get their turn between its chunks."""
    end, other = End(engine), Watcher(engine)
    end.peer.setblocking(False)
    while True:
        try:
            end.peer.send(b"x" * 65_536)
        except BlockingIOError:
            break
    other.peer.send(b"hello")
    engine.turn()
    assert other.told == ["hello"]
    assert end.told == []
    end.peer.close()
    engine.turn()
    assert end.told == [True]
    other.close()


def test_a_reset_is_an_end_too(engine: Engine) -> None:
    """The other side is gone, so it has closed."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    told: list[bool] = []
    ours.setblocking(False)
    Closing(engine, ours, 1.0, told.append)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    listener.close()
    engine.turn()
    assert told == [True]


class Sink:
    """Notes how much it gets at once, and is told as a connection that takes any cut."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.sizes: list[int] = []
        engine.read_for(self.sock.fileno(), self)

    def received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        if len(data) >= SHORT:
            self.engine.widen()

    def other_event(self, mask: int) -> None:
        raise AssertionError(mask)

    def crashed(self, error: Exception) -> None:
        raise error

    def close(self) -> None:
        self.engine.forget(self.sock.fileno())
        self.sock.close()
        self.peer.close()


def test_little_is_read_at_once_until_there_is_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost at the change of sizes; a while after the last long read it is little again."""
    sink = Sink(engine)
    sink.peer.send(b"x" * 3000)
    engine.turn()
    assert sink.sizes == [SHORT, 3000 - SHORT]
    sink.peer.send(b"x" * 3000)
    engine.turn()
    assert sink.sizes[2:] == [3000]
    assert CHUNK > 3000
    later = engine_module.monotonic() + 2 * engine_module.WIDE
    monkeypatch.setattr(engine_module, "monotonic", lambda: later)
    sink.peer.send(b"x" * 3000)
    engine.turn()
    assert sink.sizes[3] == SHORT
    assert sum(sink.sizes) == 9000
    sink.close()


class Taker:
    """What is posted to, with a connection of its own."""

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        """``then``: it breaks when it is to keep something, and does this."""
        self.breaks, self.then = then is not None, then or fail
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.peer.setblocking(False)
        self.fd = self.quick = self.sock.fileno()
        self.kept = b""

    def unsent(self, data: bytes) -> None:
        if self.breaks:
            raise ValueError("oh")
        self.kept += data
        self.quick = -1

    def crashed(self, error: Exception) -> None:
        self.then()

    def taken(self) -> bytes:
        try:
            return self.peer.recv(1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.sock.close()
        self.peer.close()


def test_what_is_posted_in_a_batch_is_written_at_its_end(engine: Engine) -> None:
    """No peer is woken up before all callbacks of the batch have run, then all get theirs."""
    taker, seen = Taker(), []

    def answer() -> None:
        seen.append(taker.taken())
        engine.post((taker.quick, b"x", taker))

    watchers = [Watcher(engine, answer) for _ in range(3)]
    for watcher in watchers:
        watcher.peer.send(b"hello")
    engine.turn()
    assert seen == [b"", b"", b""]
    assert taker.taken() == b"xxx"
    for one in (*watchers, taker):
        one.close()


def test_what_is_posted_outside_of_a_batch_is_written_at_once(engine: Engine) -> None:
    """Nobody waits for the next event to happen."""
    taker = Taker()
    engine.post((taker.quick, b"x", taker))
    assert taker.taken() == b"x"
    assert engine.posted == []
    taker.close()


def test_a_flush_writes_in_the_order_of_posting(engine: Engine) -> None:
    """Who writes in another way flushes before, so that nothing overtakes."""
    taker = Taker()

    def answer() -> None:
        engine.post((taker.quick, b"1", taker))
        engine.post((taker.quick, b"2", taker))
        engine.flush()
        taker.sock.send(b"3")

    watcher = Watcher(engine, answer)
    watcher.peer.send(b"hello")
    engine.turn()
    assert taker.taken() == b"123"
    watcher.close()
    taker.close()


@pytest.mark.parametrize("why", ["full", "not quick"])
def test_what_a_peer_does_not_take_is_left_to_it(engine: Engine, why: str) -> None:
    """Its socket is full, it keeps older bytes, or is encrypted: then it gets the rest, in order."""
    taker = Taker()
    sent = b"y" * (1 << 22) if why == "full" else b"y"
    if why == "not quick":
        taker.quick = -1
    engine.post((taker.quick, sent, taker))
    got = taker.taken()
    while why == "full" and (more := taker.taken()):
        got += more
    assert taker.kept
    assert len(got) + len(taker.kept) == len(sent)
    taker.close()


def test_nothing_overtakes_what_a_peer_could_not_take_amid_a_batch(engine: Engine) -> None:
    """The descriptor was noted when bytes were posted: a peer that is full since then gets them in order."""
    taker, other = Taker(), Taker()
    sent = b"y" * (1 << 22)

    def answer() -> None:
        engine.post((taker.quick, sent, taker))
        engine.post((other.quick, b"o", other))
        engine.post((taker.quick, b"z", taker))

    watcher = Watcher(engine, answer)
    watcher.peer.send(b"hello")
    engine.turn()
    got = b""
    while more := taker.taken():
        got += more
    assert got + taker.kept == sent + b"z"
    assert taker.kept.endswith(b"yz")
    assert other.taken() == b"o"
    for one in (watcher, taker, other):
        one.close()


def test_an_error_while_writing_ends_one_connection_and_not_the_batch(engine: Engine) -> None:
    """The others get what was posted for them, and so do those who are posted to because of the error."""

    def crashed() -> None:
        engine.post((takers[3].quick, b"gone", takers[3]))

    takers = [Taker(), Taker(crashed), Taker(), Taker()]
    takers[1].quick = -1

    def answer() -> None:
        for taker in takers[:3]:
            engine.post((taker.quick, b"x", taker))

    watcher = Watcher(engine, answer)
    watcher.peer.send(b"hello")
    engine.turn()
    assert [taker.taken() for taker in takers] == [b"x", b"", b"x", b"gone"]
    for one in (watcher, *takers):
        one.close()


class Leaver(Watcher):
    """Wants to be left alone whenever it has read, for long; ``looks``: what it does when looked at."""

    def __init__(self, engine: Engine, looks: Callable[[Leaver], None]) -> None:
        super().__init__(engine)
        self.engine, self.looks = engine, looks
        self.until = engine_module.monotonic() + LONG

    def readable(self) -> None:
        super().readable()
        if self.engine.hold(self):
            self.engine.modify(self.sock.fileno(), 0)

    def look(self) -> None:
        self.looks(self)

    def release(self) -> None:
        self.told.append("released")
        self.engine.held = None
        self.engine.modify(self.sock.fileno(), READ)


LONG = 60.0  # seconds: nobody waits for their end


@pytest.fixture
def calm() -> Iterator[Engine]:
    """An engine of a worker without log-ins."""
    one = Engine()
    yield one
    one.close()


def never(leaver: Leaver) -> None:
    raise AssertionError


def test_what_is_held_stays_so_over_the_end_of_a_turn(
    calm: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it lets go of itself, after its time, in one of the next ones."""
    monkeypatch.setattr(engine_module, "HELD_TURN", -1.0)
    leaver = Leaver(calm, Leaver.release)
    leaver.peer.send(b"one")
    calm.turn()
    leaver.peer.send(b"two")
    calm.turn()
    assert leaver.told == ["one"]
    monkeypatch.setattr(engine_module, "HELD_TURN", LONG)
    leaver.until = 0.0
    calm.turn()
    assert leaver.told == ["one", "released", "two", "released"]
    leaver.close()


async def test_when_suspended_the_engine_lets_go_of_what_is_held(
    calm: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And handles nothing until it may again."""
    monkeypatch.setattr(engine_module, "HELD_TURN", -1.0)
    leaver = Leaver(calm, never)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(calm.run)
        leaver.peer.send(b"one")
        with trio.fail_after(5):
            while leaver.told != ["one"]:
                await trio.lowlevel.checkpoint()
            calm.suspend()
            leaver.peer.send(b"two")
            await trio.testing.wait_all_tasks_blocked()
            assert leaver.told == ["one", "released"]
            calm.resume()
            while leaver.told[-1] != "two":
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    leaver.close()


async def test_who_has_waited_for_the_end_of_a_long_turn_comes_before_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also a task that such a one starts, and that says then that it is in a hurry."""
    monkeypatch.setattr(engine_module, "HELD_TURN", -1.0)
    ours, theirs = socket.socketpair()
    hurried: list[bool] = []
    at_each: list[list[bool]] = []
    one = Engine(quiet=lambda: not hurried)

    async def hurry() -> None:
        hurried.append(True)

    async def read() -> None:
        await trio.lowlevel.wait_readable(ours.fileno())
        nursery.start_soon(hurry)

    def then() -> None:
        at_each.append(hurried.copy())
        if len(at_each) == 1:
            theirs.send(b"x")
            leaver.peer.send(b"two")

    leaver = Leaver(one, never)
    leaver.then = then
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(one.run)
        leaver.peer.send(b"one")
        with trio.fail_after(5):
            while len(at_each) < 2:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert at_each == [[], [True]]
    for sock in (ours, theirs):
        sock.close()
    leaver.close()
    one.close()


def test_nothing_is_held_while_a_task_is_in_a_hurry(engine: Engine) -> None:
    """It is told of each event."""
    leaver = Leaver(engine, never)
    leaver.peer.send(b"one")
    engine.turn()
    leaver.peer.send(b"two")
    engine.turn()
    assert leaver.told == ["one", "two"]
    leaver.close()


def test_what_is_held_is_looked_at_when_its_time_has_come(
    calm: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again if it wants, without a word of what comes meanwhile, and without asking in vain."""
    monkeypatch.setattr(engine_module, "HELD_TURN", LONG)
    waits: list[float] = []

    class Noting:
        def __init__(self) -> None:
            self.epoll = calm._epoll

        def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
            waits.append(timeout)
            if timeout:
                leaver.peer.send(b".")
            return self.epoll.poll(timeout, most)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.epoll, name)

    def look(one: Leaver) -> None:
        one.told.append(one.sock.recv(99).decode())
        if len(one.told) < 4:
            one.until = engine_module.monotonic() + 0.005
        else:
            one.release()
            calm.yielding = True

    def two() -> None:
        leaver.peer.send(b"two")

    leaver = Leaver(calm, look)
    leaver.until = 0.0
    leaver.peer.send(b"one")
    leaver.then = two
    monkeypatch.setattr(calm, "_epoll", Noting())
    calm.turn()
    assert leaver.told[:2] == ["one", "two"]
    assert [set(told) for told in leaver.told[2:4]] == [{"."}] * 2
    assert leaver.told[4:] == ["released"]
    assert waits[0] == 0
    assert len(waits) <= 2 + 2 * 5  # epoll may be early by a part of its resolution
    leaver.close()
