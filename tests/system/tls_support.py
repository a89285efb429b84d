"""Clients and servers that speak TLS by hand."""

from __future__ import annotations

import ssl
from typing import Any

import psycopg

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import HOST, ProxyProcess
from tests.fixtures.tls import Certificates, Pem
from tests.system.fake_database import Conversation
from tests.system.protocol_client import RawClient
from tests.system.support import Tables, tables

ALPN = "postgresql"


def settings(
    server: PostgresServer, pem: Pem, certificates: Certificates, **more: object
) -> Tables:
    """Databases ``transaction`` and ``session``; clients may use TLS, and may have a certificate."""
    databases = {mode: {"pool_mode": mode, "pool_size": 4} for mode in ("transaction", "session")}
    ours = {
        "client_tls_sslmode": "prefer",
        "client_tls_key_file": str(pem.key),
        "client_tls_cert_file": str(pem.cert),
        "client_tls_ca_file": str(certificates.ca),
    }
    return tables(server, databases, **{"workers": 1, **ours, **more})


def connect(
    proxy: ProxyProcess,
    context: ssl.SSLContext,
    *,
    direct: bool = False,
    alpn: str = ALPN,
) -> RawClient:
    """A client whose handshake is done, and that has not logged in."""
    one = RawClient((proxy.host, proxy.port), log_in=False)
    try:
        if alpn:
            context.set_alpn_protocols([alpn])
        if direct:
            one.shake_hands(context)
        else:
            one.encrypt(context)
    except BaseException:
        one.close()
        raise
    return one


def libpq(proxy: ProxyProcess, certificates: Certificates, **how: Any) -> psycopg.Connection:
    """libpq, which looks at the proxy's certificate where ``sslmode`` says so."""
    target = {"host": HOST, "port": proxy.port, "user": "postgres", "dbname": "transaction"}
    root = {"sslrootcert": str(certificates.ca), "sslcert": "/nowhere", "sslkey": "/nowhere"}
    return psycopg.connect(**{**target, **root, **how})


def client(proxy: ProxyProcess, context: ssl.SSLContext, database: str, **how: Any) -> RawClient:
    """A client that has logged in over TLS."""
    one = connect(proxy, context, **how)
    one.log_in({"user": "postgres", "database": database})
    return one


def secure(conversation: Conversation, pem: Pem, *, alpn: bool = True) -> None:
    """The fake server's side of a handshake; ``conversation`` goes on encrypted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem.cert, pem.key)
    if alpn:
        context.set_alpn_protocols([ALPN])
    conversation.sock = context.wrap_socket(conversation.sock, server_side=True)
