"""Named prepared statements that follow a client from server to server.

Theory of operation. A client's name stands for a :class:`Statement` (text and parameter types), which
all clients of a pool share. On a server each statement has one name of ours, ``POOLPROXY_`` and a hash of it.
Messages that name a statement are rewritten; where the server lacks it, a Parse is injected before.
What the client must not see of that (the ParseComplete of an injected Parse, the CloseComplete of an
eviction) is swallowed, and what it must see although nothing was sent (ParseComplete where
the server has the statement already, CloseComplete of a name that is only ours) is put in at its
place in the order of answers. All this is kept in the FIFO of what the server owes: an
:class:`Entry` is such a message's entry.

Nothing is certain before the server has answered: an error skips all up to the next Sync. So a
change is *tentative* until its entry is answered, and undone when its entry is dropped. A
message whose meaning hangs on a tentative change of an *earlier* segment (from Sync to Sync) waits
until that is settled; within a segment it shares its fate anyway.

Names that the client has not prepared here are forwarded as they are, so that PostgreSQL itself
answers 26000, and statements made with SQL's PREPARE work within a transaction. A duplicate name is
answered by PostgreSQL too: a stand-in's name is made one, and in the error put right.

While the transaction has failed PostgreSQL refuses every Parse with 25P02, so none is faked then.

Who has been told what a statement takes and gives, by a Describe of it, relies on that: PostgreSQL refuses
to execute it once DDL has changed its result. So before such a client's Bind goes to a server where nobody
has asked yet, a Describe is injected; where its answer is another one, the Bind is made to fail as
PostgreSQL would let it fail (see ``wire.shapes``).

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

from poolproxy.errors import PoolerError
from poolproxy.wire.build import SYNC_MESSAGE
from poolproxy.wire.by_sql import SqlDeallocation
from poolproxy.wire.codes import (
    BIND,
    CLOSE,
    DESCRIBE,
    EXECUTE,
    IDLE,
    IN_FAILED_TRANSACTION,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
)
from poolproxy.wire.deallocate import deallocated
from poolproxy.wire.frontend import (
    HEADER,
    ORDINARY,
    bad_message,
    may_name,
)
from poolproxy.wire.provision import (
    ENDS_SEGMENT,
    FLUSH_MESSAGE,
    MAX_HEAD,
    Forwarded,
    Incomplete,
    Wait,
)
from poolproxy.wire.statements import (
    MISSING,
    NOWHERE,
    STAND_IN,
    UNNAMED,
    Kind,
    Names,
    Statement,
)
from poolproxy.wire.whole import SMALL

if TYPE_CHECKING:
    from poolproxy.wire.whole import Whole

Told: TypeAlias = dict[bytes, bytes]

_unpack_header = Struct(">BI").unpack_from
_pack_header = Struct(">BI").pack

STATEMENT = ord("S")  # the kind in Describe and Close; the other is P, a portal

# Bytes of a named statement's Parse. Each is kept as long as a client or server has it, so it is
# bounded; PostgreSQL's own clients send texts this long without a name.
MAX_STATEMENT = 1024 * 1024
MAX_NAMES = 10_000  # statements that one client can have
MAX_BYTES = 32 * 1024 * 1024  # of their names and texts
# Answers outstanding: with more, a client that sends no Flush is made to wait for some. What is faked
# never reaches the server, so nothing else would bound it.
MAX_OWED = 4096

_NO_PORTALS = frozenset((IDLE, IN_FAILED_TRANSACTION))  # they end with their transaction


class PreparedBackend(SqlDeallocation):
    """A server connection that shares prepared statements; ``limit`` bounds how many it keeps."""

    __slots__ = ()

    # -- client to server -------------------------------------------------------------------------

    def forward(self, names: Names, data: bytes, max_packet_size: int) -> Forwarded:
        """Rewrite what the client has sent; ``data`` begins a message. Raises PoolerError."""
        self.names = names
        self.awake = True
        if names.unsettled or self.unsettled:
            self._note_end_of_segment()
        if not self.owed and self.status in _NO_PORTALS:
            names.portals.clear()
        result = Forwarded()
        end = len(data)
        while result.used + HEADER <= end and not result.left:
            code, length = _unpack_header(data, result.used)
            if code == TERMINATE:
                result.terminated = True
                break
            if code not in ORDINARY or not 4 <= length < max_packet_size:
                raise bad_message(code, data[result.used : result.used + HEADER])
            stop = result.used + length + 1
            body = result.used + HEADER
            plain = names.plain
            if data.startswith(plain[code], body) or not may_name(code, data, body, length, plain):
                self._plain(names, data, max_packet_size, result)
                continue
            try:
                self._one(names, code, data[result.used : stop], length + 1, result)
            except Wait:
                result.waits = True
                break
            except Incomplete:
                break
            result.messages += 1
            result.left = max(0, stop - end)
            result.used = min(stop, end)
        return result

    def execute(self, whole: Whole, name: bytes, statement: Statement, told: Told) -> bool:
        """Owe the answer to an execution of ``statement``, if nothing else is owed and the server has it as
        the client has been ``told``.
        """
        shape = self.prepared.get(statement)
        if self.owed or shape is None or self.status != IDLE:
            return False
        if told and told.get(name, shape) != shape:
            return False
        self.prepared.move_to_end(statement)
        self.awake = True
        self.pool.binds += 1
        self.whole = whole
        return True

    def sync_silently(self) -> bytes:
        """A Sync in the place of one that the client is yet to send; nobody is told of its answer."""
        self.skipping = False
        self._entry(SYNC, Kind.PASSING, STAND_IN, b"", None)
        self._segment += 1
        return SYNC_MESSAGE

    def _plain(self, names: Names, data: bytes, max_packet_size: int, result: Forwarded) -> None:
        """Messages that name no statement, the first of which is known to be good, go as they are."""
        position, end = result.used, len(data)
        plain = names.plain
        types = []
        while position + HEADER <= end:
            code, length = _unpack_header(data, position)
            start = plain.get(code)
            if start is None or not 4 <= length < max_packet_size:
                break
            body = position + HEADER
            if (
                start
                and not data.startswith(start, body)
                and may_name(code, data, body, length, plain)
            ):
                break
            types.append(code)
            position += length + 1
            if code in ENDS_SEGMENT:
                self._segment += 1
            if code == QUERY:
                names.drop(UNNAMED)  # as PostgreSQL does
        self._note_transaction()
        self.owe(types)
        result.unnamed = result.unnamed or PARSE in types or QUERY in types
        result.messages += len(types)
        result.left = max(0, position - end)
        result.out.append(data[result.used : position])
        result.used = min(position, end)

    def _one(self, names: Names, code: int, message: bytes, size: int, result: Forwarded) -> None:
        """One message, whose bytes may be incomplete: ``size`` is what it has in all."""
        if not self.skipping:
            if len(self.owed) >= MAX_OWED:
                result.out.append(FLUSH_MESSAGE)
                raise Wait
            self._note_transaction()
            if not self.copy_in:
                self.client_copies = False  # as in Backend: a failed COPY without its end
            if code == BIND and self._bind(names, message, size, result):
                return
            if code == PARSE and self._parse(names, message, size, result):
                return
            if code in (DESCRIBE, CLOSE) and self._describe_or_close(names, message, size, result):
                return
            if code == EXECUTE and self._execute(names, message, size, result):
                return
            if code == QUERY and self._deallocate(names, message, size, result):
                return
        result.out.append(message)
        self.owe((code,))
        if code in ENDS_SEGMENT:
            self._segment += 1

    def _parse(self, names: Names, message: bytes, size: int, result: Forwarded) -> bool:
        unnamed = len(message) > HEADER and not message[HEADER]
        if unnamed and not self._follows_unnamed(names, message, size):
            names.drop(UNNAMED)
            result.unnamed = True
            return False
        if size > MAX_STATEMENT:
            raise _too_long()
        if len(message) < size:
            raise Incomplete
        end = message.find(b"\0", HEADER)
        if end < 0:
            return False
        name, tail = message[HEADER:end], message[end + 1 :]
        self._settled_name(names, name)
        if unnamed:
            names.drop(UNNAMED)
        elif name in names.statements:
            self._refuse_duplicate(name, tail, result)
            return True
        if len(names.statements) >= MAX_NAMES or names.size + size > MAX_BYTES:
            raise PoolerError(
                "too many prepared statements",
                sqlstate="54000",
                hint=f"A client can have {MAX_NAMES} of them, with {MAX_BYTES} bytes in all."
                " Close those that are no longer used.",
                reason="prepared_statements",
            )
        statement = self.pool.get(tail, names.place)
        self._settled(statement)
        if statement not in self.prepared:
            self._make_room(statement, result)
            self._send_parse(Kind.PARSED, statement, name, names, result)
        elif self.failed:
            # PostgreSQL refuses it, unless it ends the transaction: let it say so itself.
            self._evict(statement, result)
            self._send_parse(Kind.PARSED, statement, name, names, result)
        elif self._amid_segments():
            raise Wait  # an earlier segment may fail the transaction
        else:
            self.prepared.move_to_end(statement)
            self._fake(Kind.FAKED_PARSE, statement, name, names, result)
        names.put(name, statement)
        self.pool.client_parses += 1
        return True

    def _follows_unnamed(self, names: Names, message: bytes, size: int) -> bool:
        """Whether the unnamed statement of this Parse is to be a name like others."""
        names.passed = size > MAX_STATEMENT
        if names.passed:
            return False
        if names.briefly or not names.unnamed:
            if len(message) < size < SMALL:
                raise Incomplete
            names.briefly = size < SMALL and deallocated(message, HEADER + 1) is not None
            names.unnamed = names.briefly
        return names.unnamed

    def _bind(self, names: Names, message: bytes, size: int, result: Forwarded) -> bool:
        portal_end = message.find(b"\0", HEADER)
        end = message.find(b"\0", portal_end + 1) if portal_end >= 0 else -1
        if end < 0:
            if len(message) < size and len(message) < MAX_HEAD:
                raise Incomplete
            return False
        if names.portals:
            names.portals.pop(message[HEADER:portal_end], None)
        name = message[portal_end + 1 : end]
        statement = self._find(names, name)
        if statement is None:
            return False
        if statement.deallocates is not None:
            statement = self._bound(names, message[HEADER:portal_end], statement)
        self._ensure(statement, result)
        stale = names.told and not self._is_as_told(names, name, statement, result)
        if stale:
            self._entry(BIND, Kind.STALE, statement, name, None)
            statement = NOWHERE  # so that PostgreSQL fails the transaction
        else:
            self.owe((BIND,))
        length = size - 1 - (end - portal_end - 1) + len(statement.name)
        result.out += [
            _pack_header(BIND, length),
            message[HEADER : portal_end + 1],
            statement.name,
            message[end:],
        ]
        self.pool.binds += 1
        return True

    def _describe_or_close(
        self, names: Names, message: bytes, size: int, result: Forwarded
    ) -> bool:
        if len(message) < size:
            if size > MAX_HEAD:
                return False
            raise Incomplete
        if size < HEADER + 2 or message[HEADER] != STATEMENT or message[-1]:
            return False
        name = message[HEADER + 1 : -1]
        statement = self._find(names, name)
        if statement is None:
            return False
        if message[0] == CLOSE:
            names.drop(name)
            self._fake(Kind.FAKED_CLOSE, statement, name, names, result)
            return True
        self._ensure(statement, result)
        result.out.append(statement.describe_message())
        if statement is MISSING:
            self.owe((DESCRIBE,))
            return True
        names.telling.add(name)
        self._entry(DESCRIBE, Kind.DESCRIBED, statement, name, None).names = names
        return True


def _too_long() -> PoolerError:
    return PoolerError(
        f"prepared statement is longer than {MAX_STATEMENT} bytes",
        sqlstate="54000",
        hint="Use the unnamed statement for it, or set max_prepared_statements = 0.",
        reason="prepared_statements",
    )
