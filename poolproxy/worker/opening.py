"""A client's socket until its start-up packet is there: what encrypts it, if anything does."""

from __future__ import annotations

import socket
import ssl

from poolproxy.auth.tls import TlsInfo
from poolproxy.errors import PoolerError
from poolproxy.tls.contexts import Contexts
from poolproxy.wire.startup import (
    CancelPacket,
    GssRequest,
    SslRequest,
    Startup,
    parse_first_packet,
)
from poolproxy.worker import tls
from poolproxy.worker.patience import Waiting
from poolproxy.worker.streams import Stream
from poolproxy.worker.tls import TlsFailed
from poolproxy.worker.worker import Worker

MAX_NEGOTIATIONS = 2  # SSLRequest and GSSENCRequest, each once


class Opening:
    """``sock``: the client's, which becomes an encrypted one where TLS begins, and ``stream`` with it.
    ``waiting`` hears of that. ``tls``: what was agreed on. ``silent``: amid a handshake an error could not
    be read.
    """

    waiting: Waiting

    def __init__(self, worker: Worker, sock: socket.socket) -> None:
        self._worker = worker
        self.sock = sock
        self.stream = Stream(sock)
        self.tls: TlsInfo | None = None
        self.silent = False

    async def first_packet(self) -> Startup | CancelPacket:
        """The first packet that is not about encryption. Raises PoolerError, TlsFailed, Eof."""
        # The same ones for all that follows, whatever is reloaded meanwhile.
        offered = None if self.sock.family == socket.AF_UNIX else self._worker.contexts
        if offered is not None and offered.client and await tls.begins_with_handshake(self.sock):
            await self._begin_tls(offered.client, offered.certificate, direct=True)
        data = bytearray()
        negotiations = 0
        while True:
            parsed = parse_first_packet(data)
            if parsed is None:
                data += await self.stream.receive()
                continue
            packet, length = parsed
            del data[:length]
            if isinstance(packet, Startup):
                self.stream.messages.feed(bytes(data))
                return packet
            if isinstance(packet, CancelPacket):
                return packet
            negotiations += 1
            if negotiations > MAX_NEGOTIATIONS:
                raise PoolerError("bad packet header: repeated encryption request")
            await self._negotiate(packet, offered, early_data=bool(data))

    async def _negotiate(
        self, packet: SslRequest | GssRequest, offered: Contexts | None, *, early_data: bool
    ) -> None:
        if early_data or (self.tls is None and tls.comes_early(self.sock)):
            what = "SSL request" if isinstance(packet, SslRequest) else "GSSAPI encryption request"
            raise PoolerError(f"received unencrypted data after {what}")
        if isinstance(packet, GssRequest) or offered is None or offered.client is None:
            await self.stream.send(b"N")
        elif self.tls is not None:
            raise TlsFailed("SSL req inside SSL", "protocol")
        else:
            await self.stream.send(b"S")
            await self._begin_tls(offered.client, offered.certificate, direct=False)

    async def _begin_tls(
        self, context: ssl.SSLContext, certificate: bytes, *, direct: bool
    ) -> None:
        self.sock = sock = tls.wrap_client(self.sock, context)
        self.waiting.sock = sock
        self.silent = True
        await self._worker.handshakes.shake(sock, direct=direct)
        self.silent = False
        self.stream = Stream(sock)
        self.tls = tls.client_info(sock, certificate)

    def demand_tls(self) -> None:
        """Raises PoolerError if there is no encryption where there must be."""
        mode = self._worker.config.settings.client_tls_sslmode
        if mode.required and self.tls is None and self.sock.family != socket.AF_UNIX:
            raise PoolerError(
                "SSL required",
                sqlstate="28000",
                hint="Connect with sslmode=require or more, or set client_tls_sslmode = prefer.",
                reason="client_tls_sslmode",
            )
