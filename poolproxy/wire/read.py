"""Bodies of server messages that the pooler reads, and a reader for the log-in phases.

Relayed traffic never comes here: see ``frontend`` and ``backend``.
"""

from __future__ import annotations

import struct

import attrs

from poolproxy.errors import PoolerError

_HEAD = struct.Struct(">BI")


class MessageReader:
    """Cuts a byte stream into whole messages of at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Bytes that are not taken yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_message(self) -> tuple[int, bytes] | None:
        """The next (type, body), or None if more bytes are needed; raises PoolerError."""
        if len(self._buffer) < _HEAD.size:
            return None
        code, length = _HEAD.unpack_from(self._buffer)
        if not 4 <= length <= self._limit:
            raise PoolerError(f"bad packet header: '{bytes(self._buffer[:5]).hex()}'")
        if len(self._buffer) <= length:
            return None
        body = bytes(self._buffer[5 : length + 1])
        del self._buffer[: length + 1]
        return code, body

    def put_back(self, message: tuple[int, bytes]) -> None:
        """Make ``message``, the one that was taken last, the next one again."""
        code, body = message
        self._buffer[:0] = _HEAD.pack(code, len(body) + 4) + body

    def rest(self) -> bytes:
        """The bytes behind the messages that were taken."""
        return bytes(self._buffer)


@attrs.frozen
class ErrorFields:
    """What the pooler needs of an ErrorResponse; a missing field reads as empty or XX000."""

    severity: str
    sqlstate: str
    message: str


def error_fields(body: bytes) -> ErrorFields:
    """Read an ErrorResponse's body; a hostile one can lack any field (CVE-2026-6666)."""
    fields: dict[str, str] = {}
    for item in body.split(b"\0"):
        if item:
            fields.setdefault(chr(item[0]), item[1:].decode(errors="replace"))
    return ErrorFields(
        severity=fields.get("V") or fields.get("S") or "FATAL",
        sqlstate=fields.get("C") or "XX000",
        message=fields.get("M") or "(no message)",
    )


def parameter_status(body: bytes) -> tuple[str, str]:
    """(name, value) of a ParameterStatus; raises PoolerError if it has not two strings."""
    parts = body.split(b"\0")
    if len(parts) != 3 or parts[2]:
        raise PoolerError("broken ParameterStatus packet")
    return parts[0].decode(errors="replace"), parts[1].decode(errors="replace")


def data_row(body: bytes) -> tuple[bytes | None, ...]:
    """The values of a DataRow; raises PoolerError for what is none."""
    cells: list[bytes | None] = []
    position = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[position : position + 4], "big", signed=True)
        position += 4
        if size > len(body) - position or position > len(body):
            raise PoolerError("broken DataRow packet")
        cells.append(None if size < 0 else body[position : position + size])
        position += max(size, 0)
    return tuple(cells)


def backend_key(body: bytes) -> tuple[int, bytes]:
    """(pid, secret) of a BackendKeyData; 4 to 256 bytes of secret (protocol 3.2)."""
    if not 8 <= len(body) <= 260:
        raise PoolerError("broken BackendKeyData packet")
    return int.from_bytes(body[:4], "big"), body[4:]
