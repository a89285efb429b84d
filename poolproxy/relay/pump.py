"""A client whose connection stays here while another worker serves it.

The keys of TLS are in this process, so an encrypted connection can't go, and without ``client_moves`` none is
to go. Its bytes can. This worker decrypts and encrypts if need be, and passes all on through a socket pair,
whose other end has gone to the other worker as the descriptor of any client goes (``worker.client_moves``):
there it is a client in the clear. Of what is said this worker knows only whether an answer goes on, or a
transaction.

Each direction keeps at most one chunk: while it can't be passed on, its source is not read. When one end is
over the other one gets all that was read before, and what it still sends is dropped.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from time import monotonic

from poolproxy.ipc.messages import PoolKey
from poolproxy.relay.connection import Connection
from poolproxy.relay.engine import CHUNK, SHORT
from poolproxy.relay.lane import THINKS, Lane
from poolproxy.relay.tls import TlsConnection

# Seconds for a client to take the last bytes that it gets: there are up to a chunk here, beside the kernel's.
LINGER = 30.0

# ReadyForQuery outside of a transaction: https://www.postgresql.org/docs/current/protocol-message-formats.html
READY = b"Z\0\0\0\5I"


class _End(Connection):
    """``last``: the other end is over, so this one ends when it has taken what is left in ``out``."""

    __slots__ = ("last", "other", "pump")

    other: _End
    pump: Pump

    def __init__(self, lane: Lane, sock: socket.socket) -> None:
        super().__init__(lane, sock)
        self.last = False

    def received(self, data: bytes) -> None:
        if not data:
            self.over()
        elif not self.last:
            if len(data) >= SHORT:
                self.pump.lane.got(len(data))
            self.engine.post((self.other.quick, data, self.other))

    def clogged(self) -> None:
        self.other.pause()

    def drained(self) -> None:
        self.pump.lane.bulk = True
        if self.last:
            self.finish()
        else:
            self.other.resume()

    def over(self) -> None:
        """Nothing more comes from this end, nor can it be sent anything."""
        if self.closed:
            return
        self.close()  # which flushes what was posted
        other = self.other
        if other.closed:
            self.pump.ended(None)
            return
        other.last = True
        if other.out:
            self.pump.deadline = monotonic() + LINGER
            other.resume()
        else:
            other.finish()

    def finish(self) -> None:
        """The other end is over, and this one has got all of it."""
        self.close()
        self.pump.ended(None)

    def hung_up(self) -> None:
        self.over()

    def crashed(self, error: Exception) -> None:
        self.pump.close()


class _Outer(_End):
    """The client's end."""

    def received(self, data: bytes) -> None:
        pump = self.pump
        if not pump.asked_at:
            pump.asked_at = pump.lane.now
        super().received(data)

    def finish(self) -> None:
        # A socket that is closed before all was read is reset, and the client may lose what it was told last.
        self.pump.ended(self.hand_on())


class _TlsOuter(TlsConnection, _Outer):
    """The same where the client's connection is encrypted."""


class _Inner(_End):
    """The end that leads to the other worker. ``gone``: that has closed its own."""

    __slots__ = ("gone",)

    def __init__(self, lane: Lane, sock: socket.socket) -> None:
        super().__init__(lane, sock)
        self.gone = False

    def received(self, data: bytes) -> None:
        pump = self.pump
        if pump.asked_at and data:
            pump.lane.answered(pump.pool, pump.asked_at)
            pump.asked_at = 0.0
        if data and not data.endswith(READY):
            pump.lane.armed_until = pump.lane.now + THINKS
        super().received(data)

    def hung_up(self) -> None:
        # The client is slow: there is more to be read, which epoll tells all the time although nobody asks.
        self.gone = True
        self.engine.forget(self.fd)

    def resume(self) -> None:
        if not self.gone:
            super().resume()
            return
        self.reading = True
        while self.reading and not self.closed:
            self._read()

    def _update(self) -> None:
        if not self.gone:
            super()._update()


def _rest(sock: socket.socket) -> bytes:
    """All that can be read now; the other end is ours, too, so no more comes."""
    parts = []
    try:
        while part := sock.recv(CHUNK):
            parts.append(part)
    except OSError:
        pass
    return b"".join(parts)


class Pump:
    """Owner of both sockets until ``on_end`` is called, which is once: with the client's socket if it is
    still open, which has nothing to be told any more but the end. ``deadline``: when to :meth:`close`.
    ``pool``: the client's. ``asked_at``: since when the client waits for an answer, 0 if it does not.
    """

    def __init__(
        self,
        lane: Lane,
        outer: socket.socket,
        inner: socket.socket,
        pool: PoolKey,
        on_end: Callable[[socket.socket | None], None],
    ) -> None:
        self.lane = lane
        self.pool = pool
        self.deadline = math.inf
        self.asked_at = 0.0
        self._on_end: Callable[[socket.socket | None], None] | None = on_end
        self.encrypted = isinstance(outer, ssl.SSLSocket)
        self._outer = _TlsOuter(lane, outer) if self.encrypted else _Outer(lane, outer)
        self._inner = _Inner(lane, inner)
        for end, other in ((self._outer, self._inner), (self._inner, self._outer)):
            end.pump, end.other = self, other

    @property
    def client(self) -> socket.socket:
        """The client's socket."""
        return self._outer.sock

    @property
    def over(self) -> bool:
        """Whether one of both sides has ended."""
        return self._outer.closed or self._inner.closed

    def undo(self, far: socket.socket) -> tuple[bytes, bytes]:
        """The client's socket is the caller's again, who has also got ``far``, the pipe's other end, and
        closes it: what the client has said that nobody has read, and what was said to it and is not sent yet.
        """
        self._on_end = None
        outer, inner = self._outer, self._inner
        outer.hand_on()
        inner.hand_on()
        unread = _rest(far) + inner.out
        unsent = outer.out + _rest(inner.sock)
        inner.sock.close()
        return unread, unsent

    def start(self) -> None:
        """Begin, with what has come meanwhile. Not to be called in a batch of events."""
        self._outer.watch()
        self._inner.watch()
        self.lane.read_now(self._outer.fd)

    def ended(self, client: socket.socket | None) -> None:
        """For the ends only."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(client)

    def close(self) -> None:
        """End both sides now."""
        self._inner.close()
        self._outer.close()
        self.ended(None)
