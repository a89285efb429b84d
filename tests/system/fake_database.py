"""A database server that misbehaves: a thread for each connection runs what a test says."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.system.protocol_client import message

CANCEL = struct.pack("!i", 80877102)
SSL_REQUEST = struct.pack("!i", 80877103)
READY = message(b"Z", b"I")
AUTHENTICATED = message(b"R", bytes(4))
KEY = message(b"K", bytes(8))


def parameter(name: str, value: str) -> bytes:
    return message(b"S", f"{name}\0{value}\0".encode())


def error(**fields: str) -> bytes:
    """An ErrorResponse of the fields given."""
    return message(b"E", "".join(f"{k}{v}\0" for k, v in fields.items()).encode() + b"\0")


GREETING = AUTHENTICATED + parameter("server_version", "15.0") + KEY + READY


def result(text: str) -> bytes:
    """The answer to a Query: one row of one column."""
    column = b"a\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0)
    row = struct.pack("!hi", 1, len(text)) + text.encode()
    parts = [(b"T", struct.pack("!h", 1) + column), (b"D", row), (b"C", b"SELECT 1\0")]
    return b"".join(message(code, body) for code, body in parts) + READY


class Conversation:
    """One connection from the proxy; ``sock`` may be replaced by an encrypted one."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def packet(self) -> bytes:
        """The start-up packet's body; raises EOFError for a CancelRequest."""
        body = self.packet_or_cancel()
        if body.startswith(CANCEL):
            raise EOFError
        return body

    def packet_or_cancel(self) -> bytes:
        """The first packet's body, from the code on; raises EOFError. There is no TLS to be had."""
        while (body := self._exactly(struct.unpack("!i", self._exactly(4))[0] - 4)) == SSL_REQUEST:
            self.send(b"N")
        return body

    def message(self) -> tuple[bytes, bytes]:
        """The next (type, body); raises EOFError."""
        header = self._exactly(5)
        return header[:1], self._exactly(struct.unpack("!i", header[1:])[0] - 4)

    def until_eof(self) -> None:
        while self.sock.recv(65536):
            pass

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data


class FakeDatabase:
    """Listens on ``port`` while it is entered; ``behave`` runs for each connection, then it is closed."""

    def __init__(self, behave: Callable[[Conversation], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._conversations: list[Conversation] = []
        self.connections = 0

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for sock in (self._listener, *(one.sock for one in self._conversations)):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            conversation = Conversation(sock)
            self._conversations.append(conversation)
            self._start(self._serve, conversation)

    def _serve(self, conversation: Conversation) -> None:
        try:
            self._behave(conversation)
        except (OSError, EOFError):
            pass
        finally:
            conversation.sock.close()
