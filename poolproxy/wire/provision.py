"""The statements of a server connection: what it is made to have before a client's message names one.

See ``wire.prepared`` for the theory.
"""

from __future__ import annotations

from struct import Struct

import attrs

from poolproxy.wire.answers import FAKED, FAKES, PreparedAnswers
from poolproxy.wire.codes import CLOSE, DESCRIBE, FLUSH, FUNCTION_CALL, PARSE, QUERY, SYNC
from poolproxy.wire.deallocate import ALL
from poolproxy.wire.statements import MISSING, STAND_IN, Entry, Kind, Names, Statement

_pack_header = Struct(">BI").pack

ENDS_SEGMENT = frozenset((SYNC, QUERY, FUNCTION_CALL))
FLUSH_MESSAGE = _pack_header(FLUSH, 4)
# Bytes that are waited for: of a Bind, before its statement's name has ended; of others, to read them whole.
MAX_HEAD = 65_536


@attrs.define
class Forwarded:
    """What became of a client's bytes: ``out`` goes to the server, ``answer`` to the client now.

    ``used`` of the bytes are dealt with; the rest is incomplete or, with ``waits``, must be offered again
    when the server has answered more. ``left``: bytes of the last message that are still to come.
    ``unnamed``: the server's unnamed statement is what the client has made it, or gone, as by a Query.
    """

    out: list[bytes] = attrs.field(factory=list)
    answer: bytes = b""
    used: int = 0
    left: int = 0
    waits: bool = False
    terminated: bool = False
    messages: int = 0
    unnamed: bool = False


class Wait(Exception):
    """The message hangs on what an earlier segment does, or on an answer to us."""


class Incomplete(Exception):
    """More bytes of the message are needed."""


class Provision(PreparedAnswers):
    """The part of a PreparedBackend that knows which statements its server has, and gives it others."""

    __slots__ = ()

    def _find(self, names: Names, name: bytes) -> Statement | None:
        if not name and not names.unnamed:
            return None
        if names.unsettled:
            self._settled_name(names, name)
        found = names.statements.get(name)
        if found is None:
            return None if name or names.passed else MISSING
        if found.superseded and name not in names.told and name not in names.telling:
            found = names.statements[name] = self.pool.get(found.tail, names.place)
        return found

    def _settled_name(self, names: Names, name: bytes) -> None:
        entry = names.unsettled.get(name)
        if ALL in names.unsettled or (entry is not None and entry.segment != self._segment):
            raise Wait

    def _settled(self, statement: Statement) -> None:
        entry = self.unsettled.get(statement)
        if entry is not None and entry.segment != self._segment:
            raise Wait

    def _note_end_of_segment(self) -> None:
        """What names no statement may have come here another way, its Sync too."""
        for code in reversed(self.owed):
            if code in ENDS_SEGMENT:
                self._segment += 1
                return
            if isinstance(code, Entry):
                return

    def _amid_segments(self) -> bool:
        owed = self.owed
        return SYNC in owed or QUERY in owed or FUNCTION_CALL in owed

    def _ensure(self, statement: Statement, result: Forwarded) -> None:
        """Make sure that the server has the statement when it gets to the next message."""
        if statement is MISSING:
            result.out.append(statement.close_message())
            self._entry(CLOSE, Kind.PASSING, STAND_IN, b"", None)
            return
        self._settled(statement)
        if statement in self.prepared:
            self.prepared.move_to_end(statement)
            return
        self._make_room(statement, result)
        self._send_parse(Kind.INJECTED_PARSE, statement, b"", None, result)

    def _is_as_told(
        self, names: Names, name: bytes, statement: Statement, result: Forwarded
    ) -> bool:
        """Whether the statement, which the server has, takes and gives what the client has been told. Where
        that is not known the server is asked, and the message waits for it.
        """
        told = names.told.get(name)
        if told is None or self.failed:  # PostgreSQL executes nothing in a failed transaction
            return True
        found = self.prepared[statement]
        if found:
            return found == told
        if not any(isinstance(e, Entry) and e.kind is Kind.CHECKED for e in self.owed):
            result.out += [statement.describe_message(), FLUSH_MESSAGE]
            self._entry(DESCRIBE, Kind.CHECKED, statement, name, None)
        raise Wait

    def _send_parse(
        self, kind: Kind, statement: Statement, name: bytes, names: Names | None, result: Forwarded
    ) -> None:
        result.out.append(statement.parse_message())
        self.pool.server_parses += 1
        self.prepared[statement] = b""
        self.unsettled[statement] = self._entry(PARSE, kind, statement, name, names)

    def _refuse_duplicate(self, name: bytes, tail: bytes, result: Forwarded) -> None:
        """Have PostgreSQL say what is wrong, with the text or else with the name. Not with what has the name:
        DDL can have spoilt that, and then a server that lacks it can't be given it.
        """
        self._make_stand_in(result)
        body = STAND_IN.name + b"\0" + tail
        result.out.append(_pack_header(PARSE, len(body) + 4) + body)
        self._entry(PARSE, Kind.DUPLICATE, STAND_IN, name, None)

    def _close_stand_in(self, result: Forwarded) -> None:
        result.out.append(STAND_IN.close_message())
        self._entry(CLOSE, Kind.PASSING, STAND_IN, b"", None)

    def _make_stand_in(self, result: Forwarded) -> None:
        self._close_stand_in(result)
        result.out.append(STAND_IN.parse_message())
        self._entry(PARSE, Kind.PASSING, STAND_IN, b"", None)

    def _make_room(self, statement: Statement, result: Forwarded) -> None:
        surplus = len(self.prepared) + 1 - self.limit
        if surplus > 0:
            settled = [s for s in self.prepared if s not in self.unsettled and s is not statement]
            for oldest in settled[:surplus]:
                self._evict(oldest, result)

    def _evict(self, statement: Statement, result: Forwarded) -> None:
        result.out.append(statement.close_message())
        entry = self._entry(CLOSE, Kind.EVICTED, statement, b"", None)
        entry.shape = self.prepared.pop(statement)
        self.unsettled[statement] = entry

    def _fake(
        self, kind: Kind, statement: Statement, name: bytes, names: Names, result: Forwarded
    ) -> None:
        if not self.owed:
            result.answer += FAKES[kind]
            return
        code = PARSE if kind is Kind.FAKED_PARSE else CLOSE
        self._entry(FAKED + code, kind, statement, name, names)
