"""What a dead process has not read of its channel goes back to who has kept its end."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator

import attrs
import pytest

from poolproxy.ipc.channel import Channel, ChannelClosed, close_fds, pair
from poolproxy.ipc.messages import CancelDone, Snapshot
from tests.ipc.test_channel import handoff, open_fds, some_fd


@attrs.frozen
class Kept:
    """The sender, who has kept the peer's end as well, the peer, and their sockets."""

    keeper: Channel
    peer: Channel
    raw: socket.socket
    raw_peer: socket.socket

    def kill_peer(self) -> None:
        self.peer._reserve.free()
        self.raw_peer.close()


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    """A test that leaves a descriptor open, or closes one too many, fails."""
    before = open_fds()
    ours, theirs = pair()
    kept = Kept(Channel(ours, far_end=theirs.dup()), Channel(theirs), ours, theirs)
    yield kept
    kept.kill_peer()
    kept.keeper.close()
    assert open_fds() == before


def fill(channel: Channel) -> int:
    """Post until the kernel takes no more and three messages wait; returns how many there are, each of two
    clients and with its own number of bytes in each descriptor's file.
    """
    count = 0
    while channel.queued < 3:
        channel.post(handoff(2), [numbered(count), numbered(count)])
        count += 1
    return count


def numbered(number: int) -> int:
    fd = os.memfd_create("numbered")
    os.truncate(fd, number)
    return fd


def sizes_of(channel: Channel) -> list[int]:
    """Take all back: the numbers of the descriptors, in order; they are closed."""
    found = []
    for message, fds in channel.take_back():
        assert message == handoff(2)
        found += [os.fstat(fd).st_size for fd in fds]
        close_fds(fds)
    return found


async def read(channel: Channel, count: int) -> None:
    for _ in range(count):
        close_fds((await channel.receive())[1])


def each_twice(numbers: range) -> list[int]:
    return [number for number in numbers for _ in range(2)]


async def test_all_is_taken_back_from_who_has_read_nothing(kept: Kept) -> None:
    """In order and with its descriptors, first from the kernel, then from the queue."""
    count = fill(kept.keeper)
    kept.kill_peer()
    assert count > 3
    assert sizes_of(kept.keeper) == each_twice(range(count))
    assert kept.keeper.flushed


async def test_what_was_read_is_not_taken_back(kept: Kept) -> None:
    """It is what lies behind that is."""
    count = fill(kept.keeper)
    await read(kept.peer, 2)
    kept.kill_peer()
    assert sizes_of(kept.keeper) == each_twice(range(2, count))


async def test_nothing_is_taken_back_from_who_has_read_all(kept: Kept) -> None:
    """Nor a second time."""
    kept.keeper.post(handoff(2), [some_fd(), some_fd()])
    await read(kept.peer, 1)
    kept.kill_peer()
    assert not kept.keeper.take_back()
    assert not kept.keeper.take_back()


async def test_a_glance_at_a_message_does_not_take_it(kept: Kept) -> None:
    """A peer that dies between looking at the first byte and reading has not read; nothing lies between."""
    kept.keeper.post(handoff(2), [numbered(1), numbered(1)])
    kept.raw_peer.recv(1, socket.MSG_PEEK)
    kept.kill_peer()
    assert sizes_of(kept.keeper) == [1, 1]


async def test_a_large_message_is_taken_back(kept: Kept) -> None:
    """Its memfd is closed."""
    message = Snapshot(1, b"x" * 1_000_000)
    kept.keeper.post(message)
    kept.kill_peer()
    assert kept.keeper.take_back() == [(message, [])]


@pytest.mark.parametrize("garbage", [b"\0garbage", b"\0", b"\1", b"\7"])
async def test_what_cannot_be_understood_is_not_taken_back(kept: Kept, garbage: bytes) -> None:
    """Its descriptors are closed; the messages behind it are."""
    with open(os.devnull) as file:
        socket.send_fds(kept.raw, [garbage], [file.fileno(), file.fileno()])
    kept.keeper.post(CancelDone(1))
    kept.kill_peer()
    assert kept.keeper.take_back() == [(CancelDone(1), [])]


async def test_half_a_message_is_not_taken_back(kept: Kept) -> None:
    """One with half of its bytes, or half of its descriptors."""
    kept.keeper.post(handoff(2), [some_fd(), some_fd()])
    whole, fds, _, _ = socket.recv_fds(kept.raw_peer, 60_000, 2)
    close_fds(fds)
    with open(os.devnull) as file:
        socket.send_fds(kept.raw, [whole[: len(whole) // 2]], [file.fileno()] * 2)
        socket.send_fds(kept.raw, [whole], [file.fileno()])
    kept.keeper.post(CancelDone(1))
    kept.kill_peer()
    assert kept.keeper.take_back() == [(CancelDone(1), [])]


async def test_the_channel_ends_when_all_was_taken_back(kept: Kept) -> None:
    """Not with the peer's death; and what the peer has said before is read first."""
    kept.peer.post(CancelDone(7))
    kept.keeper.post(handoff(1), [numbered(3)])
    kept.kill_peer()
    assert await kept.keeper.receive() == (CancelDone(7), [])
    assert kept.keeper.receive_nowait() is None
    [(message, fds)] = kept.keeper.take_back()
    assert message == handoff(1)
    close_fds(fds)
    with pytest.raises(ChannelClosed):
        await kept.keeper.receive()
    kept.keeper.post(handoff(1), [some_fd()])


async def test_who_has_not_kept_the_end_takes_nothing_back(kept: Kept) -> None:
    """The peer's own end of the channel."""
    kept.keeper.post(CancelDone(1))
    assert not kept.peer.take_back()
    assert await kept.peer.receive() == (CancelDone(1), [])


async def test_what_is_not_taken_back_is_closed(kept: Kept) -> None:
    """With the channel: what lies in the kernel, and what waits."""
    fill(kept.keeper)
    kept.kill_peer()
