"""A client on a bare socket that does what a library would never do: cut messages, resets, floods."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Self

from tests.fixtures.proxy import HOST
from tests.system.protocol_client import Connection, Eof, ErrorAnswer, Reply
from tests.system.protocol_client import startup as startup_packet

ServerError = ErrorAnswer
Closed = Eof


def startup(user: str | bytes, database: str | bytes, **more: str) -> bytes:
    """A start-up packet, for names that may be no text at all."""
    return startup_packet({"user": user, "database": database, **more})


class RoughClient(Connection):
    """A connection to ``port`` on this machine, not logged in; it leaves without Terminate."""

    def __init__(self, port: int, *, timeout: float = 20.0, receive_buffer: int = 0) -> None:
        super().__init__((HOST, port), timeout=timeout, receive_buffer=receive_buffer)

    @property
    def local_port(self) -> int:
        return int(self.sock.getsockname()[1])

    def log_in(self, user: str, database: str, **more: str) -> Self:
        """For a server that trusts us. Raises ServerError, Closed."""
        self.send(startup(user, database, **more))
        self.replies()
        return self

    def until_eof(self) -> bytes:
        """All bytes up to the end; raises TimeoutError if the peer does not close."""
        while True:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return bytes(self._data)
            self._data += data


def errors_in(data: bytes) -> list[ServerError]:
    """The ErrorResponses in a stream of messages (an N of a refused encryption may come first)."""
    return [reply.error() for reply in _replies(data.lstrip(b"N")) if reply.code == "E"]


def _replies(data: bytes) -> Iterator[Reply]:
    while len(data) >= 5:
        length = struct.unpack("!i", data[1:5])[0]
        yield Reply(chr(data[0]), data[5 : length + 1])
        data = data[length + 1 :]
