"""What a client and a server connection have in common: a socket, its unsent bytes, its interest.

Writing tries the socket first and asks epoll for EPOLLOUT only when the kernel says no; whoever
fills ``out`` then stops reading from the other side, so that at most one chunk is kept for a peer
that does not read.

An error while sending is not acted upon where it happens, deep in another connection's callback:
the bytes are dropped, and epoll reports the broken socket to its own connection next.
"""

from __future__ import annotations

import os
import socket

from poolproxy.relay.engine import CHUNK, HANGUP, READ, SHORT, WRITE, Engine


class Connection:
    """Owner of one socket from construction to :meth:`close`; ``reading`` is off for back-pressure.

    ``fd`` is -1 afterwards: its number may be another connection's by then. ``quick`` is ``fd`` where the
    next bytes can be written by it, else -1: while some are unsent, and where they must be encrypted.
    """

    __slots__ = (
        "__weakref__",
        "closed",
        "engine",
        "fd",
        "out",
        "quick",
        "reading",
        "sock",
        "writing",
    )

    def __init__(self, engine: Engine, sock: socket.socket) -> None:
        self.engine = engine
        self.sock = sock
        self.fd = self.quick = sock.fileno()
        self.out = b""
        self.reading = True
        self.writing = False
        self.closed = False

    def write(self, data: bytes) -> None:
        """Send, keeping in ``out`` what the kernel does not take now."""
        if self.engine.posted:
            self.engine.flush()
        if self.out:
            self.out += data
            return
        sent = self._send(data)
        if sent < len(data):
            self.out = data[sent:]
            self.writing = True
            self.quick = -1
            self._update()

    def unsent(self, data: bytes) -> None:
        """The end of what was posted (see :attr:`Engine.post`), which the kernel has not taken."""
        self.write(data)
        if self.out:
            self.clogged()

    def clogged(self) -> None:
        """Something posted had to be kept in ``out``: nobody shall send more."""
        raise NotImplementedError

    def flush(self) -> None:
        """The socket can take more; calls :meth:`drained` when all is sent."""
        self.out = self.out[self._send(self.out) :]
        if not self.out:
            self.writing = False
            self.quick = self.fd
            self._update()
            self.drained()

    def _send(self, data: bytes) -> int:
        """How many bytes are through with; a broken connection takes them all."""
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    def pause(self) -> None:
        """Stop reading."""
        if self.reading:
            self.reading = False
            self._update()

    def resume(self) -> None:
        """Read again."""
        if not self.reading and not self.closed:
            self.reading = True
            self._update()

    def _update(self) -> None:
        if not self.closed:
            self.engine.modify(self.fd, READ * self.reading | WRITE * self.writing)

    def owes(self, data: bytes) -> None:
        """Bytes that the peer has yet to get before anything else. To be called before :meth:`watch`."""
        if data:
            self.out, self.writing, self.quick = data, True, -1

    def watch(self) -> None:
        """Have the engine read."""
        self.engine.read_for(self.fd, self)
        if self.writing:
            self._update()

    def other_event(self, mask: int) -> None:
        """Anything but plain readability. Hang-ups are reported whatever the interest is."""
        if mask & HANGUP and not self.reading:
            self.hung_up()
            return
        if mask & WRITE:
            self.flush()
        if not self.closed and self.reading and mask & (READ | HANGUP):
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.received(data)

    def with_more(self, data: bytes) -> bytes:
        """``data``, which has come, with what has come behind it if little was asked for (``SHORT``).

        For what is judged as a whole. TLS reads whole records, so there it is all that has come.
        """
        if len(data) != SHORT or self.quick < 0:
            return data
        try:
            return data + os.read(self.quick, CHUNK)
        except OSError:
            return data

    def hand_on(self) -> socket.socket:
        """The socket, which is the caller's from now on; here it is as if it had been closed."""
        self.engine.flush()
        self.engine.forget(self.fd)
        self.closed = True
        self.fd = self.quick = -1
        return self.sock

    def close(self) -> None:
        """End the socket; idempotent."""
        if not self.closed:
            self.engine.flush()
            self.closed = True
            self.fd = self.quick = -1
            self.engine.close_later(self.sock)

    def received(self, data: bytes) -> None:
        """These bytes have come; b"" is the end, however it came about."""
        raise NotImplementedError

    def crashed(self, error: Exception) -> None:
        raise NotImplementedError

    def drained(self) -> None:
        raise NotImplementedError

    def hung_up(self) -> None:
        raise NotImplementedError
