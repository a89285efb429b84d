"""Many rows at one look.

A chunk of a large result is hundreds of DataRow messages, of which only the headers matter. To walk over
them one by one is what a large result costs here; rows of the same size are passed by dozens.
"""

from __future__ import annotations

from struct import Struct

from poolproxy.wire.codes import DATA_ROW

HEADER = 5  # bytes of type and length
# TOGETHER rows are looked at when two in turn have the same size and so has the one AHEAD: among rows of
# different sizes there are always two that are equal, and a look in vain costs as much as twenty of them.
AHEAD = 16
TOGETHER = 256

_unpack_header = Struct(">BI").unpack_from


def past_rows(data: bytes, position: int) -> int:
    """Where the DataRows that begin at ``position`` end: behind the last one, whose own end may be missing.

    What is there then is another message, or less than a header.

    Lengths below 4, which no message has, need no test: see ``wire.whole``.
    """
    last = len(data) - HEADER
    before = 0
    while position <= last:
        code, length = _unpack_header(data, position)
        if code != DATA_ROW:
            break
        if length == before and length > 3:
            position = _past_equal(data, position, length + 1)
        else:
            position += length + 1
        before = length
    return position


def _past_equal(data: bytes, position: int, size: int) -> int:
    """Behind the message of ``size`` bytes at ``position``, and some that follow with the same header."""
    header = data[position : position + HEADER]
    ahead = position + AHEAD * size
    if data[ahead : ahead + HEADER] != header:
        return position + size
    whole_headers = 1 + (len(data) - position - HEADER) // size
    stop = position + min(TOGETHER, whole_headers) * size
    return position + size * min(
        _same(data[position + offset : stop : size]) for offset in range(HEADER)
    )


def _same(column: bytes) -> int:
    """How many bytes are the same as the first one, from there on."""
    return len(column) - len(column.lstrip(column[:1]))
