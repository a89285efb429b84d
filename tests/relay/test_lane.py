"""The lane of the relayed connections: when it is held, what it costs nobody, and that nothing is lost."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator

import attrs
import pytest

from poolproxy.ipc.messages import PoolKey
from poolproxy.relay import engine as engine_module
from poolproxy.relay import lane as lane_module
from poolproxy.relay.engine import CHUNK, SHORT, WIDE, Engine
from poolproxy.relay.lane import (
    LONG_WAIT,
    MANY,
    THINKS,
    TICK,
    Lane,
    mean_wait,
    tick,
)
from poolproxy.relay.pump import Pump
from tests.relay.harness import settle
from tests.relay.test_engine import Sink, Watcher

READY = b"Z\0\0\0\5"
ANSWER = b"answer" + READY + b"I"
LONG = 60.0  # seconds: nobody waits for the end of such a tick

POOL = PoolKey("db", "ann")


@pytest.fixture(autouse=True)
def _prepared() -> None:
    """A lane knows of no statements, so once is enough."""


def arrived(sock: socket.socket) -> bytes:
    """What is there, b"" if there is nothing."""
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


@attrs.define
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Relayed:
    """A pump with its client and the worker at its other end."""

    def __init__(self, lane: Lane) -> None:
        self.outer, self.client = socket.socketpair()
        self.inner, self.worker = socket.socketpair()
        self.ends: list[socket.socket | None] = []
        for sock in (self.outer, self.client, self.inner, self.worker):
            sock.setblocking(False)
        self.pump = Pump(lane, self.outer, self.inner, POOL, self.ends.append)
        self.pump.start()

    def close(self) -> None:
        self.pump.close()
        for sock in (self.client, self.worker, *(sock for sock in self.ends if sock is not None)):
            sock.close()


class Place:
    """A worker's engine and its lane. ``hurried``: a log-in is in progress."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.hurried = False
        self.main = Engine(quiet=lambda: not self.hurried)
        self.lane = Lane(self.main)
        self.relayed: list[Relayed] = []

    def add(self, count: int) -> list[Relayed]:
        self.relayed += [Relayed(self.lane) for _ in range(count)]
        return self.relayed

    def step(self) -> bool:
        """The engine's part for one batch of the lane; whether the lane is held afterwards."""
        if self.main.held is None:
            self.lane.readable()
        else:
            self.lane.look()
        return self.main.held is not None

    def ask(self, count: int) -> bool:
        for one in self.relayed[:count]:
            one.client.send(b"ask")
        return self.step()

    def answer(self, count: int, waited: float) -> bool:
        self.clock.now += waited
        for one in self.relayed[:count]:
            one.worker.send(ANSWER)
        return self.step()

    def make_patient(self) -> None:
        """Clients have waited long for answers; the lane is armed."""
        while self.lane.wait < LONG_WAIT:
            self.ask(1)
            self.answer(1, 2 * LONG_WAIT)

    def close(self) -> None:
        for one in self.relayed:
            one.close()
        self.lane.close()
        assert len(self.main) == 0
        self.main.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the lane takes for the time."""
    clock = Clock()
    monkeypatch.setattr(lane_module, "monotonic", clock)
    return clock


@pytest.fixture
def place(clock: Clock) -> Iterator[Place]:
    one = Place(clock)
    yield one
    one.close()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """One whose lane is held, for long and by the real time, whenever two have sent something; and whose
    turns last.
    """
    monkeypatch.setattr(engine_module, "HELD_TURN", LONG)
    monkeypatch.setattr(lane_module, "TICK", LONG)
    monkeypatch.setattr(lane_module, "LONGEST_TICK", LONG)
    monkeypatch.setattr(lane_module, "LONG_WAIT", 0.0)
    one = Place(Clock())
    one.add(2)
    yield one
    one.close()


class Other:
    """A connection in the clear that is busy; while the lane is held it does ``meanwhile``, once, and is
    served some more times. Then a log-in is in a hurry, or, if it ``yields``, a trio task.
    """

    MORE = 5

    def __init__(
        self, place: Place, meanwhile: Callable[[], None], *, yields: bool = False
    ) -> None:
        self.place, self.meanwhile, self.yields = place, meanwhile, yields
        self.served = 0
        self.task, self.tell = socket.socketpair()
        place.main.yield_to(self.task.fileno())
        self.watcher = Watcher(place.main, self.serve)
        self.watcher.peer.send(b"x")

    def serve(self) -> None:
        if self.place.main.held is not None:
            if not self.served:
                self.meanwhile()
            self.served += 1
        if self.served < self.MORE:
            self.watcher.peer.send(b"x")
        elif self.yields:
            self.tell.send(b"x")
        else:
            self.place.hurried = True

    def close(self) -> None:
        for sock in (self.watcher.sock, self.task):
            self.place.main.close_later(sock)
        self.watcher.close()
        self.tell.close()


def test_it_is_held_as_long_as_there_is_something_to_gather(place: Place) -> None:
    """When many answers in a row were waited for, and not before."""
    place.add(2)
    for _ in range(MANY // 4):
        assert not place.ask(2)
        assert not place.answer(2, 2 * LONG_WAIT)
    place.make_patient()
    assert place.ask(2)
    assert place.answer(2, 2 * LONG_WAIT)
    assert place.lane.until == place.clock.now + tick(place.lane.wait)
    place.clock.now += TICK
    assert place.ask(1)
    place.clock.now += TICK
    assert place.step()
    place.clock.now += 1.1 * TICK
    assert not place.step()
    assert not place.ask(1)
    place.clock.now += TICK
    assert place.ask(1)
    place.clock.now += 2 * TICK
    assert not place.ask(1)


def test_it_is_not_held_for_the_clients_of_a_lone_server(place: Place) -> None:
    """However long they wait, and also if others have waited long before; a few among these do not end it.
    With a second server they are clients as any other.
    """
    place.add(2)
    place.lane.lone.add(POOL)
    for _ in range(MANY):
        assert not place.ask(2)
        assert not place.answer(2, 2 * LONG_WAIT)
    place.lane.lone.clear()
    place.make_patient()
    place.lane.wait *= 1.5
    place.lane.lone.add(POOL)
    assert place.ask(2)
    assert place.answer(2, 2 * LONG_WAIT)
    for _ in range(MANY // 2):
        place.ask(2)
        place.answer(2, 2 * LONG_WAIT)
    assert not place.ask(2)


def test_a_dozen_quick_answers_end_it(place: Place) -> None:
    """One among many that were waited for does not; then many must have waited long again."""
    place.add(12)
    for _ in range(MANY // 4):
        place.ask(12)
        place.answer(12, 2 * LONG_WAIT)
    assert place.ask(12)
    assert place.answer(1, TICK)
    assert place.answer(12, LONG_WAIT)
    assert place.ask(12)
    assert not place.answer(12, TICK)
    assert not place.ask(12)
    place.make_patient()
    assert place.ask(12)


def test_what_a_late_look_finds_counts_as_quick(place: Place) -> None:
    """It could not be found sooner; what the second one finds, or one of an armed lane, could."""
    place.add(12)
    place.lane.wait = wait = 3 * LONG_WAIT
    late = 1.8 * tick(wait)
    assert place.ask(12)
    assert place.answer(1, late)
    assert place.lane.wait == mean_wait(wait, 0.0)
    place.lane.wait = wait
    place.clock.now += late / 2
    place.step()
    place.clock.now += late / 2
    place.relayed[1].worker.send(ANSWER)
    place.step()
    assert place.lane.wait == mean_wait(wait, 2 * late)


def test_one_alone_is_not_delayed(place: Place) -> None:
    """However long it waits for its answers: two ticks after a question, which follows an answer, are over by
    then.
    """
    place.add(1)
    place.make_patient()
    for _ in range(3):
        held = place.ask(1)
        for _ in range(2):
            if held:
                place.clock.now += 1.1 * TICK
                held = place.step()
        assert not held
        assert not place.answer(1, LONG_WAIT)


@pytest.mark.parametrize("status", [b"T", b"E"])
def test_nobody_is_late_while_a_transaction_goes_on(place: Place, status: bytes) -> None:
    """A server does nothing meanwhile. Who thinks for long in a transaction delays nobody."""
    one, *_ = place.add(4)
    place.make_patient()
    assert place.ask(4)
    place.clock.now += 2 * LONG_WAIT
    for each in place.relayed[1:]:
        each.worker.send(ANSWER)
    one.worker.send(b"answer" + READY + status)
    assert not place.step()
    assert not place.ask(4)
    place.clock.now += LONG_WAIT
    one.worker.send(READY + b"I")
    place.step()
    assert not place.ask(4)
    place.clock.now += THINKS
    assert place.ask(4)


def test_a_request_is_waited_for_from_its_first_bytes_to_the_answers_first(place: Place) -> None:
    """However many parts either comes in."""
    (one,) = place.add(1)
    for _ in range(3):
        place.ask(1)
        place.clock.now += LONG_WAIT / 2
    for _ in range(3):
        place.answer(1, 0.0)
        assert place.lane.wait == pytest.approx(1.5 * LONG_WAIT / MANY)
    assert one.client.recv(99) == 3 * ANSWER


def test_what_nobody_has_asked_for_is_no_answer(place: Place) -> None:
    """Neither a quick one nor one that was waited for."""
    place.add(2)
    place.ask(1)
    place.answer(1, LONG_WAIT)
    place.answer(2, 0.0)
    place.answer(2, LONG_WAIT)
    assert place.lane.wait == pytest.approx(LONG_WAIT / MANY)


@pytest.mark.parametrize("waited", [0.0, LONG_WAIT])
@pytest.mark.parametrize("who", ["client", "worker"])
def test_an_end_is_no_answer(place: Place, who: str, waited: float) -> None:
    """Of a connection that is cut while its client waits; the others count as before."""
    first, second = place.add(2)
    place.ask(1)
    place.answer(1, LONG_WAIT)
    place.ask(1)
    place.clock.now += waited
    before = place.lane.wait
    getattr(first, who).close()
    place.step()
    assert len(first.ends) == 1
    assert place.lane.wait == before
    assert place.lane.armed_until == 0.0
    second.client.send(b"ask")
    place.step()
    place.clock.now += LONG_WAIT
    second.worker.send(ANSWER)
    place.step()
    assert place.lane.wait == pytest.approx(mean_wait(before, LONG_WAIT))


def test_who_gets_much_is_not_held_up(place: Place) -> None:
    """While 20 others wait, 4 MB arrive whole, and no two of their batches are a tick apart."""
    place.add(21)
    place.make_patient()
    one = place.relayed[-1]
    data = random.Random(1).randbytes(4 << 20)
    sent, received, held = 0, bytearray(), []
    while len(received) < len(data):
        try:
            sent += one.worker.send(data[sent : sent + CHUNK])
        except BlockingIOError:
            pass
        held.append(place.ask(20))
        try:
            received += one.client.recv(CHUNK)
        except BlockingIOError:
            pass
    assert bytes(received) == data
    assert held[:-3].count(True) <= 1  # the first read is a short one
    place.clock.now += THINKS
    assert place.ask(20)


def test_who_takes_slowly_is_not_held_up(place: Place) -> None:
    """A batch in which something that was full takes more is part of a large answer."""
    place.add(3)
    place.make_patient()
    one = place.relayed[-1]
    while not one.pump._outer.out:
        one.worker.send(bytes(CHUNK))
        place.step()
    place.clock.now += THINKS
    assert place.ask(2)
    while arrived(one.client):
        pass
    assert not place.ask(2)
    while arrived(one.client):
        place.step()
    place.clock.now += THINKS
    assert place.ask(2)


def test_little_is_read_at_once_until_there_is_more(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with any engine."""
    monkeypatch.setattr(engine_module, "monotonic", clock)
    sink = Sink(place.lane)
    sink.peer.send(b"x" * 3000)
    place.step()
    place.step()
    sink.peer.send(b"x" * 3000)
    place.step()
    assert sink.sizes == [SHORT, 3000 - SHORT, 3000]
    clock.now += 2 * WIDE
    sink.peer.send(b"x" * 3000)
    place.step()
    assert sink.sizes[3:] == [SHORT]
    sink.close()


@pytest.mark.parametrize("yields", [False, True])
def test_others_are_served_while_it_is_held(eager: Place, yields: bool) -> None:
    """Until a log-in is in progress, or a trio task has something to read: what has come for the lane
    meanwhile is passed on afterwards.
    """
    one, two = eager.relayed
    one.client.send(b"first")
    two.client.send(b"first")

    def meanwhile() -> None:
        assert [arrived(each.worker) for each in eager.relayed] == [b"first"] * 2
        one.client.send(b"more")

    other = Other(eager, meanwhile, yields=yields)
    eager.main.turn()
    assert other.served == Other.MORE
    assert (eager.main.held is not None) is yields
    eager.hurried = True
    while not (more := arrived(one.worker)):
        eager.main.turn()
    assert more == b"more"
    other.close()


def test_at_the_end_of_a_tick_it_is_looked_at(
    eager: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come meanwhile is passed on within the same turn; when nothing has, that is all."""
    monkeypatch.setattr(lane_module, "TICK", 0.01)
    one, two = eager.relayed
    one.client.send(b"first")
    two.client.send(b"first")

    def serve() -> None:
        if eager.main.held is None:
            other.peer.send(b"x")
        else:
            one.client.send(b"more")

    other = Watcher(eager.main, serve)
    other.peer.send(b"x")
    eager.main.turn()
    assert [arrived(each.worker) for each in eager.relayed] == [b"firstmore", b"first"]
    assert eager.main.held is None
    eager.main.close_later(other.sock)
    other.close()


def test_ends_while_it_is_held(eager: Place) -> None:
    """A client that hangs up, another one whose pump is closed, and a third that begins."""
    one, two = eager.relayed
    one.client.send(b"first")
    two.client.send(b"first")

    def meanwhile() -> None:
        one.client.send(b"last")
        one.client.close()
        two.pump.close()
        assert two.inner.fileno() == -1
        eager.add(1)

    other = Other(eager, meanwhile, yields=True)
    eager.main.turn()
    assert not one.ends
    assert two.ends == [None]
    other.close()
    eager.hurried = True
    settle(eager.main)
    assert arrived(one.worker) == b"firstlast"
    assert one.ends == [None]
    assert len(eager.lane) == 2
    third = eager.relayed[-1]
    third.client.send(b"hello")
    settle(eager.main)
    assert arrived(third.worker) == b"hello"


def test_it_is_suspended_with_the_engine(place: Place) -> None:
    """A pump that begins then passes nothing on before the end of that."""
    place.main.suspend()
    (one,) = place.add(1)
    one.client.send(b"early")
    one.pump.lane.read_now(one.outer.fileno())
    assert not arrived(one.worker)
    place.main.resume()
    place.hurried = True
    settle(place.main)
    assert arrived(one.worker) == b"early"


def test_the_next_look_is_a_tick_after_the_end_of_the_last_one(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker whose looks take as long as that would serve nobody else."""

    def slow() -> float:
        clock.now += 3 * TICK
        return clock.now

    place.add(3)
    place.make_patient()
    monkeypatch.setattr(lane_module, "monotonic", slow)
    assert place.ask(3)
    assert place.lane.until == clock.now + TICK


@pytest.mark.parametrize("held", [False, True])
def test_a_mistake_in_the_lane_ends_those_that_it_serves(
    place: Place, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would wait for ever; who is relayed afterwards is served."""
    for one in place.add(3):
        one.client.send(b"ask")
    monkeypatch.setattr(place.lane, "_batch", lambda: 1 // 0)
    if held:
        place.main.held = place.lane
        place.lane.look()
        assert place.main.held is None
    else:
        place.main.turn()
    monkeypatch.undo()
    assert [one.ends for one in place.relayed] == [[None]] * 3
    (late,) = place.add(1)[3:]
    late.client.send(b"ask")
    place.main.turn()
    assert arrived(late.worker) == b"ask"
