"""TLS of the console's client, with the words and defaults of libpq.

https://www.postgresql.org/docs/current/libpq-ssl.html
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import attrs

from poolproxy.settings.enums import SslMode
from poolproxy.wire.startup import SSL_REQUEST

ALPN = "postgresql"
ROOT_CERTIFICATES = Path("~/.postgresql/root.crt")
SYSTEM = "system"  # libpq's word for the certificates that the system trusts


class TlsRefused(Exception):
    """There is no TLS to be had as it was asked for; the text is for the user."""


@attrs.frozen
class Tls:
    """What was asked for. ``root``: the file of certificates to believe in; "": libpq's if it is there."""

    mode: SslMode = SslMode.PREFER
    root: str = ""
    cert: str = ""
    key: str = ""


def secured(sock: socket.socket, host: str, wanted: Tls) -> socket.socket:
    """``sock``, encrypted if that is wanted and can be had; raises TlsRefused and OSError."""
    if not wanted.mode.enabled:
        return sock
    sock.sendall(SSL_REQUEST)
    # One byte and no more: what follows must be TLS, whoever has sent it.
    answer = sock.recv(1)
    if answer == b"S":
        return _context(wanted).wrap_socket(sock, server_hostname=host)
    if wanted.mode.required:
        raise TlsRefused(f"the pooler offers no TLS, and sslmode is {wanted.mode.value}")
    if answer != b"N":
        raise TlsRefused("what answers there is no PostgreSQL")
    return sock


def _context(wanted: Tls) -> ssl.SSLContext:
    root = wanted.root or str(ROOT_CERTIFICATES.expanduser())
    there = bool(wanted.root) or Path(root).exists()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([ALPN])
    # As libpq: with root certificates "require" judges by them, too.
    verifies = wanted.mode.verifies or (wanted.mode is SslMode.REQUIRE and there)
    context.check_hostname = wanted.mode is SslMode.VERIFY_FULL
    context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
    if verifies and not there:
        raise TlsRefused(
            f"sslmode {wanted.mode.value} needs --sslrootcert, as {root} does not exist"
        )
    try:
        if verifies and root == SYSTEM:
            context.load_default_certs()
        elif verifies:
            context.load_verify_locations(root)
        if wanted.cert:
            context.load_cert_chain(wanted.cert, wanted.key or None)
    except OSError as error:  # as ssl.SSLError is
        raise TlsRefused(f"can't use the files of certificates: {error}") from None
    return context
