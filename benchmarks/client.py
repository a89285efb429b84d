"""A PostgreSQL client that costs nearly nothing: log in by trust, send a query, count bytes.

psql and the drivers parse and store every row; at a gigabyte a second they, not the pooler,
would be what is measured. This one looks at nothing but the end of an answer.
"""

from __future__ import annotations

import socket
import struct

from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable

# ReadyForQuery outside a transaction. The rows that the benchmarks ask for hold only letters,
# so it cannot be mistaken for the end of a row.
READY = b"Z\x00\x00\x00\x05I"

_BUFFER = 1 << 20


def startup_packet(user: str, dbname: str) -> bytes:
    """https://www.postgresql.org/docs/current/protocol-message-formats.html, StartupMessage."""
    body = b"".join(word.encode() + b"\0" for word in ("user", user, "database", dbname)) + b"\0"
    return struct.pack("!ii", 8 + len(body), 196608) + body


def query(sql: str) -> bytes:
    """A Query message."""
    body = sql.encode() + b"\0"
    return b"Q" + struct.pack("!i", 4 + len(body)) + body


class Client:
    """One connection, driven in two halves so that many can log in at the same time."""

    def __init__(self, endpoint: Endpoint, buffer: bytearray | None = None) -> None:
        """Connect and ask for a session; ``buffer`` may be shared by clients used in turn.

        Raises OSError.
        """
        self._buffer = memoryview(buffer if buffer is not None else bytearray(_BUFFER))
        self._socket = socket.create_connection((endpoint.host, endpoint.port), timeout=15)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(startup_packet(endpoint.user, endpoint.dbname))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def wait_ready(self) -> int:
        """Read one answer to its end and return its length in bytes.

        Raises Unavailable if the other side answers with an error or closes, OSError.
        """
        tail = head = b""
        total = 0
        while tail != READY:
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise Unavailable(f"connection closed: {_printable(head)}")
            if not total:
                head = bytes(self._buffer[: min(count, 400)])
            total += count
            tail = (tail + bytes(self._buffer[max(0, count - len(READY)) : count]))[-len(READY) :]
        if head[:1] == b"E":
            raise Unavailable(_printable(head))
        return total

    def close(self) -> None:
        self._socket.close()


def _printable(message: bytes) -> str:
    """The readable part of an ErrorResponse, good enough for a note."""
    return " ".join(message[5:].decode(errors="replace").replace("\0", " ").split())
