"""The client's half of a conversation: where its messages begin and what they are.

Theory of operation. Client bytes are forwarded as they come; only headers are looked at. A
:class:`Frontend` is fed each chunk and says which bytes may go on and which messages begin in
them. What it keeps between chunks is little: how many bytes of a message that has begun are still
to come (``left``), and a header that is not complete yet (``head``, at most four bytes, held back
until its type and length are known).

Nothing here knows about servers; what the server then owes is ``backend``'s business.
"""

from __future__ import annotations

import re
from struct import Struct

from poolproxy.errors import PoolerError
from poolproxy.wire.codes import (
    BIND,
    CLOSE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    PARSE,
    QUERY,
    TERMINATE,
)
from poolproxy.wire.deallocate import deallocated
from poolproxy.wire.whole import SMALL

_unpack_header = Struct(">BI").unpack_from

HEADER = 5  # bytes of type and length
ORDINARY = frozenset(b"BCDEFHPQScdf")  # all but Terminate
# How the body of a message begins that names no prepared statement; b"" where the type says it. For those
# whose names are nobody's business:
ALL_PLAIN = dict.fromkeys(ORDINARY, b"")
# For the others; Describe and Close of the unnamed statement begin otherwise. What an unnamed one deallocates
# may be named before that is executed, so its text is looked at: no Parse begins with five zero bytes.
PLAIN = ALL_PLAIN | {PARSE: b"\0" * 5, BIND: b"\0\0", DESCRIBE: b"P", CLOSE: b"P"}
# The same for who has named some: no text of a Query begins with a zero byte but the empty one.
PLAIN_BUT_SQL = PLAIN | {QUERY: b"\0"}
# The same where a client uses the unnamed statement beyond its Sync, so that it is a name as others are. No
# valid message begins so: what is empty ends earlier, and no type is a zero byte.
PLAIN_BUT_UNNAMED = PLAIN_BUT_SQL | {BIND: b"\0" * 9}
# The same where a portal may be bound to SQL that names one.
PLAIN_BUT_PORTALS = PLAIN_BUT_UNNAMED | {EXECUTE: b"\0" * 6}
SWEEP = re.compile(rb"deallocate|discard", re.IGNORECASE)
UNANSWERED = frozenset((COPY_DATA, COPY_DONE, COPY_FAIL, FLUSH))


class Frontend:
    """One client's stream. ``max_packet_size`` bounds a message's length in bytes.

    ``terminated``: the client has sent Terminate; what follows it is ignored.
    """

    __slots__ = ("head", "left", "terminated")

    def __init__(self) -> None:
        self.head = b""
        self.left = 0
        self.terminated = False

    @property
    def between_messages(self) -> bool:
        """True when no message is half way through."""
        return not self.left and not self.head

    def feed(
        self, data: bytes, max_packet_size: int, plain: dict[int, bytes] = ALL_PLAIN
    ) -> tuple[bytes, list[int], bytes]:
        """(bytes to forward, types of the messages that begin in them, the rest); raises PoolerError.

        The rest begins with the first message that names a prepared statement, that is, does not begin as
        ``plain`` says; this object has nothing to do with it.
        """
        if self.head:
            data = self.head + data
            self.head = b""
        end = len(data)
        position = self.left
        types: list[int] = []
        last = end - HEADER
        while position <= last:
            code, length = _unpack_header(data, position)
            start = plain.get(code)
            if start is None or not 4 <= length < max_packet_size:
                if code == TERMINATE:
                    self.terminated = True
                    self.left = 0
                    return data[:position], types, b""
                raise bad_message(code, data[position : position + HEADER])
            if (
                start
                and not data.startswith(start, position + HEADER)
                and may_name(code, data, position + HEADER, length, plain)
            ):
                self.left = 0
                return data[:position], types, data[position:]
            types.append(code)
            position += length + 1
        if position >= end:
            self.left = position - end
            return data, types, b""
        self.left = 0
        self.head = data[position:]
        return data[:position], types, b""


def may_name(code: int, data: bytes, body: int, length: int, plain: dict[int, bytes]) -> bool:
    """Whether a message names a statement, when it does not begin as those that don't; also when its
    beginning is not there yet.

    SQL does if it is a DEALLOCATE or DISCARD, in a Query also among others. A large message is not waited
    for to see that.
    """
    unnamed = code == PARSE and data[body : body + 1] == b"\0"
    if code == QUERY or (unnamed and (plain is PLAIN or plain is PLAIN_BUT_SQL)):
        end = body + length - 4
        if end > len(data):
            return length < SMALL
        if SWEEP.search(data, body, end) is None:
            return False
        return code == QUERY or deallocated(data, body + 1) is not None
    if code not in (DESCRIBE, CLOSE) or plain is PLAIN_BUT_UNNAMED or plain is PLAIN_BUT_PORTALS:
        return True
    return data[body + 1 : body + 2] != b"\0"


def bad_message(code: int, header: bytes) -> PoolerError:
    """Why a message that begins with ``header`` can't be forwarded."""
    if code not in ORDINARY:
        return PoolerError("unknown pkt", hint=f"Message type {code:#04x} is not known.")
    return PoolerError(
        f"bad packet header: '{header.hex()}'",
        hint="The message's length is wrong, or larger than max_packet_size.",
    )


def expected_size(data: bytes) -> int:
    """How many bytes the first message of ``data`` has in all; 0 while its header is incomplete."""
    if len(data) < HEADER:
        return 0
    length: int = _unpack_header(data)[1]
    return length + 1


def skip_unanswered(data: bytes) -> int:
    """Where the first message begins that is no CopyData, CopyDone, CopyFail or Flush.

    A client can send these after the server has failed its COPY; without a server they have no
    reader and are dropped, as PostgreSQL itself drops them. May point beyond the end of ``data``:
    so many bytes of the last one are still to come.
    """
    position = 0
    end = len(data)
    while position + HEADER <= end:
        code, length = _unpack_header(data, position)
        if code not in UNANSWERED or length < 4:
            break
        position += length + 1
    return position
