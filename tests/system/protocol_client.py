"""A PostgreSQL client that shows every message: for what drivers hide or never do."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from types import TracebackType

import attrs

TIMEOUT = 15.0  # seconds; nothing in these tests takes longer unless it hangs


class Eof(Exception):
    """The other side has closed."""


class ErrorAnswer(Exception):
    """An ErrorResponse; ``fields`` by their letters, in the order they came."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(f"{fields.get('C')}: {fields.get('M')}")
        self.fields = fields

    @property
    def message(self) -> str:
        return self.fields["M"]

    @property
    def sqlstate(self) -> str:
        return self.fields["C"]

    @property
    def hint(self) -> str:
        return self.fields.get("H", "")


@attrs.frozen
class Reply:
    """One message: its type as a letter, and its body."""

    code: str
    body: bytes

    def error(self) -> ErrorAnswer:
        items = [item.decode() for item in self.body.split(b"\0") if item]
        return ErrorAnswer({item[0]: item[1:] for item in items})

    def row(self) -> tuple[str | None, ...]:
        cells: list[str | None] = []
        position = 2
        for _ in range(struct.unpack_from("!H", self.body)[0]):
            (length,) = struct.unpack_from("!i", self.body, position)
            position += 4
            cells.append(None if length < 0 else self.body[position : position + length].decode())
            position += max(0, length)
        return tuple(cells)


def message(code: str, body: bytes = b"") -> bytes:
    return code.encode() + struct.pack("!I", len(body) + 4) + body


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def query(sql: str) -> bytes:
    return message("Q", text(sql))


def run(sql: str) -> bytes:
    """Parse, Bind and Execute of an unnamed statement, without Sync."""
    parse = message("P", text("") + text(sql) + struct.pack("!H", 0))
    bind = message("B", text("") + text("") + struct.pack("!HHH", 0, 0, 0))
    return parse + bind + message("E", text("") + struct.pack("!I", 0))


def startup(parameters: dict[str, str], version: int = 3 << 16) -> bytes:
    body = b"".join(text(key) + text(value) for key, value in parameters.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, version) + body


SYNC = message("S")
FLUSH = message("H")
TERMINATE = message("X")
SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSSENC_REQUEST = struct.pack("!II", 8, 80877104)


def cancel_request(key: tuple[int, bytes]) -> bytes:
    return struct.pack("!III", 12 + len(key[1]), 80877102, key[0]) + key[1]


class RawClient:
    """A client that is connected, and logged in unless ``log_in`` is false.

    ``address``: (host, port), or the path of a Unix socket. Only trust and clear-text passwords.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        database: str = "postgres",
        user: str = "postgres",
        *,
        password: str = "",
        log_in: bool = True,
        **parameters: str,
    ) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(address)
        self.parameters: dict[str, str] = {}
        self.key = (0, b"")
        self.status = ""
        self._data = b""
        if log_in:
            try:
                self.log_in({"user": user, "database": database, **parameters}, password)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    # -- messages ---------------------------------------------------------------------------------

    def send(self, *data: bytes) -> None:
        self.sock.sendall(b"".join(data))

    def read_bytes(self, count: int) -> bytes:
        """So many bytes; raises Eof, and TimeoutError when they don't come."""
        while len(self._data) < count:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Eof
            self._data += data
        result, self._data = self._data[:count], self._data[count:]
        return result

    def read(self) -> Reply:
        """The next message; ParameterStatus, BackendKeyData and ReadyForQuery are remembered."""
        head = self.read_bytes(5)
        body = self.read_bytes(struct.unpack("!I", head[1:])[0] - 4)
        reply = Reply(chr(head[0]), body)
        if reply.code == "S":
            name, value = body.decode().split("\0")[:2]
            self.parameters[name] = value
        elif reply.code == "K":
            self.key = (int.from_bytes(body[:4], "big"), body[4:])
        elif reply.code == "Z":
            self.status = body.decode()
        return reply

    def read_until(self, *codes: str) -> list[Reply]:
        """Messages up to one of these types; raises ErrorAnswer and Eof."""
        replies = [self.read()]
        while replies[-1].code not in codes:
            if replies[-1].code == "E" and "Z" not in codes:
                raise replies[-1].error()
            replies.append(self.read())
        return replies

    def at_end(self) -> bool:
        """Whether the connection is closed with nothing more to read."""
        try:
            self.read_bytes(1)
        except Eof:
            return True
        return False

    def is_silent(self) -> bool:
        """Whether nothing is there to be read now."""
        self.sock.setblocking(False)
        try:
            self._data += self.sock.recv(65536) or b"?"
        except BlockingIOError:
            pass
        finally:
            self.sock.settimeout(TIMEOUT)
        return not self._data

    def farewell(self) -> ErrorAnswer:
        """The ErrorResponse with which the other side closes the connection; closes our side."""
        with self:
            reply = self.read()
            while reply.code != "E":
                reply = self.read()
            assert self.at_end(), "the connection stays open after a FATAL error"
            return reply.error()

    # -- conversations ----------------------------------------------------------------------------

    def log_in(self, parameters: dict[str, str], password: str = "") -> None:
        self.send(startup(parameters))
        while True:
            reply = self.read()
            if reply.code == "E":
                raise reply.error()
            if reply.code == "R" and int.from_bytes(reply.body[:4], "big") == 3:
                self.send(message("p", text(password)))
            if reply.code == "Z":
                return

    def results(self) -> list[tuple[str | None, ...]]:
        """The rows up to ReadyForQuery; raises ErrorAnswer after it, or at the end."""
        error: ErrorAnswer | None = None
        rows = []
        while True:
            try:
                reply = self.read()
            except Eof:
                if error is not None:
                    raise error from None
                raise
            if reply.code == "E":
                error = error or reply.error()
            elif reply.code == "D":
                rows.append(reply.row())
            elif reply.code == "Z":
                if error is not None:
                    raise error
                return rows

    def query(self, sql: str) -> list[tuple[str | None, ...]]:
        """The rows of a simple query; raises ErrorAnswer."""
        self.send(query(sql))
        return self.results()

    def value(self, sql: str) -> str | None:
        """The one value of a query."""
        return self.query(sql)[0][0]

    def backend(self) -> int:
        """The process id of the server connection that serves a query now."""
        return int(self.value("select pg_backend_pid()") or 0)

    def pipeline(self, *statements: str) -> None:
        """Send statements in the extended protocol, each with its Sync."""
        self.send(*(run(sql) + SYNC for sql in statements))

    def terminate(self) -> None:
        try:
            self.sock.sendall(TERMINATE)
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        self.sock.close()


def refusal(
    address: tuple[str, int] | str, database: str, user: str, password: str = "", **more: str
) -> ErrorAnswer:
    """The error with which a log-in is refused."""
    client = RawClient(address, log_in=False)
    try:
        client.log_in({"user": user, "database": database, **more}, password)
    except ErrorAnswer as error:
        assert client.at_end()
        return error
    finally:
        client.close()
    raise AssertionError(f"{user} was let in to {database}")


def backends(clients: Sequence[RawClient]) -> list[int]:
    return [client.backend() for client in clients]
