"""The server's half of a conversation: what it still owes, and when it may be released.

Theory of operation. ``owed`` is a FIFO of what was forwarded and is not answered yet: one entry
for each Parse, Bind, Describe, Execute, Close, Sync, Query, FunctionCall, and one for each CopyDone or
CopyFail. The server's messages take entries off its head:

======================================  ===========================================
message                                 takes
======================================  ===========================================
ParseComplete, BindComplete,            their own entry
CloseComplete
RowDescription, NoData                  a Describe; nothing in answer to a Query
CommandComplete, EmptyQueryResponse,    an Execute; nothing in answer to a Query
PortalSuspended
ReadyForQuery                           a Sync, Query or FunctionCall
======================================  ===========================================

After an ErrorResponse to an extended-query message the server skips everything up to the next
Sync, so these entries are dropped at once, and what the client sends until then is not counted.

COPY FROM STDIN in the extended protocol: a Sync that the client sent together with Execute is
read inside the COPY and ignored there, so CommandComplete drops everything up to CopyDone. When
the COPY fails it cannot be known whether the server had read such a Sync before it failed. The
conversation is then ``tainted``: it goes on, but its server is closed instead of reused.

A message that answers nothing raises :class:`Violation`: this server must never be reused.

https://www.postgresql.org/docs/current/protocol-flow.html
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING

from poolproxy.wire.answering import (
    ANSWERED,
    ANSWERED_BY_READY,
    COPY_ENDS,
    HEADER,
    IN_QUERY,
    NOTICES,
    QUIET,
    QUIET_IN_QUERY,
    TAKES,
)
from poolproxy.wire.codes import (
    BIND,
    COMMAND_COMPLETE,
    COPY_BOTH_RESPONSE,
    COPY_DONE,
    COPY_IN_RESPONSE,
    DATA_ROW,
    ERROR_RESPONSE,
    EXECUTE,
    IDLE,
    PARAMETER_STATUS,
    PARSE,
    QUERY,
    READY_FOR_QUERY,
    SYNC,
)
from poolproxy.wire.rows import past_rows
from poolproxy.wire.session_state import SessionState

if TYPE_CHECKING:
    from poolproxy.wire.statements import Names
    from poolproxy.wire.whole import Whole

_unpack_header = Struct(">BI").unpack_from

UNSYNCED = 0
MAX_PARAMETER_STATUS = 65_536  # bytes; held back until whole, so bounded

_PARSED_AND_BOUND = b"1\0\0\0\x042\0\0\0\x04"

MANY = 2048  # bytes of a chunk whose rows are worth a call
LONGEST_COMMAND = 128  # of CommandComplete: tags are shorter than 64 bytes in PostgreSQL
_NINE = ord("9")  # tags that end otherwise tell no number of rows
_S = ord("S")
_BEGINNINGS = (b"2\0\0\0\4", b"n\0\0\0\4")  # BindComplete, NoData
_BEFORE_NO_ROWS = b"\0\4"  # the last bytes of a CommandComplete, and of these

# Kinds of violations: an answer to nothing, a type that has no place here, an impossible message.
UNASKED, UNEXPECTED, MALFORMED = "unasked", "unexpected", "malformed"
# read_only_sql_transaction: it is a standby, or the transaction is read-only by whoever's wish.
_REFUSES_WRITE = b"\0C25006\0"
REFUSED_WRITE = b""  # no body of a ParameterStatus


class Violation(Exception):
    """The server sent what it did not owe; the connection is in no known state."""

    def __init__(self, text: str, kind: str = MALFORMED) -> None:
        super().__init__(text)
        self.kind = kind


class Backend:
    """One server connection's stream; lives as long as the connection.

    ``status``: transaction status of the last ReadyForQuery; UNSYNCED once an extended query has begun
    after it, for PostgreSQL keeps its transaction open until Sync. ``copy_in``: the server reads CopyData.
    ``client_copies``: the client has been told to send CopyData and has not said that it is done.
    ``left``: bytes of a message that are still to come, ``cut`` its type. ``reports``: bodies of
    ParameterStatus messages seen and not yet collected, and REFUSED_WRITE for each error of that kind.
    ``errors`` counts ErrorResponses.
    ``names``: the linked client's prepared statements, and ``awake``: any have been used here; see
    PreparedBackend. ``whole``: all that is owed is the answer to this, and nothing of it has come.
    ``block``: a transaction block was open amid a pipeline. ``stale``: a cached plan has been refused whose
    result's columns the client had not been told before.
    ``state``: what clients have left in the session; ``said``: all that has been forwarded since nothing was
    owed, None if that is too much to keep.
    """

    __slots__ = (
        "_owed",
        "awake",
        "block",
        "client_copies",
        "copy_in",
        "cut",
        "errors",
        "head",
        "left",
        "names",
        "reports",
        "said",
        "skipping",
        "stale",
        "state",
        "status",
        "tainted",
        "whole",
    )

    def __init__(self) -> None:
        self._owed: deque[int] = deque()
        self.status = IDLE
        self.left = 0
        self.cut = 0
        self.head = b""
        self.skipping = False
        self.copy_in = False
        self.client_copies = False
        self.tainted = False
        self.errors = 0
        self.awake = False
        self.block = False
        self.stale = False
        self.names: Names | None = None
        self.whole: Whole | None = None
        self.reports: list[bytes] = []
        self.said: bytes | None = b""
        self.state = SessionState()

    @property
    def owed(self) -> deque[int]:
        """See above. To ask for it unfolds ``whole``; most of the time nobody does before it is answered."""
        if self.whole is not None:
            self.unfold()
        return self._owed

    def unfold(self) -> None:
        """Owe the messages of ``whole`` one by one: its answer is not awaited as a whole any more."""
        whole, self.whole = self.whole, None
        if whole is not None:
            self._owed.extend(whole.types)

    @property
    def at_rest(self) -> bool:
        """Nothing owed, no transaction, no message half way: its client needs this server no more.

        Whether another may have it depends on ``tainted`` too.
        """
        return (
            not self.owed
            and self.status == IDLE
            and not self.left
            and not self.head
            and not self.client_copies
            and not self.skipping
        )

    @property
    def settled(self) -> bool:
        """Nothing owed, and nothing half way in either direction; a transaction may be open."""
        return not (
            self.owed
            or self.left
            or self.head
            or self.client_copies
            or self.skipping
            or self.status == UNSYNCED
        )

    def owe(self, types: Sequence[int]) -> None:
        """Messages of these types (at least one) have been forwarded to the server."""
        usual = not (self.skipping or self.client_copies) and ANSWERED.issuperset(types)
        if usual and (QUERY not in types or (len(types) == 1 and self.status != UNSYNCED)):
            self.owed.extend(types)
            if types[-1] not in ANSWERED_BY_READY:
                self.status = UNSYNCED
            return
        for code in types:
            if code in ANSWERED and not self.skipping:
                if code == QUERY and self._is_unsynced():
                    self.tainted = True
                self.owed.append(code)
                if code != SYNC and not self.copy_in:
                    self.client_copies = False  # it has given up a failed COPY without CopyDone
                if code not in ANSWERED_BY_READY:
                    self.status = UNSYNCED
            else:
                self._owe_unusual(code)

    def _is_unsynced(self) -> bool:
        """Whether an extended query has begun and its Sync has not been sent.

        PostgreSQL 18.6 answers a Query amid that with "idle", and is then in a state in which the next
        statement, another client's, gets XX000 "unexpected state STARTED".
        """
        if self.owed:
            return self.owed[-1] not in ANSWERED_BY_READY
        return self.status == UNSYNCED

    def _owe_unusual(self, code: int) -> None:
        if code in COPY_ENDS:
            self.client_copies = False
            if self.owed and not self.skipping:
                self.owed.append(COPY_DONE)
        elif code == SYNC:
            self.skipping = False
            self.owed.append(SYNC)

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(bytes to forward, whether the conversation is at rest); raises Violation."""
        # Long, as each message of each answer that is no ordinary whole passes here, and a call for each
        # would cost more than most of them do.
        if self.head:
            data = self.head + data
            self.head = b""
        end = len(data)
        position = self.left
        owed = self.owed
        last = end - HEADER
        code = self.cut
        if not position and data.startswith(_PARSED_AND_BOUND) and self._owes_parse_and_bind():
            position = len(_PARSED_AND_BOUND)
        # Most messages take nothing; one look at the FIFO serves for all of them.
        quiet = QUIET.get(owed[0], NOTICES) if owed and not self.copy_in else NOTICES
        while position <= last:
            code, length = _unpack_header(data, position)
            if code in quiet and length > 3:
                if code == DATA_ROW and end > MANY:
                    position = past_rows(data, position)
                else:
                    position += length + 1
                continue
            if code == COMMAND_COMPLETE and length > 4:
                stop = position + length
                if stop >= end:
                    if length <= LONGEST_COMMAND:
                        break  # its tag shall be seen whole
                elif data[stop - 1] > _NINE:
                    tag = data[position + HEADER : stop]
                    if tag in self.state.watched:
                        self.ended_with(tag)
                elif data[position + HEADER] == _S and (
                    not position or data[position - 1] in _BEFORE_NO_ROWS
                ):
                    self._may_have_created(data, position)
                if quiet is QUIET_IN_QUERY:
                    position = stop + 1
                    continue
            if length < 4:
                raise Violation(f"length {length} of message type {code:#04x}")
            taken = TAKES.get(code)
            if taken:
                if owed and owed[0] == taken and not self.copy_in:
                    owed.popleft()
                else:
                    self._take_unusual(code, taken)
            elif taken is None:
                if code == READY_FOR_QUERY:
                    if length != 5:
                        raise Violation(f"ReadyForQuery of {length} bytes")
                    if position + 6 > end:
                        break
                    if owed and owed[0] in ANSWERED_BY_READY:
                        owed.popleft()
                        self.status = data[position + HEADER]
                        if self.state.marked:
                            self.state.ready(self.status, self.errors)
                        if self.copy_in or owed:
                            self.ready_amid_more()
                    else:
                        self._ready_unusual(data[position + HEADER])
                elif code == PARAMETER_STATUS:
                    if length > MAX_PARAMETER_STATUS:
                        raise Violation(f"ParameterStatus of {length} bytes")
                    if position + length + 1 > end:
                        break
                    body = data[position + HEADER : position + length + 1]
                    if body.count(0) != 2 or body[-1]:
                        raise Violation("broken ParameterStatus packet")
                    self.reports.append(body)
                else:
                    self._unusual(code, data[position : position + length + 1])
            elif not self.tainted:
                self._check_quiet(code)
            position += length + 1
            quiet = QUIET.get(owed[0], NOTICES) if owed and not self.copy_in else NOTICES
        if position >= end:
            self.left = left = position - end
            if left:
                self.cut = code
            return data, not (
                owed or left or self.status != IDLE or self.client_copies or self.skipping
            )
        self.left = 0
        self.head = data[position:]
        return data[:position], False

    def _check_quiet(self, code: int) -> None:
        """A message that takes nothing and is no answer to what is owed first, as it seems."""
        self._drop_copy_dones()
        if not self.owed or code not in QUIET.get(self.owed[0], NOTICES):
            raise Violation(f"message type {code:#04x} that answers nothing", UNASKED)

    def _owes_parse_and_bind(self) -> bool:
        """Take both: the commonest answer in the extended protocol, and two rounds of the loop less."""
        owed = self.owed
        if len(owed) < 2 or owed[0] != PARSE or owed[1] != BIND:
            return False
        owed.popleft()
        owed.popleft()
        return True

    def ready_amid_more(self) -> None:
        """The entry of a ReadyForQuery has been taken; CopyDones right behind it had no reader."""
        self.block = self.block or self.status != IDLE
        self.copy_in = False
        self._drop_copy_dones()
        if self.owed and self.owed[-1] not in ANSWERED_BY_READY:
            self.status = UNSYNCED  # the status told ends before what is still owed

    def ended_with(self, tag: bytes) -> None:
        """A command has ended with this tag, which may tell of a change in the session's state."""
        self.state.answered(tag, self.said, self.errors, self.names)

    def _may_have_created(self, data: bytes, position: int) -> None:
        # A SELECT whose rows nobody got may have put them into a table. Right before its CommandComplete
        # there is then no row or RowDescription, but what begins the answer or another CommandComplete.
        rows = position and not (
            data.startswith(_BEGINNINGS, position - HEADER)
            or (position > 1 and not data[position - 1] and data[position - 2])
        )
        if not rows and data.startswith(b"SELECT", position + HEADER):
            self.ended_with(b"SELECT")

    def _ready_unusual(self, status: int) -> None:
        self._drop_copy_dones()
        if self.owed and self.owed[0] in ANSWERED_BY_READY:
            self.owed.popleft()
        elif not self.tainted:
            raise Violation("ReadyForQuery that answers nothing", UNASKED)
        self.status = status
        if self.state.marked:
            self.state.ready(status, self.errors)
        self.ready_amid_more()

    def _drop_copy_dones(self) -> None:
        while self.owed and self.owed[0] == COPY_DONE:
            self.owed.popleft()

    def _take_unusual(self, code: int, taken: int) -> None:
        if self.copy_in and code == COMMAND_COMPLETE:
            self._copy_is_done()
        self._drop_copy_dones()
        head = self.owed[0] if self.owed else 0
        if head == taken:
            self.owed.popleft()
        elif (head != QUERY or code not in IN_QUERY) and not self.tainted:
            raise Violation(f"message type {code:#04x} that answers nothing", UNASKED)

    def _copy_is_done(self) -> None:
        # The first entry is the Query or Execute that copies. What the client sent between it and
        # CopyDone was read and ignored inside the COPY.
        self.copy_in = False
        owed = self.owed
        if COPY_DONE not in owed:
            return
        copying = owed.popleft()
        while owed.popleft() != COPY_DONE:
            pass
        owed.appendleft(copying)
        if copying == EXECUTE:
            self.status = UNSYNCED  # by an ignored Sync it was taken for ended

    def _unusual(self, code: int, message: bytes) -> None:
        if code == ERROR_RESPONSE:
            self.failed_with(message)
            self._error()
        elif code == COPY_IN_RESPONSE:
            self._drop_copy_dones()
            if not self.owed or self.owed[0] not in (QUERY, EXECUTE):
                raise Violation("CopyInResponse that answers nothing", UNASKED)
            self.copy_in = True
            self.client_copies = COPY_DONE not in self.owed
        elif code == COPY_BOTH_RESPONSE:
            raise Violation("CopyBothResponse outside of a replication connection", UNEXPECTED)
        else:
            raise Violation(f"unexpected message type {code:#04x}", UNEXPECTED)

    def _error(self) -> None:
        owed = self.owed
        self.errors += 1
        copying, self.copy_in = self.copy_in, False
        self._drop_copy_dones()
        if not owed:
            # Nothing asked for it: the server is about to close. Its client has been told, and goes with it.
            self.tainted = self.skipping = True
        elif owed[0] in ANSWERED_BY_READY:
            if copying:
                query = owed.popleft()
                self._drop_through_copy_done()
                owed.appendleft(query)
        else:
            before = list(owed)
            if copying:
                owed.popleft()
                self._drop_through_copy_done()
            while owed and owed[0] != SYNC:
                owed.popleft()
            self.skipping = not owed
            self.undo(before[: len(before) - len(owed)])

    def undo(self, skipped: list[int]) -> None:
        """These entries are dropped because of an error; nothing more here, see PreparedBackend."""

    def failed_with(self, message: bytes) -> None:
        """The server has sent this ErrorResponse, or its beginning: it answers what is owed first."""
        if _REFUSES_WRITE in message:
            self.reports.append(REFUSED_WRITE)

    def _drop_through_copy_done(self) -> None:
        # Inside a COPY the server takes no other message, so it has not read what follows these.
        owed = self.owed
        while owed and owed[0] in (SYNC, COPY_DONE):
            if owed.popleft() == COPY_DONE:
                return
            self.tainted = True
        if owed:
            self.client_copies = False  # it went on without CopyDone before it knew of the error
