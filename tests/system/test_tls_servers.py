"""TLS towards PostgreSQL: which servers are used, how it begins, what a hostile one can do."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable
from signal import SIGHUP

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates, Pem
from tests.system.fake_database import (
    GREETING,
    SSL_REQUEST,
    Conversation,
    FakeDatabase,
    result,
)
from tests.system.protocol_client import ErrorAnswer, RawClient, cancel_request, message, query
from tests.system.support import Tables, client, eventually, sample, tables
from tests.system.tls_support import secure

pytestmark = pytest.mark.needs_system_postgres

ENCRYPTED = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
WORKERS = 1


def outcome(proxy: ProxyProcess, database: str) -> str:
    """Whether the server connection that a client gets is encrypted, or why there is none."""
    one = RawClient((proxy.host, proxy.port), log_in=False)
    with one:
        try:
            one.log_in({"user": "postgres", "database": database})
            return "tls" if one.value(ENCRYPTED) == "t" else "clear"
        except ErrorAnswer as error:
            return error.message


def reason(proxy: ProxyProcess, text: str) -> None:
    """Wait for the reason for which a server could not be used."""
    eventually(lambda: f"closing because: {text}" in proxy.log, text)


def config(server: PostgresServer, **proxy: object) -> Tables:
    entries = {
        name: {"dbname": name} for name in ("postgres", "only_tls", "no_tls", "with_certificate")
    }
    entries["by_name"] = {"dbname": "postgres", "host": "localhost"}
    defaults = {"workers": WORKERS, "client_login_timeout": "2s", "server_login_retry": "10s"}
    return tables(server, entries, **{**defaults, **proxy})


CASES = {
    "disable": ({}, {"postgres": "clear", "no_tls": "clear"}),
    "allow": ({}, {"postgres": "tls", "only_tls": "tls"}),
    "prefer": ({}, {"postgres": "tls", "only_tls": "tls"}),
    "require": ({}, {"postgres": "tls", "only_tls": "tls"}),
    "verify-ca": ({"ca": "ours"}, {"postgres": "tls", "by_name": "tls"}),
    "verify-full": ({"ca": "ours", "cert": "ours"}, {"postgres": "tls", "with_certificate": "tls"}),
}


@pytest.mark.parametrize("mode", CASES)
def test_each_mode(
    start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates, mode: str
) -> None:
    """Server connections are encrypted where the mode asks for it, with our certificate if it is wanted."""
    files, expected = CASES[mode]
    given = {}
    if "ca" in files:
        given["server_tls_ca_file"] = str(certificates.ca)
    if "cert" in files:
        pem = certificates.issue("poolproxy", common_name="poolproxy")
        given |= {"server_tls_cert_file": str(pem.cert), "server_tls_key_file": str(pem.key)}
    proxy = start_proxy(config(tls_postgres, server_tls_sslmode=mode, **given))
    assert {name: outcome(proxy, name) for name in expected} == expected


def test_a_server_without_tls(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """prefer goes on in the clear on the same connection; after a reload, require refuses it."""
    limits = {"workers": WORKERS, "client_login_timeout": "2s", "query_wait_timeout": "2s"}
    proxy = start_proxy(tables(one_postgres, {"db": {}}, **limits))
    assert outcome(proxy, "db") == "clear"
    strict = tables(one_postgres, {"db": {}}, **limits, server_tls_sslmode="require")
    proxy.write_config(strict)
    proxy.signal(SIGHUP)
    eventually(lambda: "database configuration changed" in proxy.log, "the reload")
    outcome(proxy, "db")
    reason(proxy, "server refused SSL")


def test_a_certificate_that_is_not_good_enough(
    start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """verify-full refuses a certificate for another host, and the log says that."""
    full = {"server_tls_sslmode": "verify-full", "server_tls_ca_file": str(certificates.ca)}
    proxy = start_proxy(config(tls_postgres, **full))
    outcome(proxy, "by_name")
    reason(proxy, "TLS handshake failed: certificate verify failed: Hostname mismatch")
    assert outcome(proxy, "postgres") == "tls"


def test_a_certificate_of_an_unknown_authority(
    start_proxy: StartProxy, tls_postgres: PostgresServer
) -> None:
    """Without server_tls_ca_file the system's authorities judge, and they do not know ours."""
    proxy = start_proxy(config(tls_postgres, server_tls_sslmode="verify-ca"))
    outcome(proxy, "postgres")
    reason(proxy, "TLS handshake failed: certificate verify failed: ")


def test_changed_tls_settings_replace_servers(
    start_proxy: StartProxy, tls_postgres: PostgresServer
) -> None:
    """A reload that changes them ends the old connections; one that changes nothing leaves them."""
    proxy = start_proxy(config(tls_postgres, server_tls_sslmode="disable"))
    with client(proxy, "postgres") as one:
        first = one.backend()
        proxy.signal(SIGHUP)
        eventually(lambda: proxy.log.count("configuration reloaded") == 1, "the first reload")
        assert one.backend() == first
    proxy.write_config(config(tls_postgres, server_tls_sslmode="require"))
    proxy.signal(SIGHUP)
    eventually(lambda: "database configuration changed" in proxy.log, "the servers are replaced")
    assert outcome(proxy, "postgres") == "tls"


def test_a_revoked_server(
    start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """From the reload on that has it in server_tls_crl_file no connection is made to it."""
    revoked = certificates.folder / "servers.crl"
    revoked.write_bytes(certificates.revocation_list())
    ours = Pem(certificates.folder / "postgres.pem", certificates.folder / "postgres.key")
    verify = {"server_tls_sslmode": "verify-ca", "server_tls_ca_file": str(certificates.ca)}
    proxy = start_proxy(config(tls_postgres, **verify, server_tls_crl_file=str(revoked)))
    assert outcome(proxy, "postgres") == "tls"
    revoked.write_bytes(certificates.revocation_list(ours))
    proxy.signal(SIGHUP)
    eventually(lambda: "database configuration changed" in proxy.log, "the old servers go")
    outcome(proxy, "only_tls")
    reason(proxy, "TLS handshake failed: certificate verify failed: certificate revoked")


# -- fake servers ---------------------------------------------------------------------------------


def fake(
    start_proxy: StartProxy, database: FakeDatabase, postgres: PostgresServer, **proxy: object
) -> ProxyProcess:
    tables_ = tables(
        postgres,
        {"db": {"port": database.port}},
        **{"workers": WORKERS, "client_login_timeout": "2s", "server_login_retry": "10s", **proxy},
    )
    return start_proxy(tables_)


def converse(conversation: Conversation) -> None:
    """Let everybody in and answer each query with 1."""
    conversation.packet()
    conversation.send(GREETING)
    try:
        while conversation.message()[0] == b"Q":
            conversation.send(result("1"))
    except EOFError:
        pass


def asked(conversation: Conversation) -> bytes:
    """The first eight bytes, or as many as a TLS record's header has if it begins with one."""
    return conversation._exactly(8)


def run(
    start_proxy: StartProxy,
    postgres: PostgresServer,
    behave: Callable[[Conversation], None],
    **proxy: object,
) -> tuple[str, ProxyProcess]:
    """(what a client's query gets with a fake server, the proxy)."""
    with FakeDatabase(behave) as database:
        one = fake(start_proxy, database, postgres, **proxy)
        try:
            with client(one, "db") as raw:
                return raw.value("select 1") or "", one
        except ErrorAnswer as error:
            return error.message, one


def test_cve_2021_43767_bytes_behind_the_servers_answer(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """What an attacker adds to the server's S is not taken for encrypted bytes: the server is not used."""

    def behave(conversation: Conversation) -> None:
        asked(conversation)
        conversation.send(b"S" + GREETING)
        conversation.until_eof()

    text, proxy = run(start_proxy, one_postgres, behave)
    assert "client_login_timeout" in text
    reason(proxy, "received unencrypted data after SSL response")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"S", "wrong version number"),
        (message("E", b"SFATAL\0C08P01\0Mwhat?\0\0"), "does not know the SSLRequest"),
    ],
    ids=["no TLS behind S", "an error"],
)
def test_a_failing_handshake(
    start_proxy: StartProxy, one_postgres: PostgresServer, answer: bytes, why: str
) -> None:
    """prefer tries again without TLS, and says so."""
    attempts: list[int] = []

    def behave(conversation: Conversation) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            asked(conversation)
            conversation.send(answer)
            if answer == b"S":
                conversation.sock.recv(1)  # the beginning of the handshake
                conversation.send(b"this is no TLS at all" * 10)
            conversation.until_eof()
        else:
            converse(conversation)

    text, proxy = run(start_proxy, one_postgres, behave)
    assert text == "1"
    assert re.search(rf"TLS handshake failed: .*{why}; trying without", proxy.log)


@pytest.fixture(scope="module")
def pem(certificates: Certificates) -> Pem:
    """The fake server's certificate."""
    return certificates.issue("fake", HOST)


@pytest.mark.parametrize("alpn", [True, False], ids=["with ALPN", "without"])
def test_direct_tls(
    start_proxy: StartProxy, one_postgres: PostgresServer, pem: Pem, alpn: bool
) -> None:
    """TLS from the first byte, if the server then agrees on PostgreSQL's protocol."""

    def behave(conversation: Conversation) -> None:
        try:
            secure(conversation, pem, alpn=alpn)
            assert isinstance(conversation.sock, ssl.SSLSocket)
            converse(conversation)
        except (OSError, EOFError):
            pass

    direct = {"server_tls_sslmode": "require", "server_tls_sslnegotiation": "direct"}
    text, proxy = run(start_proxy, one_postgres, behave, **direct)
    if alpn:
        assert text == "1"
    else:
        reason(proxy, "TLS handshake failed: received direct SSL connection request without ALPN")


def test_cancel_requests_are_encrypted_as_their_server_is(
    start_proxy: StartProxy, one_postgres: PostgresServer, pem: Pem
) -> None:
    """The key does not travel in the clear."""
    cancelled = threading.Event()
    firsts: list[bytes] = []

    def behave(conversation: Conversation) -> None:
        try:
            firsts.append(asked(conversation)[4:])
            conversation.send(b"S")
            secure(conversation, pem)
            if not firsts[1:]:
                conversation.packet()
                conversation.send(GREETING)
                conversation.message()
                cancelled.wait(15)
                conversation.send(result("late"))
                conversation.message()
            else:
                conversation.packet_or_cancel()
                cancelled.set()
        except (OSError, EOFError):
            pass

    with FakeDatabase(behave) as database:
        proxy = fake(start_proxy, database, one_postgres, server_tls_sslmode="require")
        with client(proxy, "db") as one:
            one.send(query("select 1"))
            eventually(
                lambda: sample(proxy, "poolproxy_pool_clients", state="active"), "the query runs"
            )
            with RawClient((HOST, proxy.port), log_in=False) as canceller:
                canceller.send(cancel_request(one.key))
                assert canceller.at_end()
            assert one.results() == [("late",)]
    assert firsts == [SSL_REQUEST, SSL_REQUEST]
