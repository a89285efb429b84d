"""The channel: descriptors, large messages, a peer that doesn't read, a peer that is gone."""

from __future__ import annotations

import array
import fcntl
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from poolproxy.ipc.channel import (
    INLINE_LIMIT,
    MAX_BODY,
    Channel,
    ChannelClosed,
    close_fds,
    pair,
)
from poolproxy.ipc.codec import IpcError, encode
from poolproxy.ipc.messages import (
    Accepted,
    CancelDone,
    ClientsGone,
    Configure,
    Handoff,
    Message,
    ServerOpening,
    Snapshot,
)

ROOT = Path(__file__).parents[2]
OPENING = ServerOpening(1, "127.0.0.1", 5432)


@attrs.frozen
class Ends:
    """Both ends as channels, and the sockets below them."""

    left: Channel
    right: Channel
    raw_left: socket.socket
    raw_right: socket.socket


def open_fds() -> set[int]:
    """The descriptors of this process, but those that earlier tests have left to the collector: amid a test
    with thousands of objects they would go, and be missed.
    """
    gc.collect()
    with os.scandir("/proc/self/fd") as entries:
        numbers = {int(entry.name) for entry in entries}
    return {fd for fd in numbers if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A connected pair; a test that leaves a descriptor open, or closes one too many, fails."""
    before = open_fds()
    left, right = pair()
    ends = Ends(Channel(left), Channel(right), left, right)
    yield ends
    for channel in (ends.left, ends.right):
        channel._reserve.free()
    left.close()
    right.close()
    assert open_fds() == before


def some_fd() -> int:
    return os.open("/dev/null", os.O_RDONLY)


def handoff(count: int) -> Handoff:
    one = Accepted(1, "::1", 2, "::1", 3, 4.0, False)
    return Handoff(tuple(attrs.evolve(one, id=number) for number in range(count)))


async def test_descriptors_arrive_in_order_and_close_on_exec(ends: Ends) -> None:
    """Each is the file that was sent; the sender's copies are closed; children inherit none."""
    fds = [some_fd() for _ in range(253)]
    files = [os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY) for fd in fds]
    inodes = [os.fstat(fd).st_ino for fd in files]
    close_fds(fds)
    ends.left.post(handoff(253), files)
    message, received = await ends.right.receive()
    assert message == handoff(253)
    assert [os.fstat(fd).st_ino for fd in received] == inodes
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in received)
    close_fds(received)


@pytest.mark.parametrize("size", [0, 1, INLINE_LIMIT - 100, INLINE_LIMIT, 1_000_000])
async def test_a_message_of_any_size_arrives(ends: Ends, size: int) -> None:
    """Above INLINE_LIMIT it travels in a memfd, which is closed on both sides afterwards."""
    message = Snapshot(1, b"x" * size)
    ends.left.post(message)
    assert await ends.right.receive() == (message, [])


async def test_a_large_message_keeps_its_own_descriptors(ends: Ends) -> None:
    """The memfd before them is not counted among them."""
    message = attrs.evolve(OPENING, host="h" * 100_000)
    ends.left.post(message, [some_fd()])
    received, fds = await ends.right.receive()
    assert received == message
    assert len(fds) == 1
    close_fds(fds)


@pytest.mark.parametrize(("message", "count"), [(OPENING, 0), (OPENING, 2), (CancelDone(1), 1)])
async def test_a_wrong_number_of_descriptors_is_an_error(
    ends: Ends, message: Message, count: int
) -> None:
    """The message is refused and its descriptors are closed; the channel goes on."""
    ends.left.post(message, [some_fd() for _ in range(count)])
    with pytest.raises(IpcError, match=f"with {count} of"):
        await ends.right.receive()
    ends.left.post(CancelDone(2))
    assert await ends.right.receive() == (CancelDone(2), [])


@pytest.mark.parametrize(
    "data", [b"\0", b"\0\xff", b"\0" + encode(CancelDone(1))[:-1], b"\1"], ids=repr
)
async def test_what_can_not_be_decoded_is_an_error(ends: Ends, data: bytes) -> None:
    """Unknown kinds, cut bodies and a memfd that is missing; no descriptor stays open."""
    rights = array.array("i", [fd := some_fd()])
    with_fd = [] if data == b"\1" else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    ends.raw_left.sendmsg([data], with_fd)
    os.close(fd)
    with pytest.raises(IpcError):
        await ends.right.receive()


async def test_a_message_that_does_not_fit_is_an_error(ends: Ends) -> None:
    """MSG_TRUNC: what was cut off by the kernel is never decoded."""
    ends.raw_left.send(b"\0" + encode(Snapshot(0, b"x" * (INLINE_LIMIT + 1000))))
    with pytest.raises(IpcError, match="larger than"):
        await ends.right.receive()


async def test_a_memfd_is_bounded(ends: Ends) -> None:
    """Nobody makes the receiver read more than MAX_BODY bytes."""
    fd = os.memfd_create("large")
    os.ftruncate(fd, MAX_BODY + 1)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    ends.raw_left.sendmsg([b"\1"], rights)
    os.close(fd)
    with pytest.raises(IpcError, match="more than"):
        await ends.right.receive()


async def test_the_peers_end_is_told(ends: Ends) -> None:
    """What was sent before is still read; then receiving raises, and posting doesn't."""
    ends.left.post(CancelDone(1))
    ends.raw_left.close()
    assert await ends.right.receive() == (CancelDone(1), [])
    with pytest.raises(ChannelClosed):
        await ends.right.receive()
    ends.right.post(OPENING, [some_fd()])


async def test_the_last_words_of_a_peer_that_did_not_listen_are_read(ends: Ends) -> None:
    """Also if it has died with unread messages, which the kernel tells as an error."""
    ends.left.post(CancelDone(1))
    ends.right.post(CancelDone(2))
    ends.raw_left.close()
    assert await ends.right.receive() == (CancelDone(1), [])
    with pytest.raises(ChannelClosed):
        await ends.right.receive()


async def test_a_full_peer_gets_everything_in_order(ends: Ends) -> None:
    """post never blocks; what the kernel refuses waits, with its descriptors, and nothing overtakes."""
    total = 2000
    sent: list[Message] = []
    for number in range(total):
        large = number % 100 == 0
        message = Snapshot(number, b"x" * 70_000) if large else attrs.evolve(OPENING, permit=number)
        ends.left.post(message, [] if large else [some_fd()])
        sent.append(message)
    received: list[Message] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.left.flush_forever)
        while len(received) < total:
            message, fds = await ends.right.receive()
            close_fds(fds)
            received.append(message)
        nursery.cancel_scope.cancel()
    assert received == sent


async def test_flush_may_run_beside_flush_forever(ends: Ends) -> None:
    """The last words of a worker: wait until they are out although the usual writer waits too."""
    for number in range(400):
        ends.left.post(ClientsGone((number,) * 1000))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.left.flush_forever)
            nursery.start_soon(_read, ends.right, 400)
            await trio.testing.wait_all_tasks_blocked()
            await ends.left.flush()
            assert not ends.left._queue
            nursery.cancel_scope.cancel()


async def _read(channel: Channel, count: int) -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)
    for _ in range(count):
        await channel.receive()
    await trio.sleep_forever()


async def test_full_says_when_the_limit_is_reached() -> None:
    """The caller decides what to drop; the queue itself loses nothing."""
    left, right = pair()
    channel = Channel(left, queue_limit=3)
    with left, right:
        while not channel.full:
            channel.post(ClientsGone((1,) * 5000))
        assert len(channel._queue) == 3


async def test_closing_drops_what_waits(ends: Ends) -> None:
    """With the descriptors of what was never sent."""
    while not ends.left._queue:
        ends.left.post(ClientsGone((1,) * 5000))
    ends.left.post(OPENING, [some_fd()])
    ends.left.close()


async def test_receive_nowait_says_that_nothing_is_there(ends: Ends) -> None:
    """None, then the message."""
    assert ends.right.receive_nowait() is None
    ends.left.post(CancelDone(1))
    assert ends.right.receive_nowait() == (CancelDone(1), [])


async def test_a_configuration_may_be_large(ends: Ends) -> None:
    """A userlist with thousands of users."""
    message = Configure(1, "/etc/poolproxy.toml", "[poolproxy]", '"u" "p"\n' * 50_000, bytes(32))
    ends.left.post(message)
    assert await ends.right.receive() == (message, [])


OUT_OF_DESCRIPTORS = """
import os, resource, socket, sys
from poolproxy.ipc.channel import Channel, pair
from poolproxy.ipc.codec import IpcError
from poolproxy.ipc.messages import Accepted, CancelDone, Handoff, ServerOpening, Snapshot
import trio
import trio.testing

async def main():
    left, right = pair()
    sender, receiver = Channel(left), Channel(right)
    accepted = Accepted(1, "", 0, "", 0, 0.0, False)
    sender.post(Handoff((accepted,) * 8), [os.open("/dev/null", 0) for _ in range(8)])
    sender.post(ServerOpening(1, "", 0), [os.open("/dev/null", 0)])
    sender.post(Snapshot(1, b"x" * 100_000))
    sender.post(Snapshot(1, b"x" * 200_000))
    sender.post(Handoff((accepted,) * 2), [os.open("/dev/null", 0) for _ in range(2)])
    sender.post(CancelDone(1))
    fillers = [os.open("/dev/null", 0) for _ in range(64)]
    for fd in fillers[-3:]:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1, fillers[-1] + 1))
    message, fds = await receiver.receive()
    print(type(message).__name__, len(message.clients), len(fds))
    try:
        await receiver.receive()
    except IpcError as error:
        print(error)
    for _ in range(2):
        print(len((await receiver.receive())[0].data))
    sender.post(Snapshot(1, b"x" * 300_000))
    sender.post(Snapshot(1, b"x" * 400_000))
    message, more = await receiver.receive()
    print(type(message).__name__, len(message.clients), len(more))
    print((await receiver.receive())[0])
    print(len((await receiver.receive())[0].data))
    print(len((await receiver.receive())[0].data))

trio.run(main)
"""


def test_a_receiver_out_of_descriptors_loses_those_only() -> None:
    """MSG_CTRUNC: of many, the first that fit are delivered; a message that needs its one descriptor is an
    error; for the memfd of a large one there is a reserve on both sides; the channel goes on.
    """
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "Handoff 8 3",
        "ServerOpening with 0 of 1 descriptors",
        "100000",
        "200000",
        "Handoff 2 0",
        "CancelDone(request=1)",
        "300000",
        "400000",
    ]
