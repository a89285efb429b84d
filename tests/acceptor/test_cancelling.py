"""Whom a cancel request is for, when it is heard before what its client's worker has said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from poolproxy.acceptor import cancelling
from poolproxy.acceptor.hub import Hub
from poolproxy.acceptor.workers import State, Worker
from poolproxy.ipc.channel import Channel, pair
from poolproxy.ipc.messages import (
    Cancel,
    CancelDone,
    CancelKey,
    CancelRequest,
    ClientUp,
    Message,
    PoolKey,
)
from tests.acceptor.test_reload_settings import BASE, loaded

CLIENT, CANCELLER = 7, 8
KEY = CancelKey(1234, b"abcd")
UP = ClientUp(CLIENT, KEY, PoolKey("db", "user"), "user")


@attrs.frozen
class Side:
    """A worker as the acceptor has it, and the worker's own end."""

    worker: Worker
    end: Channel

    def told(self) -> list[Message]:
        return [message for message, _ in self.end.rest()]


@attrs.frozen
class Acceptor:
    """A hub with two workers. The client is the first one's; nobody reads what either has sent."""

    hub: Hub
    home: Side
    other: Side

    def hear(self, side: Side, message: Message) -> None:
        self.hub.handle(side.worker, message, [])

    def read(self, side: Side) -> None:
        received = side.worker.channel.receive_nowait()
        assert received is not None
        self.hub.handle(side.worker, *received)


async def turns() -> None:
    """Time for whoever does not only wait for the next message to be read."""
    for _ in range(10):
        await trio.lowlevel.checkpoint()


@pytest.fixture
async def acceptor() -> AsyncIterator[Acceptor]:
    async with trio.open_nursery() as nursery:
        hub = Hub(loaded(BASE), nursery)
        sides = [_side(hub, number) for number in (1, 2)]
        hub.clients.add(CLIENT, 1, surplus=False)
        yield Acceptor(hub, *sides)
        nursery.cancel_scope.cancel()
    for side in sides:
        side.worker.channel.close()
        side.end.close()


def _side(hub: Hub, number: int) -> Side:
    ours, theirs = (Channel(sock) for sock in pair())
    worker = Worker(number, number - 1, cast(Any, None), ours, 0.0, 0.0, State.READY)
    hub.workers.add(worker)
    side = Side(worker, theirs)
    side.told()
    return side


async def test_a_request_that_overtakes_the_log_in_finds_the_client(acceptor: Acceptor) -> None:
    """However late it is that the word of the log-in is read."""
    acceptor.home.end.post(UP)
    acceptor.hear(acceptor.other, CancelRequest(CANCELLER, KEY))
    await turns()
    assert acceptor.home.told() == acceptor.other.told() == []
    acceptor.read(acceptor.home)
    await turns()
    assert acceptor.home.told() == [Cancel(1, KEY)]
    acceptor.hear(acceptor.home, CancelDone(1))
    assert acceptor.other.told() == [CancelDone(CANCELLER)]


async def test_a_key_of_nobody_is_done_when_nothing_is_left_to_hear(acceptor: Acceptor) -> None:
    acceptor.hear(acceptor.other, CancelRequest(CANCELLER, KEY))
    await trio.testing.wait_all_tasks_blocked()
    assert acceptor.other.told() == [CancelDone(CANCELLER)]
    assert acceptor.home.told() == []


async def test_what_a_dead_worker_has_said_is_not_waited_for(acceptor: Acceptor) -> None:
    acceptor.home.end.post(UP)
    acceptor.hear(acceptor.other, CancelRequest(CANCELLER, KEY))
    await turns()
    acceptor.home.worker.state = State.DEAD
    await turns()
    assert acceptor.other.told() == [CancelDone(CANCELLER)]
    assert acceptor.home.told() == []


async def test_a_worker_that_never_ceases_to_speak_is_not_waited_for(
    acceptor: Acceptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does each request that comes meanwhile look for itself."""
    monkeypatch.setattr(cancelling, "MOST_TURNS", 3)
    acceptor.home.end.post(UP)
    for request in (CANCELLER, CANCELLER + 1):
        acceptor.hear(acceptor.other, CancelRequest(request, KEY))
    assert len(acceptor.hub.entrance._nursery.child_tasks) == 1
    await turns()
    assert acceptor.other.told() == [CancelDone(CANCELLER), CancelDone(CANCELLER + 1)]


async def test_nothing_is_done_for_a_dead_worker(acceptor: Acceptor) -> None:
    acceptor.home.end.post(UP)
    acceptor.hear(acceptor.other, CancelRequest(CANCELLER, KEY))
    acceptor.other.worker.state = State.DEAD
    acceptor.read(acceptor.home)
    await turns()
    assert acceptor.home.told() == acceptor.other.told() == []
    assert not acceptor.hub.cancels
