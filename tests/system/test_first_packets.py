"""The first packets of a connection: encryption requests, and start-up packets that are no good."""

from __future__ import annotations

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    RawClient,
    startup,
)
from tests.system.support import tables


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    return start_module_proxy(tables(postgres, {"postgres": {}}, auth_type="scram-sha-256"))


def test_encryption_requests_are_declined(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """SSLRequest and GSSENCRequest get their N, in either order, and the log-in goes on."""
    for requests in ((SSL_REQUEST, GSSENC_REQUEST), (GSSENC_REQUEST, SSL_REQUEST)):
        with RawClient((proxy.host, proxy.port), log_in=False) as one:
            for request in requests:
                one.send(request)
                assert one.read_bytes(1) == b"N"
            one.send(startup({"user": postgres.user, "database": "postgres"}))
            assert one.read().code == "R"


def test_bytes_behind_an_encryption_request(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """Unencrypted data sent right behind SSLRequest is refused: it could be an attacker's."""
    for request, name in ((SSL_REQUEST, "SSL"), (GSSENC_REQUEST, "GSSAPI encryption")):
        one = RawClient((proxy.host, proxy.port), log_in=False)
        one.send(request + startup({"user": postgres.user}))
        assert one.farewell().message == f"received unencrypted data after {name} request"


def test_sslmode_prefer_and_require(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """libpq's default goes on in plain text; sslmode=require is told that there is no TLS."""
    target = {"host": proxy.host, "port": proxy.port, "user": postgres.user, "dbname": "postgres"}
    with psycopg.connect(**target, password=postgres.password, sslmode="prefer") as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        psycopg.connect(**target, password=postgres.password, sslmode="require")


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (startup({"user": "x"}, version=2 << 16), "old V2 protocol not supported"),
        (startup({"database": "x"}), "no username supplied"),
        (startup({"user": "x" * 128}), "username too long"),
        (b"\0\0\0\x0e\0\3\0\0user\0x", "invalid startup packet layout"),
        (b"\0\0\0\0\0\0\0\0", "bad packet header: '0000000000000000'"),
        (b"\0\0\0\3\0\3\0\0", "bad packet header: '0000000300030000'"),
        (b"\x7f\xff\xff\xff\0\3\0\0", "bad packet header: '7fffffff00030000'"),
    ],
)
def test_bad_start_up_packets(proxy: ProxyProcess, first: bytes, words: str) -> None:
    """Each gets a clear error and a close."""
    one = RawClient((proxy.host, proxy.port), log_in=False)
    one.send(first)
    assert one.farewell().message.startswith(words)
