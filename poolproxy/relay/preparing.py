"""A client of a pool that shares prepared statements (transaction and statement mode).

What names no statement takes the same way as everybody's bytes. From the first message that does, a
chunk is ``raw``: it can be forwarded only to a server that is known, message by message (see
``wire.prepared``), and sometimes only when the server has answered more.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from poolproxy.relay.client import HOLD, Client
from poolproxy.wire.frontend import NAMING, NAMING_BY_SQL, expected_size
from poolproxy.wire.prepared import SWEEP, Names, PreparedBackend

if TYPE_CHECKING:
    from poolproxy.relay.server import Server


class PreparingClient(Client):
    """``names``: the statements that it has prepared. ``raw``: bytes that begin a message."""

    __slots__ = ("names", "raw")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.names: Names | None = None
        self.raw = b""

    def is_plain_query(self, data: bytes) -> bool:
        return not self.raw and self.front.is_whole_query(data) and not self._sweeps(data)

    def _sweeps(self, data: bytes) -> bool:
        """Whether ``data`` may deallocate statements of this client by SQL."""
        return self.names is not None and SWEEP.search(data) is not None

    def feed(self, data: bytes) -> tuple[bytes, Sequence[int]]:
        if self.raw:
            self.raw += data
            if self.wait_since and len(self.raw) >= HOLD:
                self.pause()
            return b"", ()
        naming = NAMING_BY_SQL if self._sweeps(data) else NAMING
        limit = self.context.max_packet_size
        data, types, self.raw = self.front.feed_until_named(data, limit, naming)
        if self.raw and self.names is None:
            self.names = Names()
        return data, types

    def _request(self, data: bytes, types: Sequence[int]) -> None:
        if not types and len(self.raw) < expected_size(self.raw) <= HOLD:
            return  # no server yet for a message that is still coming
        super()._request(data, types)

    def start(self, server: Server, now: float) -> None:
        server.back.names = self.names
        super().start(server, now)

    def forward_raw(self) -> None:
        server, names = self.server, self.names
        assert server is not None
        assert names is not None
        back = server.back
        if not isinstance(back, PreparedBackend):
            self._forward_untouched(server)
            return
        result = back.forward(names, self.raw, self.context.max_packet_size)
        self.raw = self.raw[result.used :]
        self.front.left = result.left
        if result.messages and not server.query_since:
            server.query_since = monotonic()
            server.xact_since = server.xact_since or server.query_since
        if result.answer:
            self.write(result.answer)
        if result.out:
            self.pool.stats.bytes_received += result.used
            server.write(b"".join(result.out))
        if server.out or (result.waits and len(self.raw) >= HOLD):
            self.pause()
        elif not self.out:
            self.resume()
        if result.terminated:
            self.leave("client close request")
        elif not back.owed and back.at_rest:
            server.rest(self, monotonic())

    def _forward_untouched(self, server: Server) -> None:
        """max_prepared_statements has been set to 0: PostgreSQL gets the names as they are."""
        data, types = self.front.feed(self.raw, self.context.max_packet_size)
        self.raw = b""
        if types:
            server.back.owe(types)
            server.write(data)
