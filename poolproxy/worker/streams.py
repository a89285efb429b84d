"""A non-blocking socket for the phases that wait: log-in, connecting, cancelling.

Works on the socket object, plain or TLS, which goes on to the relay unchanged when the log-in is done.
"""

from __future__ import annotations

import socket
import ssl

import trio

from poolproxy.settings.schema import Settings
from poolproxy.wire.read import MessageReader

# Bytes. As many as a record of TLS holds: OpenSSL must not keep back what the relay would wait for.
LOGIN_CHUNK = 16_384
WANTS_READ = (BlockingIOError, ssl.SSLWantReadError)
WANTS_WRITE = (BlockingIOError, ssl.SSLWantWriteError)
MAX_LOGIN_MESSAGE = 131_072  # bytes; a password may have 65530
# Reads that found data at once before the others get their turn: a peer that never stops sending
# must not keep them, and its own time limit, waiting.
READS_IN_TURN = 16


class Eof(Exception):
    """The peer has closed, or the connection is broken."""


class Stream:
    """Reads and writes for one task; the caller owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.messages = MessageReader(MAX_LOGIN_MESSAGE)
        self.received_at = trio.current_time()  # when the last bytes came, by trio's clock
        self._reads = 0

    async def receive(self) -> bytes:
        """Some bytes; raises Eof."""
        self._reads += 1
        if self._reads % READS_IN_TURN == 0:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                data = self.sock.recv(LOGIN_CHUNK)
            except WANTS_READ:
                await trio.lowlevel.wait_readable(self.sock.fileno())
                continue
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self.sock.fileno())
                continue
            except OSError as error:
                raise Eof(str(error)) from error
            if not data:
                raise Eof("end of stream")
            self.received_at = trio.current_time()
            return data

    async def send(self, data: bytes) -> None:
        """All of ``data``; raises Eof."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except WANTS_WRITE:
                await trio.lowlevel.wait_writable(self.sock.fileno())
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self.sock.fileno())
            except OSError as error:
                raise Eof(str(error)) from error

    async def message(self) -> tuple[int, bytes]:
        """The next (type, body); raises Eof, PoolerError."""
        while True:
            message = self.messages.next_message()
            if message is not None:
                return message
            self.messages.feed(await self.receive())

    async def peek(self) -> tuple[int, bytes]:
        """As :meth:`message`, which returns the same once more."""
        found = await self.message()
        self.messages.put_back(found)
        return found

    async def until_gone(self) -> None:
        """Return when the peer has closed; what it sends meanwhile is kept for :meth:`message`.

        One that sends more than a message may have is not read on, and so not seen to go.
        """
        try:
            while len(self.messages) < MAX_LOGIN_MESSAGE:
                self.messages.feed(await self.receive())
        except Eof:
            return
        await trio.sleep_forever()

    async def until_eof(self) -> None:
        """Discard until the peer has closed."""
        try:
            while True:
                await self.receive()
        except Eof:
            return


def tune(sock: socket.socket, settings: Settings) -> None:
    """Apply the tcp_* settings; a Unix socket has none of them."""
    if settings.tcp_socket_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.tcp_socket_buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, settings.tcp_socket_buffer)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(settings.tcp_keepalive))
    if settings.tcp_keepalive:
        for option, value in (
            (socket.TCP_KEEPCNT, settings.tcp_keepcnt),
            (socket.TCP_KEEPIDLE, settings.tcp_keepidle),
            (socket.TCP_KEEPINTVL, settings.tcp_keepintvl),
        ):
            if value:
                sock.setsockopt(socket.IPPROTO_TCP, option, int(value))
    if settings.tcp_user_timeout:
        milliseconds = int(settings.tcp_user_timeout * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
