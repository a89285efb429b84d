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
from poolproxy.wire.answers import is_stale, refuses_stale_plan
from poolproxy.wire.backend import UNSYNCED
from poolproxy.wire.codes import BIND, DESCRIBE, PARSE, QUERY, SYNC
from poolproxy.wire.frontend import HEADER, PLAIN, SWEEP
from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.said import joined, without_first
from poolproxy.wire.statements import UNNAMED, Names, Statement
from poolproxy.wire.whole import Whole, renamed, whole_execution

if TYPE_CHECKING:
    from poolproxy.relay.server import Server


_DESCRIBE_UNNAMED = b"D\0\0\0\x06S\0"


class PreparingClient(Client):
    """``names``: the statements that it has prepared. ``raw``: bytes that begin a message.

    ``execution``: what ``raw`` is, if it only executes one of them. ``answered``: how many messages were
    answered without the server, of those that have come since it owed nothing. ``refusal``: an ErrorResponse
    that may not have to be shown.
    """

    __slots__ = ("answered", "execution", "raw", "refusal")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.raw = b""
        self.answered = 0
        self.refusal = b""
        self.execution: tuple[Whole, bytes, Statement] | None = None

    def sweeps(self, data: bytes) -> bool:
        names = self.names
        return names is not None and (names.unnamed or SWEEP.search(data) is not None)

    def drop_held(self) -> None:
        super().drop_held()
        self.raw = b""
        self.execution = None

    def executes(self, data: bytes) -> bool:
        found = whole_execution(data)
        if found is None or self.names is None or self.names.unsettled:
            return False
        whole, name = found
        statement = self.names.statements.get(name)
        if statement is None or statement.special:
            return False
        self.raw = data
        self.execution = whole, name, statement
        return True

    def feed(self, data: bytes) -> tuple[bytes, Sequence[int]]:
        if self.raw:
            # Its first message may turn out to name none, now that more of it is there.
            data, self.raw = self.raw + data, b""
            self.execution = None
        plain = PLAIN if self.names is None else self.names.plain
        limit = self.context.max_packet_size
        before = self.front.left
        data, types, self.raw = self.front.feed(data, limit, plain)
        if self.raw and self.names is None:
            self.names = Names(self.context.tracker.place(self.values))
        if self.wait_since and len(self.raw) >= HOLD:
            self.pause()
        if self.names is not None and self.names.unnamed and QUERY in types:
            self.names.drop(UNNAMED)  # as PostgreSQL does
        if self.server is not None and self._borrows(self.server, types, data):
            self._take_unnamed(data[before:])
            return data[:before], ()
        return data, types

    def _borrows(self, server: Server, types: Sequence[int], data: bytes) -> bool:
        """Whether these messages, of a linked client, may use another client's unnamed statement."""
        if PARSE in types or QUERY in types:
            self.own_since = server.xact_since
            return False
        if BIND not in types and not (DESCRIBE in types and _DESCRIBE_UNNAMED in data):
            return False
        began = self.whole.types if self.whole is not None else self.held_types
        return not (
            self.own_since == server.xact_since
            or PARSE in began
            or QUERY in began
            or (self.names is not None and self.names.unnamed)
        )

    def _take_unnamed(self, data: bytes) -> None:
        """The unnamed statement is a name like others from here on; ``data`` begins a message."""
        if self.names is None:
            self.names = Names(self.context.tracker.place(self.values))
        self.names.unnamed = True
        self.raw = data + self.front.head + self.raw
        self.front.head, self.front.left = b"", 0
        self.execution = None

    def _hold(self, data: bytes, types: Sequence[int]) -> None:
        # Of all that comes for a server, only these need the unnamed statement of another server.
        left = PARSE in types and SYNC in types and BIND not in types
        if left or (PARSE not in types and (BIND in types or DESCRIBE in types)):
            self._take_unnamed(data)
            data, types = b"", ()
        super()._hold(data, types)

    def forward_raw(self) -> None:
        server, names = self.server, self.names
        assert server is not None
        assert names is not None
        back = server.back
        if not isinstance(back, PreparedBackend):
            self._forward_untouched(server)
            return
        execution, self.execution = self.execution, None
        if execution is not None:
            whole, name, statement = execution
            if back.execute(whole, name, statement, names.told):
                self._execute(server, whole, name, statement)
                return
        said = back.said if back.owed or back.status == UNSYNCED else b""
        try:
            result = back.forward(names, self.raw, self.context.max_packet_size)
        except PoolerError as error:
            self.fail(error)  # here, as the caller may be the server: it is not to blame
            return
        back.said = joined(said, self.raw[: result.used])
        self.raw = self.raw[result.used :]
        self.front.left = result.left
        if (result.messages or result.out) and not server.query_since:
            server.query_since = monotonic()
            server.xact_since = server.xact_since or server.query_since
        if result.unnamed:
            self.own_since = server.xact_since
        self.answered = len(result.answer) // HEADER if not said else self.answered
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
            self.front.terminated = True
            self.leave("client close request")
        elif not back.owed and back.at_rest:
            server.rest(self, monotonic())

    def _execute(self, server: Server, whole: Whole, name: bytes, statement: Statement) -> None:
        """Have it executed by a server that has the statement and owes nothing else."""
        data = renamed(self.raw, whole, name, statement.name)
        self.pool.stats.bytes_received += len(self.raw)
        server.back.said = self.raw
        self.answered = 0
        self.raw = b""
        self.engine.post((server.quick, data, server))

    def refused(self, server: Server, data: bytes, *, at_rest: bool) -> bytes:
        # It is asked for again silently if this is all that the client would get to see of the answer, and
        # if that tells it anew which columns the result has. PostgreSQL sends it in two parts.
        back = server.back
        answer, self.refusal = self.refusal + data, b""
        if not at_rest and list(back.owed) == [SYNC] and is_stale(answer) and not back.left:
            self.refusal = answer
            return b""
        back.stale = False
        again = without_first(back.said, self.answered)
        # Behind a Flush nothing follows the error before the client sends a Sync.
        flushed = back.skipping and server.query_since == server.xact_since and is_stale(answer)
        alone = flushed or (at_rest and refuses_stale_plan(answer))
        if self.raw or again is None or not alone or not isinstance(back, PreparedBackend):
            return answer
        if flushed:
            server.write(back.sync_silently())
        back.said = b""
        self.raw = again
        self.forward_raw()
        return b""

    def _forward_untouched(self, server: Server) -> None:
        """max_prepared_statements has been set to 0: PostgreSQL gets the names as they are."""
        try:
            data, types, _ = self.front.feed(self.raw, self.context.max_packet_size)
        except PoolerError as error:
            self.fail(error)
            return
        self.raw = b""
        server.back.said = None
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
