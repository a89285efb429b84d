"""The end of a server connection: nobody reads its answers, and its permit is still out. Or the end of a
client that has been told to go.

``shutdown(SHUT_WR)`` tells PostgreSQL that we are through (a Terminate message could land inside a
half-sent one); then everything is discarded until PostgreSQL closes its end, because only then has
its backend left the list that CONNECTION LIMIT counts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from poolproxy.relay.engine import CHUNK, READ, Engine
from poolproxy.relay.tls import shut_down

MOST_READS = 16  # a turn: a server that never stops sending must not keep the others waiting


class Closing:
    """Owner of the socket until its end; ``on_end(clean)`` is called exactly once.

    ``deadline``: when to give up waiting, by the caller's clock.
    """

    def __init__(
        self,
        engine: Engine,
        sock: socket.socket,
        deadline: float,
        on_end: Callable[[bool], None],
    ) -> None:
        self._engine = engine
        self._sock = sock
        self.deadline = deadline
        self._on_end: Callable[[bool], None] | None = on_end
        engine.forget(sock.fileno())
        engine.watch(sock.fileno(), self, READ)

    @property
    def ended(self) -> bool:
        """Whether ``on_end`` has been called."""
        return self._on_end is None

    def shutdown(self) -> None:
        """Tell PostgreSQL; after this it ends as soon as it reads on."""
        if self.ended:
            return
        try:
            shut_down(self._sock)
        except OSError:
            pass  # it has closed already: the next read says so

    def readable(self) -> None:
        try:
            for _ in range(MOST_READS):
                # As they come, also those of a TLS connection: nobody wants to know what they say.
                if not os.read(self._sock.fileno(), CHUNK):
                    self.end(clean=True)
                    return
        except BlockingIOError:
            return
        except OSError:
            self.end(clean=True)

    def other_event(self, mask: int) -> None:
        self.readable()

    def crashed(self, error: Exception) -> None:
        self.end(clean=False)

    def end(self, *, clean: bool) -> None:
        """Close now; ``clean``: PostgreSQL has closed its end."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            self._engine.close_later(self._sock)
            on_end(clean)
