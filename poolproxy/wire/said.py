"""What a client has said in one go: the statements among its messages.

What is forwarded to a server is remembered from a moment at which nothing is owed to the next; all answers in
between are answers to it. Only when a command tag raises a suspicion is it read.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from poolproxy.wire.codes import (
    BIND,
    CLOSE,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    FUNCTION_CALL,
    PARSE,
    QUERY,
    SYNC,
)
from poolproxy.wire.frontend import HEADER

if TYPE_CHECKING:
    from poolproxy.wire.statements import Names

_unpack_header = Struct(">BI").unpack_from

# Bytes that are read: 16 kB of the worst take 7 ms. Of a client that says more at once nothing is known.
MOST = 16_384
_ENDS_SEGMENT = frozenset((SYNC, QUERY, FUNCTION_CALL))


class Unreadable(Exception):
    """It can't be told which statements there are."""


def joined(said: bytes | None, data: bytes) -> bytes | None:
    """``said``, and then ``data``; None if that is too much."""
    if said is None or len(said) + len(data) > MOST:
        return None
    return said + data


def texts(said: bytes | None, names: Names | None) -> list[bytes]:
    """The texts that are run, in order; raises Unreadable.

    ``names``: what the client has prepared, as far as that is known.
    """
    if said is None or len(said) > MOST:
        raise Unreadable
    reader = _Reader(names)
    position, end = 0, len(said)
    while position < end:
        if position + HEADER > end:
            raise Unreadable
        code, length = _unpack_header(said, position)
        stop = position + length + 1
        if length < 4 or (stop > end and code in (QUERY, PARSE, BIND, EXECUTE)):
            raise Unreadable
        reader.read(code, said[position + HEADER : stop])
        position = stop
    return reader.found


def without_first(said: bytes | None, count: int) -> bytes | None:
    """``said`` from the message on that is behind ``count`` others; None if no Describe is in that, or if it
    goes on behind a Sync or Query: then what is before that has been done.
    """
    if said is None:
        return None
    codes, position = [], 0
    while position + HEADER <= len(said):
        code, length = _unpack_header(said, position)
        if code != FLUSH:
            codes.append(code)
        position += length + 1
        if len(codes) == count:
            said, position = said[position:], 0
    faked = set(codes[:count]) <= {PARSE, CLOSE}
    done = _ENDS_SEGMENT.intersection(codes[count:-1])
    return said if faked and DESCRIBE in codes[count:] and not done else None


def named(said: bytes | None, place: int) -> tuple[bytes | None, bool]:
    """The statement that the ``place``-th last Bind or Describe names, None if it can't be told; and whether
    that is the first one of all.
    """
    found = []
    position, end = 0, len(said or b"")
    while said is not None and position + HEADER <= end:
        code, length = _unpack_header(said, position)
        stop = position + length + 1
        if length < 4:
            return None, False
        if code == BIND:
            found.append(said[position + HEADER : stop].split(b"\0", 2)[1:2])
        elif code == DESCRIBE:
            statement = said.startswith(b"S", position + HEADER)
            found.append([said[position + HEADER + 1 : stop - 1]] if statement else [])
        position = stop
    known = 0 < place <= len(found) and bool(found[-place])
    return (found[-place][0] if known else None), place == len(found)


class _Reader:
    """Follows statements and portals from Parse over Bind to Execute."""

    def __init__(self, names: Names | None) -> None:
        self.names = names
        self.found: list[bytes] = []
        self.statements: dict[bytes, bytes] = {}
        self.portals: dict[bytes, bytes] = {}
        self.looked_up: set[bytes] = set()

    def read(self, code: int, body: bytes) -> None:
        if code == QUERY:
            self.found.append(body.partition(b"\0")[0])
        elif code == PARSE:
            name, _, rest = body.partition(b"\0")
            if name in self.looked_up:
                raise Unreadable  # what it stood for before is forgotten by now
            self.statements[name] = rest.partition(b"\0")[0]
        elif code == BIND:
            portal, statement, _ = (
                body.split(b"\0", 2) if body.count(b"\0") > 1 else (b"", b"", b"")
            )
            self.portals[portal] = self._text(statement)
        elif code == EXECUTE:
            portal = body.partition(b"\0")[0]
            if portal not in self.portals:
                raise Unreadable
            self.found.append(self.portals[portal])

    def _text(self, name: bytes) -> bytes:
        if name in self.statements:
            return self.statements[name]
        self.looked_up.add(name)
        known = self.names.statements.get(name) if self.names is not None else None
        if known is None:
            raise Unreadable
        return known.tail.partition(b"\0")[0]
