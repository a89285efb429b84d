"""Clients over TLS: how it begins, who is refused, what it carries."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from typing import Any

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates, Pem
from tests.system.protocol_client import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    Eof,
    ErrorAnswer,
    RawClient,
    cancel_request,
    message,
    query,
    startup,
)
from tests.system.support import eventually, sample
from tests.system.tls_support import client, connect, libpq, settings

pytestmark = pytest.mark.needs_system_postgres

FAILURES = "poolproxy_worker_tls_handshake_failures_total"
CLIENTS = "poolproxy_worker_tls_clients"
SERVERS = "poolproxy_worker_tls_servers"
MODES = ("transaction", "session")


@pytest.fixture(scope="module")
def pem(certificates: Certificates) -> Pem:
    """The proxy's certificate."""
    return certificates.issue("proxy", HOST)


@pytest.fixture(scope="module")
def user(certificates: Certificates) -> Pem:
    """A client's certificate."""
    return certificates.issue("joe", common_name="joe")


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy,
    tls_postgres: PostgresServer,
    pem: Pem,
    certificates: Certificates,
) -> ProxyProcess:
    """TLS for who wants it, and to the server."""
    return start_module_proxy(
        settings(tls_postgres, pem, certificates, server_tls_sslmode="require")
    )


@pytest.fixture(scope="module")
def strict(
    start_module_proxy: StartProxy,
    tls_postgres: PostgresServer,
    pem: Pem,
    certificates: Certificates,
) -> ProxyProcess:
    """Nobody without a certificate, and little time to log in."""
    folder = certificates.folder
    return start_module_proxy(
        settings(
            tls_postgres,
            pem,
            certificates,
            client_tls_sslmode="verify-full",
            client_login_timeout="1s",
            unix_socket_dir=str(folder),
            server_tls_sslmode="disable",
        )
    )


# -- how it begins --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "encrypted"),
    [
        ("disable", False),
        ("allow", False),
        ("prefer", True),
        ("require", True),
        ("verify-ca", True),
        ("verify-full", True),
    ],
)
def test_each_sslmode_of_libpq(
    proxy: ProxyProcess, certificates: Certificates, mode: str, encrypted: bool
) -> None:
    """Whether there is TLS is the client's choice, and our certificate stands its examination."""
    with libpq(proxy, certificates, sslmode=mode) as connection:
        assert connection.pgconn.ssl_in_use == encrypted
        sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        assert connection.execute(sql).fetchone() == (True,)
        assert sample(proxy, CLIENTS) == encrypted
        assert sample(proxy, SERVERS) >= 1
    assert f"db=transaction user=postgres tls={'TLSv1.' if encrypted else 'no'}" in proxy.log


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("direct", [False, True], ids=["SSLRequest", "direct"])
@pytest.mark.parametrize("mode", MODES)
def test_both_beginnings(
    proxy: ProxyProcess,
    certificates: Certificates,
    version: ssl.TLSVersion,
    direct: bool,
    mode: str,
) -> None:
    """TLS after an SSLRequest or at once, as with PostgreSQL 17, in both versions."""
    context = certificates.context()
    context.minimum_version = context.maximum_version = version
    with client(proxy, context, mode, direct=direct) as one:
        assert one.value("select 1") == "1"
        assert isinstance(one.sock, ssl.SSLSocket)
        assert one.sock.selected_alpn_protocol() == "postgresql"


@pytest.mark.parametrize("alpn", ["", "http/1.1"])
def test_direct_tls_needs_alpn(proxy: ProxyProcess, certificates: Certificates, alpn: str) -> None:
    """What begins with TLS at once and does not name PostgreSQL's protocol is refused."""
    before = sample(proxy, FAILURES, reason="no_alpn")
    with connect(proxy, certificates.context(), direct=True, alpn=alpn) as one:
        assert one.at_end()
    assert sample(proxy, FAILURES, reason="no_alpn") == before + 1
    assert "TLS handshake error: received direct SSL connection request without ALPN" in proxy.log


def test_no_alpn_is_needed_after_an_ssl_request(
    proxy: ProxyProcess, certificates: Certificates
) -> None:
    """Clients older than PostgreSQL 17 do not know it."""
    with client(proxy, certificates.context(), "transaction", alpn="") as one:
        assert one.value("select 1") == "1"


def test_gssapi_is_declined_within_and_without(
    proxy: ProxyProcess, certificates: Certificates
) -> None:
    """GSSENCRequest gets its N before an SSLRequest, and inside of TLS."""
    with RawClient((HOST, proxy.port), log_in=False) as one:
        one.send(GSSENC_REQUEST)
        assert one.read_bytes(1) == b"N"
        one.send(SSL_REQUEST)
        assert one.read_bytes(1) == b"S"
    with connect(proxy, certificates.context()) as one:
        one.send(GSSENC_REQUEST)
        assert one.read_bytes(1) == b"N"
        one.log_in({"user": "postgres", "database": "transaction"})


# -- who is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [SSL_REQUEST, GSSENC_REQUEST], ids=["SSL", "GSSAPI"])
@pytest.mark.parametrize("early", [startup({"user": "postgres"}), b"\x16\x03\x01"])
def test_cve_2021_3935_and_43766_bytes_before_the_handshake(
    proxy: ProxyProcess, request_: bytes, early: bytes
) -> None:
    """Bytes in the clear behind an encryption request are never taken for encrypted ones: refused."""
    one = RawClient((HOST, proxy.port), log_in=False)
    one.send(request_ + early)
    what = "SSL request" if request_ == SSL_REQUEST else "GSSAPI encryption request"
    assert one.farewell().message == f"received unencrypted data after {what}"


def test_an_ssl_request_inside_of_tls(proxy: ProxyProcess, certificates: Certificates) -> None:
    """It ends the connection without a word, as with PgBouncer."""
    with connect(proxy, certificates.context()) as one:
        one.send(SSL_REQUEST)
        assert one.at_end()
    assert "SSL req inside SSL" in proxy.log


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\x16\x03\x01\0\2ab"])
def test_garbage_in_the_place_of_a_handshake(proxy: ProxyProcess, garbage: bytes) -> None:
    """The connection ends, is counted, and nobody else notices."""
    before = sample(proxy, FAILURES)
    with RawClient((HOST, proxy.port), log_in=False) as one:
        one.send(SSL_REQUEST)
        assert one.read_bytes(1) == b"S"
        one.send(garbage)
        one.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(Eof):
            one.read_bytes(1000)
    eventually(lambda: sample(proxy, FAILURES) == before + 1, "it is counted")


def test_plain_text_where_tls_is_required(strict: ProxyProcess) -> None:
    """The error names the cure; the SQLSTATE is that of a log-in that is not allowed."""
    one = RawClient((HOST, strict.port), log_in=False)
    with pytest.raises(ErrorAnswer) as caught:
        one.log_in({"user": "postgres", "database": "transaction"})
    assert (caught.value.message, caught.value.sqlstate) == ("SSL required", "28000")
    assert "client_tls_sslmode" in caught.value.hint
    one.close()


def test_a_unix_socket_needs_no_tls(strict: ProxyProcess, certificates: Certificates) -> None:
    """There TLS is neither demanded nor offered."""
    path = f"{certificates.folder}/.s.PGSQL.{strict.port}"
    with RawClient(path, "transaction") as one:
        assert one.value("select 1") == "1"
    with RawClient(path, log_in=False) as one:
        one.send(SSL_REQUEST)
        assert one.read_bytes(1) == b"N"


def test_a_cancel_request_in_the_clear(strict: ProxyProcess) -> None:
    """It is taken where TLS is required: libpq before version 17 sends no other."""
    before = len(strict.log)
    with RawClient((HOST, strict.port), log_in=False) as one:
        one.send(cancel_request((1, b"none")))
        assert one.at_end()
    assert "SSL required" not in strict.log[before:]


def test_silence_amid_a_handshake(strict: ProxyProcess) -> None:
    """A client that says nothing after the S is closed after client_login_timeout."""
    before = sample(strict, FAILURES, reason="timeout")
    with RawClient((HOST, strict.port), log_in=False) as one:
        one.send(SSL_REQUEST)
        assert one.read_bytes(1) == b"S"
        assert one.at_end()
    assert sample(strict, FAILURES, reason="timeout") == before + 1


def test_certificates_of_clients(
    strict: ProxyProcess, certificates: Certificates, user: Pem
) -> None:
    """With verify-full only who has one of our authority gets in."""
    known = {"sslcert": str(user.cert), "sslkey": str(user.key)}
    with libpq(strict, certificates, sslmode="verify-full", **known) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    before = sample(strict, FAILURES, reason="certificate")
    with pytest.raises(psycopg.OperationalError, match="certificate required"):
        libpq(strict, certificates, sslmode="require")
    assert sample(strict, FAILURES, reason="certificate") == before + 1


def test_a_certificate_of_nobody_we_know(
    proxy: ProxyProcess, certificates: Certificates, user: Pem, tmp_path_factory: Any
) -> None:
    """Where none is demanded a good one is welcome, and a bad one is still refused."""
    stranger = Certificates(tmp_path_factory.mktemp("other")).issue("ann", common_name="ann")
    known = {"sslcert": str(user.cert), "sslkey": str(user.key)}
    with libpq(proxy, certificates, sslmode="require", **known) as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="unknown ca"):
        libpq(
            proxy,
            certificates,
            sslmode="require",
            sslcert=str(stranger.cert),
            sslkey=str(stranger.key),
        )


# -- what it carries ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_large_result_and_a_slow_reader(
    proxy: ProxyProcess, certificates: Certificates, tls_postgres: PostgresServer, mode: str
) -> None:
    """The server waits for the client, and then each byte arrives once."""
    sql = "select n, repeat(chr(65 + n % 26), 10000) /* slow */ from generate_series(1, 3000) n"
    waits = (
        "select 1 from pg_stat_activity where query like '%/* slow */%'"
        " and wait_event = 'ClientWrite'"
    )
    with client(proxy, certificates.context(), mode) as one:
        one.send(query(sql))
        eventually(lambda: tls_postgres.psql(waits), "the server waits for the reader")
        rows = one.results()
    assert [row[0] for row in rows] == [str(n) for n in range(1, 3001)]
    assert all(row[1] == chr(65 + n % 26) * 10000 for n, row in enumerate(rows, 1))


@pytest.mark.parametrize("mode", MODES)
def test_copy_in_to_a_slow_server(
    proxy: ProxyProcess, certificates: Certificates, tls_postgres: PostgresServer, mode: str
) -> None:
    """COPY FROM STDIN of what the server does not read for a while; then COPY TO STDOUT gives it back."""
    table = f"copied_{mode}"
    tls_postgres.psql(f"create table {table} (n int, t text)")
    lines = [f"{n}\t{'x' * 2000}\n".encode() for n in range(10_000)]
    with (
        psycopg.connect(tls_postgres.url()) as holder,
        client(proxy, certificates.context(), mode) as one,
    ):
        holder.execute(f"lock table {table}")
        one.send(query(f"copy {table} from stdin"))
        flood = b"".join(message("d", line) for line in lines)
        one.sock.settimeout(0.2)
        sent = _flood(one, flood)
        assert sent < len(flood)
        holder.rollback()
        one.sock.settimeout(15)
        # OpenSSL is in the middle of the piece that it could not send.
        one.send(flood[sent:], message("c"))
        one.replies()
        one.send(query(f"copy {table} to stdout"))
        copied = [reply.body for reply in one.replies() if reply.code == "d"]
    assert copied == lines


def _flood(one: RawClient, data: bytes) -> int:
    """Send pieces until the other side takes no more; where the piece begins that is not sent whole."""
    for start in range(0, len(data), 16_384):
        try:
            one.sock.sendall(data[start : start + 16_384])
        except (TimeoutError, ssl.SSLWantWriteError):
            return start
    return len(data)


def test_a_cancel_request_over_tls(
    proxy: ProxyProcess, certificates: Certificates, tls_postgres: PostgresServer
) -> None:
    """It reaches the query, and the canceller sees an orderly end."""
    with client(proxy, certificates.context(), "transaction") as one:
        one.send(query("select pg_sleep(60) /* tls cancel */"))
        asleep = "select 1 from pg_stat_activity where query like 'select pg_sleep%tls cancel%'"
        eventually(lambda: tls_postgres.psql(asleep), "the query runs")
        with connect(proxy, certificates.context()) as canceller:
            assert isinstance(canceller.sock, ssl.SSLSocket)
            canceller.sock.suppress_ragged_eofs = False
            canceller.send(cancel_request(one.key))
            assert canceller.at_end()
        with pytest.raises(ErrorAnswer, match="57014"):
            one.results()
        assert one.value("select 1") == "1"


def test_replication(proxy: ProxyProcess, certificates: Certificates) -> None:
    """A replication connection, encrypted on both sides."""
    with connect(proxy, certificates.context()) as one:
        one.log_in({"user": "postgres", "database": "transaction", "replication": "database"})
        assert len(one.query("IDENTIFY_SYSTEM")[0]) == 4


def test_an_error_at_the_end_is_read(proxy: ProxyProcess, certificates: Certificates) -> None:
    """A log-in that is refused over TLS gets its error, and an orderly end."""
    with connect(proxy, certificates.context()) as one:
        with pytest.raises(ErrorAnswer, match="no such database"):
            one.log_in({"user": "postgres", "database": "nowhere"})
        one.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        assert one.at_end()


@pytest.mark.parametrize("protocol", ["simple", "prepared"])
def test_load(
    proxy: ProxyProcess, tls_postgres: PostgresServer, certificates: Certificates, protocol: str
) -> None:
    """pgbench over TLS on both sides, more clients than servers; the server sees orderly ends only."""
    tls_postgres.psql("create table if not exists pgbench_probe (n int)")
    script = certificates.folder / "script.sql"
    script.write_text("select count(*), repeat('x', 3000) from pgbench_probe;\n")
    done = subprocess.run(
        [
            *(str(tls_postgres.binaries.tool("pgbench")), "-n", "-c8", "-j8", "-t100"),
            *("-M", protocol, "-f", str(script)),
            *("-h", HOST, "-p", str(proxy.port), "-U", "postgres", "transaction"),
        ],
        env={**os.environ, "PGSSLMODE": "require"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "number of transactions actually processed: 800/800" in done.stdout, done.stderr
    assert "SSL error" not in tls_postgres.log_text()
