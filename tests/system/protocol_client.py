"""A PostgreSQL client that shows every message: for what drivers hide or never do."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import attrs

TIMEOUT = 15.0  # seconds; nothing in these tests takes longer unless it hangs


class Eof(Exception):
    """The other side has closed the connection, without a word or by a reset."""


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
        items = [item.decode(errors="replace") for item in self.body.split(b"\0") if item]
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


def message(code: str | bytes, body: bytes = b"") -> bytes:
    return _bytes(code) + struct.pack("!I", len(body) + 4) + body


def text(value: str | bytes) -> bytes:
    return _bytes(value) + b"\0"


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def query(sql: str) -> bytes:
    return message("Q", text(sql))


def parse(name: str, sql: str, *types: int) -> bytes:
    oids = struct.pack(f"!H{len(types)}I", len(types), *types)
    return message("P", text(name) + text(sql) + oids)


def bind(name: str, *values: bytes, portal: str = "") -> bytes:
    """All values in text format."""
    counts = struct.pack("!HH", 0, len(values))
    return message("B", text(portal) + text(name) + counts + _items(values) + bytes(2))


def describe(name: str, kind: str = "S") -> bytes:
    """``kind`` is S for a statement, P for a portal; so in :func:`close`."""
    return message("D", _bytes(kind) + text(name))


def execute(portal: str = "", rows: int = 0) -> bytes:
    return message("E", text(portal) + struct.pack("!I", rows))


def close(name: str, kind: str = "S") -> bytes:
    return message("C", _bytes(kind) + text(name))


def call(function: int, *values: bytes) -> bytes:
    """A FunctionCall; values and result in text format."""
    counts = struct.pack("!IHH", function, 0, len(values))
    return message("F", counts + _items(values) + bytes(2))


def _items(values: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("!i", len(value)) + value for value in values)


def run(sql: str) -> bytes:
    """Parse, Bind and Execute of an unnamed statement, without Sync."""
    return parse("", sql) + bind("") + execute()


def startup(parameters: Mapping[str, str | bytes], version: int = 3 << 16) -> bytes:
    body = b"".join(text(key) + text(value) for key, value in parameters.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, version) + body


SYNC = message("S")
FLUSH = message("H")
TERMINATE = message("X")
SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSSENC_REQUEST = struct.pack("!II", 8, 80877104)


def cancel_request(key: tuple[int, bytes]) -> bytes:
    return struct.pack("!III", 12 + len(key[1]), 80877102, key[0]) + key[1]


class Connection:
    """A connection on which nothing has been said yet; all calls block for ``timeout`` seconds at most.

    ``address``: (host, port), or the path of a Unix socket. ``receive_buffer``: bytes, 0 is the
    kernel's default.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        timeout: float = TIMEOUT,
        receive_buffer: int = 0,
    ) -> None:
        self.sock = socket.socket(_family(address), socket.SOCK_STREAM)
        self.parameters: dict[str, str] = {}
        self.key = (0, b"")
        self.status = ""
        self._data = bytearray()
        try:
            if receive_buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.sock.settimeout(timeout)
            self.sock.connect(address)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """What the end of a ``with`` does."""
        self.close()

    def close(self) -> None:
        """A FIN, without Terminate."""
        self.sock.close()

    def reset(self) -> None:
        """An RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # -- messages ---------------------------------------------------------------------------------

    def send(self, *data: bytes) -> None:
        """Raises Eof."""
        try:
            self.sock.sendall(b"".join(data))
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            raise Eof(str(error)) from error

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Ask for TLS, and go over to it; blocks. Raises Eof."""
        self.send(SSL_REQUEST)
        assert self.read_bytes(1) == b"S"
        self.shake_hands(context)

    def shake_hands(self, context: ssl.SSLContext) -> None:
        """Go over to TLS without asking. Raises Eof, and as ssl does."""
        host = self.sock.getpeername()[0]
        try:
            self.sock = context.wrap_socket(self.sock, server_hostname=host)
        except (ConnectionResetError, ssl.SSLEOFError) as error:
            raise Eof(str(error)) from error

    def read_bytes(self, count: int) -> bytes:
        """So many bytes; raises Eof, and TimeoutError when they don't come."""
        while len(self._data) < count:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError as error:
                raise Eof(str(error)) from error
            if not data:
                raise Eof("end of stream")
            self._data += data
        result = bytes(self._data[:count])
        del self._data[:count]
        return result

    def read(self) -> Reply:
        """The next message; ParameterStatus, BackendKeyData and ReadyForQuery are remembered."""
        head = self.read_bytes(5)
        return self._noted(Reply(chr(head[0]), self.read_bytes(_body_size(head))))

    def read_waiting(self) -> list[Reply]:
        """The messages that are here now, as :meth:`read`; raises Eof when the last has been read.

        For a socket that does not block.
        """
        ended = False
        try:
            while data := self.sock.recv(65536):
                self._data += data
            ended = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            ended = True
        found, start = [], 0
        while (end := start + 5) <= len(self._data):
            end += _body_size(self._data[start:end])
            if end > len(self._data):
                break
            found.append(Reply(chr(self._data[start]), bytes(self._data[start + 5 : end])))
            start = end
        del self._data[:start]
        if ended and not found:
            raise Eof("end of stream")
        return [self._noted(reply) for reply in found]

    def _noted(self, reply: Reply) -> Reply:
        if reply.code == "S":
            name, value = reply.body.decode().split("\0")[:2]
            self.parameters[name] = value
        elif reply.code == "K":
            self.key = (int.from_bytes(reply.body[:4], "big"), reply.body[4:])
        elif reply.code == "Z":
            self.status = reply.body.decode()
        return reply

    def read_until(self, *codes: str) -> list[Reply]:
        """Messages up to one of these types; raises ErrorAnswer and Eof."""
        replies = [self.read()]
        while replies[-1].code not in codes:
            if replies[-1].code == "E" and "Z" not in codes:
                raise replies[-1].error()
            replies.append(self.read())
        return replies

    def replies(self) -> list[Reply]:
        """Messages up to ReadyForQuery; raises ErrorAnswer after it, or at the end, and Eof."""
        found: list[Reply] = []
        error: ErrorAnswer | None = None
        while not found or found[-1].code != "Z":
            try:
                found.append(self.read())
            except Eof:
                if error is not None:
                    raise error from None
                raise
            if found[-1].code == "E":
                error = error or found[-1].error()
        if error is not None:
            raise error
        return found

    def at_end(self) -> bool:
        """Whether the connection is closed with nothing more to read."""
        try:
            self.read_bytes(1)
        except Eof:
            return True
        return False

    def is_silent(self) -> bool:
        """Whether nothing is there to be read now."""
        timeout = self.sock.gettimeout()
        self.sock.setblocking(False)
        try:
            self._data += self.sock.recv(65536) or b"?"
        except BlockingIOError:
            pass
        finally:
            self.sock.settimeout(timeout)
        return not self._data

    # -- conversations ----------------------------------------------------------------------------

    def results(self) -> list[tuple[str | None, ...]]:
        """The rows up to ReadyForQuery; raises as :meth:`replies`."""
        return [reply.row() for reply in self.replies() if reply.code == "D"]

    def query(self, sql: str) -> list[tuple[str | None, ...]]:
        """The rows of a simple query; raises as :meth:`replies`."""
        self.send(query(sql))
        return self.results()


def _body_size(head: bytes | bytearray) -> int:
    return int(struct.unpack_from("!I", head, 1)[0]) - 4


def _family(address: tuple[str, int] | str) -> socket.AddressFamily:
    if isinstance(address, str):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


class RawClient(Connection):
    """A client that is connected, and logged in unless ``log_in`` is false; leaves with Terminate.

    ``address``: as of :class:`Connection`. Only trust and clear-text passwords.
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
        super().__init__(address)
        if log_in:
            try:
                self.log_in({"user": user, "database": database, **parameters}, password)
            except BaseException:
                self.close()
                raise

    def leave(self) -> None:
        """Terminate."""
        self.terminate()

    def terminate(self) -> None:
        try:
            self.sock.sendall(TERMINATE)
        except OSError:
            pass
        self.close()

    def farewell(self) -> ErrorAnswer:
        """The ErrorResponse with which the other side closes the connection; closes our side."""
        with self:
            reply = self.read()
            while reply.code != "E":
                reply = self.read()
            assert self.at_end(), "the connection stays open after a FATAL error"
            return reply.error()

    def log_in(self, parameters: Mapping[str, str], password: str = "") -> None:
        self.send(startup(parameters))
        while True:
            reply = self.read()
            if reply.code == "E":
                raise reply.error()
            if reply.code == "R" and int.from_bytes(reply.body[:4], "big") == 3:
                self.send(message("p", text(password)))
            if reply.code == "Z":
                return

    def value(self, sql: str) -> str | None:
        """The one value of a query."""
        return self.query(sql)[0][0]

    def backend(self) -> int:
        """The process id of the server connection that serves a query now."""
        return int(self.value("select pg_backend_pid()") or 0)

    def pipeline(self, *statements: str) -> None:
        """Send statements in the extended protocol, each with its Sync."""
        self.send(*(run(sql) + SYNC for sql in statements))


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
