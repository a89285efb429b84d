"""A PostgreSQL client on a bare socket: it can do all that a library would never do."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from types import TracebackType

import attrs

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSS_REQUEST = struct.pack("!ii", 8, 80877104)
TERMINATE = b"X\0\0\0\4"
SYNC = b"S\0\0\0\4"


class ServerError(Exception):
    """An ErrorResponse; ``fields`` by their one-letter names."""

    def __init__(self, body: bytes) -> None:
        items = [item.decode(errors="replace") for item in body.split(b"\0") if item]
        self.fields = {item[0]: item[1:] for item in items}
        super().__init__(f"{self.sqlstate}: {self.message}")

    @property
    def sqlstate(self) -> str:
        return self.fields.get("C", "")

    @property
    def message(self) -> str:
        return self.fields.get("M", "")


class Closed(Exception):
    """The other side has closed the connection without a word."""


@attrs.frozen
class Message:
    """One message of the server."""

    code: bytes
    body: bytes


def message(code: bytes, body: bytes = b"") -> bytes:
    """A typed message."""
    return code + struct.pack("!i", len(body) + 4) + body


def startup(user: str | bytes, database: str | bytes, **more: str) -> bytes:
    """A start-up packet."""
    items: list[str | bytes] = ["user", user, "database", database]
    for name, value in more.items():
        items += [name, value]
    encoded = b"".join((i.encode() if isinstance(i, str) else i) + b"\0" for i in items) + b"\0"
    return struct.pack("!ii", len(encoded) + 8, 3 << 16) + encoded


def query(sql: str) -> bytes:
    """A Query message."""
    return message(b"Q", sql.encode() + b"\0")


class RoughClient:
    """A connection to ``port`` on this machine; all calls block for at most ``timeout`` seconds."""

    def __init__(self, port: int, *, timeout: float = 20.0, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout)
        self._buffer = bytearray()
        self.pid, self.secret = 0, b""
        try:
            self.sock.connect(("127.0.0.1", port))
        except OSError:
            self.sock.close()
            raise

    def __enter__(self) -> RoughClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    @property
    def local_port(self) -> int:
        return int(self.sock.getsockname()[1])

    def send(self, data: bytes) -> None:
        """Raises Closed."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(str(error)) from error

    def log_in(self, user: str, database: str, **more: str) -> RoughClient:
        """For a server that trusts us. Raises ServerError, Closed."""
        self.send(startup(user, database, **more))
        self.replies()
        return self

    def query(self, sql: str) -> list[tuple[str | None, ...]]:
        """The rows. Raises ServerError (after its ReadyForQuery if there is one), Closed."""
        self.send(query(sql))
        return [_row(m.body) for m in self.replies() if m.code == b"D"]

    def replies(self) -> list[Message]:
        """All messages up to ReadyForQuery, that included. Raises ServerError, Closed."""
        found: list[Message] = []
        error: ServerError | None = None
        while True:
            try:
                one = self.next_message()
            except Closed:
                if error is not None:
                    raise error from None
                raise
            found.append(one)
            if one.code == b"E":
                error = error or ServerError(one.body)
            elif one.code == b"K":
                self.pid, self.secret = struct.unpack("!i", one.body[:4])[0], one.body[4:]
            elif one.code == b"R" and one.body not in (b"\0\0\0\0",):
                return found  # a password is wanted
            elif one.code == b"Z":
                if error is not None:
                    raise error
                return found

    def next_message(self) -> Message:
        """Raises Closed."""
        header = self._exactly(5)
        length = struct.unpack("!i", header[1:])[0]
        return Message(header[:1], self._exactly(length - 4))

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError as error:
                raise Closed(str(error)) from error
            if not data:
                raise Closed("end of stream")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def until_eof(self) -> bytes:
        """All bytes up to the end; raises TimeoutError if the peer does not close."""
        while True:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return bytes(self._buffer)
            self._buffer += data

    def close(self) -> None:
        """A FIN, without Terminate."""
        self.sock.close()

    def reset(self) -> None:
        """An RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def errors_in(data: bytes) -> list[ServerError]:
    """The ErrorResponses in a stream of messages (an N of a refused encryption may come first)."""
    return [ServerError(body) for code, body in _messages(data.lstrip(b"N")) if code == b"E"]


def _messages(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    while len(data) >= 5:
        length = struct.unpack("!i", data[1:5])[0]
        yield data[:1], data[5 : length + 1]
        data = data[length + 1 :]


def _row(body: bytes) -> tuple[str | None, ...]:
    values: list[str | None] = []
    position = 2
    for _ in range(struct.unpack("!h", body[:2])[0]):
        (size,) = struct.unpack_from("!i", body, position)
        position += 4
        values.append(None if size < 0 else body[position : position + size].decode())
        position += max(0, size)
    return tuple(values)


def cancel_packet(pid: int, secret: bytes) -> bytes:
    """A CancelRequest."""
    return struct.pack("!iii", 12 + len(secret), 80877102, pid) + secret
