"""The channel between acceptor and worker: the one file that knows SCM_RIGHTS.

A ``SOCK_SEQPACKET`` socket pair: one message, one read, with exactly its own descriptors.

* Received descriptors are close-on-exec (``socket.recv_fds`` drops that flag in CPython 3.11) and
  closed again if the message can't be decoded.
* A message above INLINE_LIMIT travels in a memfd beside it: a SEQPACKET message must fit the send
  buffer, and splitting would need reassembly state on the other side. A descriptor is kept in reserve for
  that: a process that can open no more files still hears, and says, what is too large to be sent inline.
* An empty read is the peer's end, so an empty message is never sent.
* What a peer has not read when it dies is lost with the last descriptor of its end. Who keeps one as well
  can take it back: the sockets in it have been touched by nobody.
* When the receiver is out of descriptors the kernel sets MSG_CTRUNC and drops those that did not
  fit: a message with one descriptor each for many items is delivered with the first few, so
  that the receiver can report the others as lost; any other message is an error.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import trio

from poolproxy.ipc.codec import IpcError, decode, encode, expected_fds
from poolproxy.ipc.messages import FDS, MANY, Message

INLINE_LIMIT = 60_000  # bytes; the default send buffer of a Unix socket holds three of these
log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024 * 1024  # bytes of a message in a memfd: far above any snapshot
MAX_FDS = 253  # the kernel's SCM_MAX_FD

# Too many descriptors in flight (ETOOMANYREFS), or no memory: it passes when the peer reads.
_TRY_AGAIN = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
SHORT_OF_MEANS = 0.01  # seconds until the next try

_INLINE, _IN_MEMFD = b"\0", b"\1"
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)

Received: TypeAlias = tuple[Message, list[int]]


class ChannelClosed(Exception):
    """The other process is gone."""


def close_fds(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


class Reserve:
    """A descriptor that is free when it is needed, as nothing else may have it."""

    def __init__(self) -> None:
        self._fd = -1
        self.fill()

    def fill(self) -> None:
        """Have it again, if that is possible now."""
        if self._fd < 0:
            try:
                self._fd = os.eventfd(0)  # any file will do
            except OSError:
                pass

    def free(self) -> None:
        """Let it go: the next file that is opened has its place."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = free


class Channel:
    """One end. ``post`` never blocks; ``flush_forever`` is the one writer; one task receives.

    ``queue_limit`` bounds the messages that wait for a peer that does not read: :attr:`full` says
    so, and the caller decides (another worker, drop a snapshot, give up on the peer).

    ``far_end``: the peer's end, for :meth:`take_back`. As long as it is kept the peer's death does not end
    the channel.
    """

    def __init__(
        self, sock: socket.socket, queue_limit: int = 4096, far_end: socket.socket | None = None
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._far_end = far_end
        self._reserve = Reserve()
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()
        self._queue_limit = queue_limit
        self._wake = trio.Event()
        self._writing = trio.Lock()
        self._pause = 0.0

    def fileno(self) -> int:
        """For an epoll that has to make way when something arrives."""
        return self._sock.fileno()

    @property
    def queued(self) -> int:
        """Messages that wait for the peer to read."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        return len(self._queue) >= self._queue_limit

    @property
    def flushed(self) -> bool:
        """Whether the kernel has all that was posted: the peer can read it even if this process dies."""
        return not self._queue

    def post(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Send, or queue behind what is queued. Takes the descriptors: they are closed once sent.

        Never raises for a dead peer: the receiving task learns of that. A large message is dropped,
        with a word in the log, where no descriptor is left for it, as the one in reserve is on its way with
        another one: the result is then False.
        """
        data = encode(message)
        if len(data) > INLINE_LIMIT:
            try:
                data, fds = _IN_MEMFD, [self._memfd(data), *fds]
            except OSError as error:
                log.error("%s is not sent: %s", type(message).__name__, error)
                close_fds(fds)
                return False
        else:
            data = _INLINE + data
        if self._queue or not self._try_send(data, fds):
            self._queue.append((data, fds))
            self._wake.set()
        return True

    def _memfd(self, data: bytes) -> int:
        try:
            return _memfd(data)
        except OSError:
            self._reserve.free()
            return _memfd(data)

    async def flush_forever(self) -> None:
        """Send what the kernel refused at first, in order."""
        while True:
            await self.flush()
            self._wake = trio.Event()
            await self._wake.wait()

    async def flush(self) -> None:
        """Wait until all that was posted is sent; may be called beside :meth:`flush_forever`."""
        async with self._writing:
            while self._queue:
                if self._try_send(*self._queue[0]):
                    self._queue.popleft()
                else:
                    await trio.lowlevel.wait_writable(self._sock.fileno())
                    await trio.sleep(self._pause)

    def _try_send(self, data: bytes, fds: Sequence[int]) -> bool:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self._pause = 0.0
            return False
        except OSError as error:
            if error.errno in _TRY_AGAIN:
                self._pause = SHORT_OF_MEANS  # for these the socket counts as writable
                return False
            # Else the peer is gone: the message is lost as it would be in its buffer.
        close_fds(fds)
        if data == _IN_MEMFD:
            self._reserve.fill()
        return True

    async def receive(self) -> Received:
        """The next message with its descriptors, which the caller then owns.

        Raises ChannelClosed at the peer's end, IpcError for what can't be decoded.
        """
        if self._peek() is None:
            # It is a checkpoint; another one would cost as much as the message.
            await trio.lowlevel.wait_readable(self._sock.fileno())
        else:
            # The others' turn, before it is read: what nobody has handled yet is in the kernel.
            await trio.lowlevel.checkpoint()
        while (received := self.receive_nowait()) is None:
            await trio.lowlevel.wait_readable(self._sock.fileno())
        return received

    @property
    def unread(self) -> bool:
        """Whether something of the peer's is here that has not been received."""
        return bool(self._peek())

    def _peek(self) -> bytes | None:
        """The first byte of what is here; empty at the end, None if there is nothing yet."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def receive_nowait(self) -> Received | None:
        """As :meth:`receive`, None if there is nothing now."""
        try:
            if self._sock.recv(1, socket.MSG_PEEK) == _IN_MEMFD:
                self._reserve.free()
            data, ancillary, flags, _ = self._sock.recvmsg(
                INLINE_LIMIT + 64, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except ConnectionResetError:
            # The peer has died without reading all that we have sent. The kernel says so once, before
            # what is still there of the peer's own words.
            return self.receive_nowait()
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        try:
            return _unpack(data, _descriptors(ancillary), flags)
        finally:
            self._reserve.fill()

    def take_back(self) -> list[Received]:
        """What the peer, whose process has ended, has not read, in order; the caller owns the descriptors.

        That ends the channel: what the peer has said can still be received, then comes ChannelClosed.
        """
        if self._far_end is None:
            return []
        far_end, self._far_end = Channel(self._far_end), None
        found = list(far_end.rest())
        far_end.close()
        while self._queue:
            data, fds = self._queue.popleft()
            found.append(_unpack(data, list(fds)))
        return found

    def rest(self) -> Iterator[Received]:
        """What is here to be received now, without what can't be decoded."""
        while True:
            try:
                received = self.receive_nowait()
            except IpcError as error:
                log.error("a message is lost: %s", error)
                continue
            except ChannelClosed:
                return
            if received is None:
                return
            yield received

    def close(self) -> None:
        """Close; what was not sent is dropped with its descriptors."""
        while self._queue:
            close_fds(self._queue.popleft()[1])
        if self._far_end is not None:
            self._far_end.close()
        trio.lowlevel.notify_closing(self._sock.fileno())
        self._reserve.free()
        self._sock.close()


def _unpack(data: bytes, fds: list[int], flags: int = 0) -> Received:
    """Takes the descriptors: they are closed if the message can't be decoded."""
    try:
        return _unpacked(data, fds, flags)
    except BaseException:
        close_fds(fds)
        raise


def _unpacked(data: bytes, fds: list[int], flags: int) -> Received:
    if not data:
        raise ChannelClosed("end of channel")
    if flags & socket.MSG_TRUNC:
        raise IpcError(f"message larger than {INLINE_LIMIT} bytes")
    if data[:1] == _IN_MEMFD:
        if not fds:
            raise IpcError("a large message has lost its memfd: out of descriptors")
        body = _read_memfd(fds[0])
        os.close(fds.pop(0))
    else:
        body = data[1:]
    message = decode(body)
    expected = expected_fds(message)
    partial = bool(flags & socket.MSG_CTRUNC) and FDS[type(message)] == MANY
    if len(fds) != expected and not (partial and len(fds) < expected):
        raise IpcError(f"{type(message).__name__} with {len(fds)} of {expected} descriptors")
    return message, fds


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _memfd(data: bytes) -> int:
    fd = os.memfd_create("poolproxy-message")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read_memfd(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > MAX_BODY:
        raise IpcError(f"message of {size} bytes, more than {MAX_BODY}")
    return os.pread(fd, size, 0)


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of channel sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
