"""Whether a connection to PostgreSQL is to be encrypted, and whether PostgreSQL is willing."""

from __future__ import annotations

import socket

from poolproxy.relay.tls import Encryption
from poolproxy.settings.enums import Negotiation
from poolproxy.settings.hosts import Host
from poolproxy.settings.schema import Settings
from poolproxy.tls.contexts import Contexts
from poolproxy.worker import tls
from poolproxy.worker.greeting import ServerError
from poolproxy.worker.tls import TlsFailed

GOODBYE = 1.0  # seconds that a server gets to close when no TLS has come about


def wanted(host: Host, contexts: Contexts, settings: Settings) -> Encryption | None:
    """How a connection to the host is to be encrypted; None: not at all."""
    context = contexts.server
    if context is None or host.is_unix:
        return None
    direct = settings.server_tls_sslnegotiation is Negotiation.DIRECT
    # The certificate is to be for the name that was configured, whatever address that has led to.
    return Encryption(context, host.name, direct)


async def may_begin(sock: socket.socket, *, required: bool) -> bool:
    """Ask the server for TLS; False: it has none and needs none. Raises TlsFailed, ServerError, Eof."""
    answer = await tls.ask(sock)
    if len(answer) > 1 and answer[:1] in (b"S", b"N"):
        raise ServerError("received unencrypted data after SSL response")
    if answer == b"S":
        return True
    if required:
        raise ServerError("server refused SSL")
    if answer != b"N":
        await tls.end(sock, GOODBYE)
        raise TlsFailed("the server does not know the SSLRequest", "protocol")
    return False
