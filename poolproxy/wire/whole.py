"""The commonest exchanges, recognised at one look.

Most of what goes through a pooler is one of few requests that come in one chunk: a Query, the five
messages that client libraries send for one unnamed statement (Parse, Bind, Describe, Execute, Sync), or
what executes a prepared one. And most answers come in one chunk too: rows, one CommandComplete,
ReadyForQuery. Following these through ``frontend`` and ``backend`` message by message gives the same
result at three times the cost; here they are recognised as wholes.

What is recognised is exact: every header is looked at, and nothing is taken for a whole that ``frontend``
and ``backend`` would not pass unchanged. Whatever differs in the least (another message among them, a
transaction that stays open, a tag that does not end with a number of rows, a byte too many) is none,
and takes the general way.

Lengths below 4, which no message has, need no test of their own: the next header would then begin
inside this length, whose bytes are no message type.
"""

from __future__ import annotations

from struct import Struct
from struct import error as TooShort

import attrs

from poolproxy.wire.codes import (
    BIND,
    COMMAND_COMPLETE,
    DATA_ROW,
    DESCRIBE,
    EXECUTE,
    IDLE,
    IN_TRANSACTION,
    NO_DATA,
    PARSE,
    QUERY,
    ROW_DESCRIPTION,
    SYNC,
)

_unpack_header = Struct(">BI").unpack_from
_pack_header = Struct(">BI").pack

HEADER = 5  # bytes of type and length
SMALL = 8192  # bytes; below any sensible max_packet_size

# How a Query of so many bytes begins, and a Bind of this length for the unnamed portal and statement, as to
# compare takes half as long as to unpack.
_SIZES = 1024
_QUERY_HEADERS = tuple(_pack_header(QUERY, max(0, size - 1)) for size in range(_SIZES))
_BINDS = tuple(_pack_header(BIND, length) + b"\0\0" for length in range(_SIZES))
_SYNC = b"S\0\0\0\x04"
_EXECUTE_SYNC = b"E\0\0\0\x09\0\0\0\0\0" + _SYNC
_DESCRIBE_EXECUTE_SYNC = b"D\0\0\0\x06P\0" + _EXECUTE_SYNC
_LONG, _SHORT = len(_DESCRIBE_EXECUTE_SYNC), len(_EXECUTE_SYNC)
_DESCRIBED = frozenset((ROW_DESCRIPTION, NO_DATA))
_READY = {b"Z\0\0\0\x05I": IDLE, b"Z\0\0\0\x05T": IN_TRANSACTION}
# The commonest of all ends, behind one row.
_ONE_ROW = tuple(b"C\0\0\0\x0dSELECT 1\0" + ready for ready in _READY)
_BEHIND_ROW = len(_ONE_ROW[0])
_ROWS = frozenset((ROW_DESCRIPTION, DATA_ROW))
_S = ord("S")
_DIGITS = frozenset(b"0123456789")


@attrs.frozen(eq=False)
class Whole:
    """A kind of request; ``types`` are its messages.

    Its answer begins with ``prefix``, ``start`` bytes long; then the rows are described, if ``described``.
    What comes of a result that has rows begins with a message of type ``rows``. ``behind``: how many bytes of
    an execution are behind its Bind.
    """

    types: tuple[int, ...]
    prefix: bytes = b""
    described: bool = False
    rows: int = ROW_DESCRIPTION
    behind: int = 0
    start: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "start", len(self.prefix))


ONE_QUERY = Whole((QUERY,))
ONE_STATEMENT = Whole(
    (PARSE, BIND, DESCRIBE, EXECUTE, SYNC), b"1\0\0\0\x042\0\0\0\x04", described=True
)
EXECUTION = Whole((BIND, DESCRIBE, EXECUTE, SYNC), b"2\0\0\0\x04", described=True, behind=_LONG)
BARE_EXECUTION = Whole((BIND, EXECUTE, SYNC), b"2\0\0\0\x04", rows=DATA_ROW, behind=_SHORT)


def whole_request(data: bytes) -> Whole | None:
    """What ``data``, which begins a message, is if it is one whole request and nothing else.

    It names no prepared statement, but for SQL.
    """
    size = len(data)
    if size < _SIZES and data[:HEADER] == _QUERY_HEADERS[size]:
        return ONE_QUERY
    if size >= SMALL:
        return None
    try:
        code, length = _unpack_header(data)
        if code == QUERY:
            return ONE_QUERY if length == size - 1 else None
        if code != PARSE or data[-_LONG:] != _DESCRIBE_EXECUTE_SYNC or data[5]:
            return None
        position = length + 1
        left = size - _LONG - position - 1  # of the Bind, if it is one
        if 0 <= left < _SIZES:
            return ONE_STATEMENT if data[position : position + 7] == _BINDS[left] else None
        code, length = _unpack_header(data, position)
    except TooShort:
        return None
    if code == BIND and length == left and data[position + 5 : position + 7] == b"\0\0":
        return ONE_STATEMENT
    return None


def whole_execution(data: bytes) -> tuple[Whole, bytes] | None:
    """The same for an execution of a named statement, with the name; in the unnamed portal, all rows."""
    size = len(data)
    if not HEADER <= size < SMALL or data[-_SHORT:] != _EXECUTE_SYNC:
        return None
    code, length = _unpack_header(data)
    if code != BIND or data[HEADER]:
        return None
    end = data.find(b"\0", HEADER + 1, length + 1)
    if end <= HEADER + 1:
        return None  # the unnamed one, or no name at all
    if length + 1 == size - _LONG and data[-_LONG:] == _DESCRIBE_EXECUTE_SYNC:
        return EXECUTION, data[HEADER + 1 : end]
    if length + 1 == size - _SHORT:
        return BARE_EXECUTION, data[HEADER + 1 : end]
    return None


def renamed(data: bytes, whole: Whole, name: bytes, new: bytes) -> bytes:
    """``data``, which is ``whole``, an execution of ``name``, with another name in its place."""
    length = len(data) - whole.behind - 1 + len(new) - len(name)
    return _pack_header(BIND, length) + b"\0" + new + data[HEADER + 1 + len(name) :]


def answers(data: bytes, whole: Whole) -> int:
    """The transaction status if ``data`` is the ordinary answer to ``whole`` from its first byte to its
    last, else 0.

    Ordinary: at most one result, then idle or in a transaction that has not failed. The command's tag ends
    with a number of rows, so it is none that tells of a change in the session's state; nor is it a SELECT
    without rows, which may have made a table.
    """
    # One row by its literal end first, as that is what most queries get: 69 bytecodes instead of 95. The
    # call of a function of its own would take a part of that back; hence the length.
    if data[-_BEHIND_ROW:] in _ONE_ROW:
        position = whole.start
        if position and data[:position] != whole.prefix:
            return 0
        try:
            code, length = _unpack_header(data, position)
            if code == whole.rows:
                if code == ROW_DESCRIPTION:
                    position += length + 1
                    code, length = _unpack_header(data, position)
                if code == DATA_ROW and position + length + 1 == len(data) - _BEHIND_ROW:
                    return data[-1]
        except TooShort:
            return 0
    status = _READY.get(data[-6:])
    if status is None:
        return 0
    try:
        if whole is ONE_QUERY:
            code, length = _unpack_header(data)
            position = length + 1
            rows = code == ROW_DESCRIPTION
            if rows:
                code, length = _unpack_header(data, position)
                position += length + 1
        else:
            position = whole.start
            if data[:position] != whole.prefix:
                return 0
            code, length = _unpack_header(data, position)
            position += length + 1
            rows = code in _ROWS
            if whole.described:
                if code not in _DESCRIBED:
                    return 0
                code, length = _unpack_header(data, position)
                position += length + 1
        while code == DATA_ROW:
            code, length = _unpack_header(data, position)
            position += length + 1
    except TooShort:
        return 0
    if (
        code == COMMAND_COMPLETE
        and position == len(data) - 6
        and data[-8] in _DIGITS
        and (rows or data[position - length + 4] != _S)
    ):
        return status
    return 0
