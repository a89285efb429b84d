"""TLS handshakes, and what is known afterwards.

A handshake is an ordinary task that waits on the raw socket. Its steps cost up to a millisecond of CPU (a
signature), and a storm of log-ins brings many at once: they take turns, a few steps between two visits
to trio's scheduler, so that the relay gets its share.
"""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Any, cast

import trio

from poolproxy.auth.tls import (
    TlsInfo,
    common_name,
    distinguished_name,
    server_end_point,
)
from poolproxy.relay.tls import Encryption
from poolproxy.tls.contexts import ALPN
from poolproxy.wire.startup import SSL_REQUEST
from poolproxy.worker.streams import Stream

log = logging.getLogger(__name__)

STEPS_IN_TURN = 4  # as much time as the relay takes when it is busy
HANDSHAKE = 0x16  # the first byte of a TLS connection, never that of a start-up packet
NO_ALPN = "received direct SSL connection request without ALPN protocol negotiation extension"


class TlsFailed(Exception):
    """No TLS came about. ``kind`` is the label of the metric, from a fixed set."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


def wrap_client(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The socket of a client, before its handshake; ``sock`` is of no use any more."""
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def wrap_server(sock: socket.socket, encryption: Encryption) -> ssl.SSLSocket:
    """The socket of a server, before its handshake; ``sock`` is of no use any more."""
    return encryption.context.wrap_socket(
        sock, server_hostname=encryption.host, do_handshake_on_connect=False
    )


class Handshakes:
    """The handshakes of a worker."""

    def __init__(self) -> None:
        self._turn = trio.Semaphore(STEPS_IN_TURN)

    async def shake(self, sock: ssl.SSLSocket, *, direct: bool) -> None:
        """Do the handshake; ``direct``: no SSLRequest came before. Raises TlsFailed; the caller owns
        the socket however it ends.
        """
        try:
            await self._steps(sock)
        except OSError as error:
            raise _failure(error) from error
        if direct and sock.selected_alpn_protocol() != ALPN:
            raise TlsFailed(NO_ALPN, "no_alpn")

    async def _steps(self, sock: ssl.SSLSocket) -> None:
        while True:
            async with self._turn:
                try:
                    sock.do_handshake()
                    return
                except ssl.SSLWantReadError:
                    wait = trio.lowlevel.wait_readable
                except ssl.SSLWantWriteError:
                    wait = trio.lowlevel.wait_writable
            await wait(sock.fileno())


def _failure(error: OSError) -> TlsFailed:
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsFailed(f"certificate verify failed: {error.verify_message}", "certificate")
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        return TlsFailed("the other side has closed the connection", "eof")
    reason = (error.reason or "unknown error").replace("_", " ").lower()
    kind = "certificate" if "certificate" in reason else "protocol"
    return TlsFailed(reason, kind)


def client_info(sock: ssl.SSLSocket, certificate: bytes) -> TlsInfo:
    """What is known of a client; ``certificate`` is ours."""
    version, cipher = _words(sock)
    peer = sock.getpeercert(binary_form=True)
    # Without a file of authorities nobody asks for a certificate, so one that is here is verified.
    subject = cast(Any, (sock.getpeercert() or {}).get("subject", ()))
    return TlsInfo(
        version,
        cipher,
        peer,
        common_name(subject),
        distinguished_name(subject),
        server_end_point(certificate),
    )


def server_info(sock: ssl.SSLSocket) -> TlsInfo:
    """What is known of a server."""
    version, cipher = _words(sock)
    peer = sock.getpeercert(binary_form=True)
    return TlsInfo(version, cipher, peer, server_end_point=server_end_point(peer) if peer else None)


def _words(sock: ssl.SSLSocket) -> tuple[str, str]:
    cipher = sock.cipher()
    return sock.version() or "", cipher[0] if cipher else ""


def comes_early(sock: socket.socket) -> bool:
    """Whether bytes have come in the clear that an attacker may want us to take for encrypted ones
    (CVE-2021-3935).
    """
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


async def ask(sock: socket.socket) -> bytes:
    """Send an SSLRequest; the bytes that come, which are one, S or N, if all is well. Raises Eof."""
    stream = Stream(sock)
    await stream.send(SSL_REQUEST)
    return await stream.receive()


async def begins_with_handshake(sock: socket.socket) -> bool:
    """Wait for the first byte, and leave it there; False at the end of the stream, too."""
    while True:
        try:
            return sock.recv(1, socket.MSG_PEEK) == bytes((HANDSHAKE,))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock.fileno())


async def end(sock: socket.socket, patience: float) -> None:
    """End a connection on which no TLS came about, so that the other side can read the alert."""
    with trio.move_on_after(patience):
        try:
            sock.shutdown(socket.SHUT_WR)
            await Stream(sock).until_eof()
        except OSError:
            pass
