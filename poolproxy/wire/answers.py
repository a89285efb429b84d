"""The server's answers where prepared statements are shared: see ``wire.prepared`` for the theory."""

from __future__ import annotations

import re
from collections import OrderedDict
from struct import Struct

from poolproxy.wire.backend import UNSYNCED, Backend, Violation
from poolproxy.wire.codes import (
    BIND,
    COMMAND_COMPLETE,
    DESCRIBE,
    ERROR_RESPONSE,
    IN_FAILED_TRANSACTION,
    PARAMETER_DESCRIPTION,
    QUERY,
    ROW_DESCRIPTION,
)
from poolproxy.wire.frontend import HEADER
from poolproxy.wire.said import named
from poolproxy.wire.shapes import MAX_SHAPE, SHAPES, parameters, shape
from poolproxy.wire.statements import Entry, Kind, Names, Statement, Statements

_unpack_header = Struct(">BI").unpack_from
_pack_header = Struct(">BI").pack

PARSE_COMPLETE = b"1\0\0\0\4"
CLOSE_COMPLETE = b"3\0\0\0\4"
MAX_ERROR = 65_536  # bytes of an ErrorResponse in which a name is put right

FAKED = 256  # added to a type: no message of the server takes such an entry
_DEALLOCATED = b"DEALLOCATE\0"
_ALL_GONE_END = b" ALL\0"
_ALL_GONE = frozenset((b"DEALLOCATE ALL\0", b"DISCARD ALL\0"))
_ALL_GONE_MESSAGES = (b"C\0\0\0\x13DEALLOCATE ALL\0", b"C\0\0\0\x10DISCARD ALL\0")


class PreparedAnswers(Backend):
    """The half of a PreparedBackend that reads the server.

    ``prepared`` are those that it has or will have, the least recently used first, each with its shape there,
    b"" while that is not known. ``special`` counts the entries of the FIFO: while there are any, :meth:`feed`
    takes the way through here.
    """

    __slots__ = (
        "_epoch",
        "_segment",
        "failed",
        "limit",
        "pool",
        "prepared",
        "special",
        "unsettled",
    )

    def __init__(self, pool: Statements, limit: int) -> None:
        super().__init__()
        self.pool = pool
        self.limit = limit
        self.prepared: OrderedDict[Statement, bytes] = OrderedDict()
        self.unsettled: dict[Statement, Entry] = {}
        self.special = 0
        self.failed = False
        self._epoch = 0
        self._segment = 0

    # -- the FIFO ---------------------------------------------------------------------------------

    def _note_transaction(self) -> None:
        if self.status != UNSYNCED:
            self.failed = self.status == IN_FAILED_TRANSACTION

    def ready_amid_more(self) -> None:
        """As in Backend, which then forgets the status told."""
        self.failed = self.status == IN_FAILED_TRANSACTION
        super().ready_amid_more()

    def _entry(
        self, code: int, kind: Kind, statement: Statement, name: bytes, names: Names | None
    ) -> Entry:
        """Append an entry to what the server owes."""
        entry = Entry(code)
        entry.kind, entry.statement, entry.name, entry.names = kind, statement, name, names
        entry.segment = self._segment
        entry.epoch = self._epoch
        entry.refused = False
        entry.shape = b""
        if names is not None:
            names.unsettled[name] = entry
        self.owed.append(entry)
        self.special += 1
        if code != QUERY:
            self.status = UNSYNCED
        return entry

    # -- answers ----------------------------------------------------------------------------------

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """As :meth:`Backend.feed`, with what the client must not see taken out and the rest put in."""
        gone = (_ALL_GONE_END in data or self.head) and self._all_gone(data)
        if not (self.special or gone):
            forwarded, at_rest = super().feed(data)
            if at_rest:
                self.failed = False
                return forwarded, True
            self._note_transaction()
            return forwarded, False
        before = self.left
        try:
            return self._feed_special(data)
        except Violation:
            self.left = before  # nothing of ``data`` reaches the client, so it is where it was
            raise

    def _feed_special(self, data: bytes) -> tuple[bytes, bool]:
        if self.head:
            data = self.head + data
            self.head = b""
        end = len(data)
        position = min(self.left, end)
        self.left -= position
        out = [data[:position]]
        if position and not self.left:
            out.append(self._due_fakes())
        while position + HEADER <= end:
            code, length = _unpack_header(data, position)
            if length < 4:
                raise Violation(f"length {length} of message type {code:#04x}")
            stop = position + length + 1
            if stop > end and length < _WANTED_WHOLE.get(code, 0):
                break
            message = data[position:stop]
            out.append(self._message(code, message))
            position = min(stop, end)
            if self.head:
                position -= len(self.head)
                break
        self.head = data[position:]
        return b"".join(out), not self.owed and self.at_rest

    def _all_gone(self, data: bytes) -> bool:
        """Whether DISCARD ALL or the like may end in ``data``."""
        # A CommandComplete is never forwarded in part, see Backend.feed.
        data = self.head + data
        return any(pattern in data for pattern in _ALL_GONE_MESSAGES)

    def _message(self, code: int, message: bytes) -> bytes:
        """One message of the server: what the client gets to see of it."""
        first = self.owed[0] if self.owed else 0
        entry = first if isinstance(first, Entry) else None
        if entry is not None and code == ERROR_RESPONSE:
            entry.refused = True
            if entry.kind in (Kind.DUPLICATE, Kind.MISSED):
                message = _with_name(message, entry.statement.name, entry.name)
            elif entry.kind is Kind.STALE and _MISSING in message:
                message = _STALE_PLAN
        shown, _ = super().feed(message)
        if code == COMMAND_COMPLETE:
            if message[HEADER:] in _ALL_GONE:
                self._forget_all()
            elif entry and entry.kind is Kind.DEALLOCATED and message[HEADER:] == b"PREPARE\0":
                return b""
            elif entry and entry.kind is Kind.DEALLOCATION and message[HEADER:] != _DEALLOCATED:
                self._undo(entry)  # the portal was bound to something else, by a short way
        if entry is not None and code in SHAPES and entry.kind in _DESCRIBES:
            self._described(entry, code, message)
            shown = b"" if entry.kind is Kind.CHECKED else shown
        if entry is not None and code != ERROR_RESPONSE and not self._owes(entry):
            shown = self._answered(entry, shown)
        return shown if self.left else shown + self._due_fakes()

    def _described(self, entry: Entry, code: int, message: bytes) -> None:
        """PostgreSQL tells what a statement takes, or then what it gives."""
        if code == PARAMETER_DESCRIPTION:
            entry.shape = parameters(message[HEADER:])
            return
        found, statement, names = shape(entry.shape, message[HEADER:]), entry.statement, entry.names
        if statement in self.prepared:
            self.prepared[statement] = found
        if names is not None and names.statements.get(entry.name) is statement:
            names.told[entry.name] = found

    def ended_with(self, tag: bytes) -> None:
        first = self.owed[0] if self.owed else 0
        if not (isinstance(first, Entry) and first.kind in _DEALLOCATE_OURS):
            super().ended_with(tag)

    def _owes(self, entry: Entry) -> bool:
        return bool(self.owed) and self.owed[0] is entry

    def _answered(self, entry: Entry, shown: bytes) -> bytes:
        """The server has done what the entry stands for."""
        self._settle(entry)
        if entry.kind is Kind.DEALLOCATED and entry.names and not entry.refused:
            entry.names.drop(entry.name)
        return b"" if entry.kind in _SWALLOWED else shown

    def _due_fakes(self) -> bytes:
        """The answers that are ours to give, up to the next that is the server's."""
        answers = b""
        while self.owed and self.owed[0] > FAKED:
            entry = self.owed.popleft()
            assert isinstance(entry, Entry)
            self._settle(entry)
            answers += FAKES[entry.kind]
        return answers

    def _settle(self, entry: Entry) -> None:
        self.special -= 1
        if self.unsettled.get(entry.statement) is entry:
            del self.unsettled[entry.statement]
        if entry.kind is Kind.DESCRIBED and entry.names is not None:
            entry.names.telling.discard(entry.name)
        if entry.names is not None and entry.names.unsettled.get(entry.name) is entry:
            del entry.names.unsettled[entry.name]

    def undo(self, skipped: list[int]) -> None:
        """The server does not do these: what they had changed, the last one first, is as before."""
        for entry in reversed(skipped):
            if isinstance(entry, Entry):
                self._settle(entry)
                self._undo(entry)

    def _undo(self, entry: Entry) -> None:
        statement, names = entry.statement, entry.names
        if entry.kind in (Kind.PARSED, Kind.INJECTED_PARSE):
            self.prepared.pop(statement, None)
        elif entry.kind is Kind.EVICTED and entry.epoch == self._epoch:
            self.prepared[statement] = entry.shape
            self.prepared.move_to_end(statement, last=False)
        if names is None:
            return
        if entry.kind in (Kind.FAKED_CLOSE, Kind.DEALLOCATION):
            names.put(entry.name, statement)
        elif entry.kind in (Kind.PARSED, Kind.FAKED_PARSE):
            names.drop(entry.name)

    def _forget_all(self) -> None:
        """DISCARD ALL or DEALLOCATE ALL: gone are all whose answers came before this one, but the unnamed."""
        self._epoch += 1
        for statement in [s for s in self.prepared if s not in self.unsettled]:
            del self.prepared[statement]
        names = self.names
        if names is not None:
            for name in [n for n in names.statements if n and n not in names.unsettled]:
                names.drop(name)

    def failed_with(self, message: bytes) -> None:
        """An ErrorResponse that tells that a statement, or the server, is of no use any more.

        After DDL a cached plan can be of no use any more, for any client. All statements of this server are
        taken for such, as DDL seldom spoils one. And a client can touch our names behind our back, such as
        by DEALLOCATE in a function. The server is then closed when it is free.
        """
        super().failed_with(message)
        if is_stale(message):
            self._supersede()
        elif _TOUCHED.search(message) is not None and b'"POOLPROXY_' in message:
            self.tainted = True

    def _supersede(self) -> None:
        self.pool.supersede(self.prepared)
        names = self.names
        if names is None:
            return
        first = self.owed[0] if self.owed else 0
        if isinstance(first, Entry) and first.kind is Kind.CHECKED:
            name: bytes | None = first.name
            is_first = False
        else:
            name, is_first = named(self.said, sum(map(_names_one, self.owed)))
        # Only if nothing before it has been answered can all be asked for again.
        self.stale = is_first and name in names.statements and name not in names.told
        # From this error the client has to learn that the result's columns have changed.
        if name is None:
            names.told.clear()
            names.telling.clear()
        else:
            names.told.pop(name, None)
            names.telling.discard(name)


def is_stale(answer: bytes) -> bool:
    """Whether this ends with an ErrorResponse that says "cached plan must not change result type", in any
    language; nothing is before that but a ParameterDescription.
    """
    start = _unpack_header(answer)[1] + 1 if answer[:1] == b"t" else 0
    return answer[start : start + 1] == b"E" and all(part in answer for part in _STALE)


def refuses_stale_plan(answer: bytes) -> bool:
    """Whether this is such an answer outside of a transaction block, and nothing else."""
    if answer[-6:] != b"Z\0\0\0\5I" or not is_stale(answer):
        return False
    start = _unpack_header(answer)[1] + 1 if answer[:1] == b"t" else 0
    length: int = _unpack_header(answer, start)[1]
    return start + length + 1 == len(answer) - 6


def _names_one(code: int) -> bool:
    """Whether this is owed for a Bind or Describe of the client's."""
    return code in _NAMING and not (isinstance(code, Entry) and code.kind is Kind.CHECKED)


_STALE = (b"\0C0A000\0", b"\0RRevalidateCachedQuery\0")
_STALE_ERROR = (
    b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0"
    b"Fplancache.c\0RRevalidateCachedQuery\0\0"
)
_STALE_PLAN = _pack_header(ERROR_RESPONSE, len(_STALE_ERROR) + 4) + _STALE_ERROR
_MISSING = b"\0C26000\0"
_TOUCHED = re.compile(rb"\0C(?:26000|42P05)\0")  # does not exist, exists already
_NAMING = frozenset((BIND, DESCRIBE))
_DEALLOCATE_OURS = frozenset((Kind.DEALLOCATED, Kind.DEALLOCATION))
_SWALLOWED = frozenset((Kind.INJECTED_PARSE, Kind.EVICTED, Kind.PASSING, Kind.CHECKED))
_DESCRIBES = frozenset((Kind.DESCRIBED, Kind.CHECKED))
_WANTED_WHOLE = {
    ERROR_RESPONSE: MAX_ERROR,
    COMMAND_COMPLETE: MAX_ERROR,
    PARAMETER_DESCRIPTION: MAX_SHAPE,
    ROW_DESCRIPTION: MAX_SHAPE,
}
FAKES = {Kind.FAKED_PARSE: PARSE_COMPLETE, Kind.FAKED_CLOSE: CLOSE_COMPLETE}


def _with_name(message: bytes, ours: bytes, theirs: bytes) -> bytes:
    """An ErrorResponse with the client's name in the place of ours."""
    body = message[HEADER:].replace(b'"' + ours + b'"', b'"' + theirs + b'"')
    return _pack_header(ERROR_RESPONSE, len(body) + 4) + body
