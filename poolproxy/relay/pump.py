"""An encrypted client that another worker serves.

The keys of TLS are in this process, so the connection can't go; its bytes can. This worker decrypts and
encrypts, and passes all on through a socket pair, whose other end has gone to the other worker as the
descriptor of any client goes (``worker.client_moves``): there it is a client in the clear. This worker knows
nothing of what is said.

Each direction keeps at most one chunk: while it can't be passed on, its source is not read. When one end is
over the other one gets all that was read before, and what it still sends is dropped.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from time import monotonic

from poolproxy.relay.connection import Connection
from poolproxy.relay.engine import SHORT, Engine
from poolproxy.relay.tls import TlsConnection

# Seconds for a client to take the last bytes that it gets: there are up to a chunk here, beside the kernel's.
LINGER = 30.0


class _End(Connection):
    """``last``: the other end is over, so this one ends when it has taken what is left in ``out``."""

    __slots__ = ("last", "other", "pump")

    other: _End
    pump: Pump

    def __init__(self, engine: Engine, sock: socket.socket) -> None:
        super().__init__(engine, sock)
        self.last = False

    def received(self, data: bytes) -> None:
        if not data:
            self.over()
        elif not self.last:
            if len(data) >= SHORT:
                self.engine.widen()
            self.engine.post((self.other.quick, data, self.other))

    def clogged(self) -> None:
        self.other.pause()

    def drained(self) -> None:
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


class _Outer(TlsConnection, _End):
    """The client's end."""

    def finish(self) -> None:
        # A socket that is closed before all was read is reset, and the client may lose what it was told last.
        self.pump.ended(self.hand_on())


class _Inner(_End):
    """The end that leads to the other worker. ``gone``: that has closed its own."""

    __slots__ = ("gone",)

    def __init__(self, engine: Engine, sock: socket.socket) -> None:
        super().__init__(engine, sock)
        self.gone = False

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


class Pump:
    """Owner of both sockets until ``on_end`` is called, which is once: with the client's socket if it is
    still open, which has nothing to be told any more but the end. ``deadline``: when to :meth:`close`.
    """

    def __init__(
        self,
        engine: Engine,
        outer: ssl.SSLSocket,
        inner: socket.socket,
        on_end: Callable[[ssl.SSLSocket | None], None],
    ) -> None:
        self.deadline = math.inf
        self._on_end: Callable[[ssl.SSLSocket | None], None] | None = on_end
        self._outer, self._inner = _Outer(engine, outer), _Inner(engine, inner)
        for end, other in ((self._outer, self._inner), (self._inner, self._outer)):
            end.pump, end.other = self, other

    def start(self) -> None:
        """Begin, with what has come meanwhile. Not to be called in a batch of events."""
        self._outer.watch()
        self._inner.watch()
        self._outer.engine.read_now(self._outer.fd)

    def ended(self, client: ssl.SSLSocket | None) -> None:
        """For the ends only."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(client)

    def close(self) -> None:
        """End both sides now."""
        self._inner.close()
        self._outer.close()
        self.ended(None)
