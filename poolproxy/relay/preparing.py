"""A client of a pool that shares prepared statements (transaction and statement mode).

What names no statement takes the same way as everybody's bytes. From the first message that does, a
chunk is ``raw``: it can be forwarded only to a server that is known, message by message (see
``wire.prepared``), and sometimes only when the server has answered more.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from poolproxy.errors import PoolerError
from poolproxy.relay.client import HOLD, Client
from poolproxy.wire.frontend import PLAIN, PLAIN_BUT_SQL, SWEEP
from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.statements import Names

if TYPE_CHECKING:
    from poolproxy.relay.server import Server


class PreparingClient(Client):
    """``names``: the statements that it has prepared. ``raw``: bytes that begin a message."""

    __slots__ = ("names", "raw")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.names: Names | None = None
        self.raw = b""

    def sweeps(self, data: bytes) -> bool:
        return self.names is not None and SWEEP.search(data) is not None

    def feed(self, data: bytes) -> tuple[bytes, Sequence[int]]:
        if self.raw:
            self.raw += data
            if self.wait_since and len(self.raw) >= HOLD:
                self.pause()
            return b"", ()
        plain = PLAIN if self.names is None else PLAIN_BUT_SQL
        limit = self.context.max_packet_size
        data, types, self.raw = self.front.feed_until_named(data, limit, plain)
        if self.raw and self.names is None:
            self.names = Names()
        return data, types

    def forward_raw(self) -> None:
        server, names = self.server, self.names
        assert server is not None
        assert names is not None
        back = server.back
        if not isinstance(back, PreparedBackend):
            self._forward_untouched(server)
            return
        try:
            result = back.forward(names, self.raw, self.context.max_packet_size)
        except PoolerError as error:
            self.fail(error)  # here, as the caller may be the server: it is not to blame
            return
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
        else:
            self.resume()
        if result.terminated:
            self.leave("client close request")
        elif not back.owed and back.at_rest:
            server.rest(self, monotonic())

    def _forward_untouched(self, server: Server) -> None:
        """max_prepared_statements has been set to 0: PostgreSQL gets the names as they are."""
        try:
            data, types = self.front.feed(self.raw, self.context.max_packet_size)
        except PoolerError as error:
            self.fail(error)
            return
        self.raw = b""
        if types:
            server.back.owe(types)
        if data:
            self.pool.stats.bytes_received += len(data)
            server.write(data)
        if server.out:
            self.pause()
        else:
            self.resume()
        if self.front.terminated:
            self.leave("client close request")
