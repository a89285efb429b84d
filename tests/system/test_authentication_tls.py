"""Log-ins over TLS: certificates, channel binding, and rules that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates, Pem
from tests.system.protocol_client import SSL_REQUEST, RawClient
from tests.system.setups import PASSWORD
from tests.system.support import eventually, sample

pytestmark = pytest.mark.needs_system_postgres

HBA = """
hostssl   cert     all all cert
hostssl   map      all all cert map=names
hostssl   scram    all all scram-sha-256
hostnossl open     all all reject
hostssl   open     all all md5
"""
METHODS = ("scram", "open", "plain", "anybody")


@pytest.fixture(scope="module")
def roles(tls_postgres: PostgresServer) -> Iterator[None]:
    """A user with a SCRAM secret, and one whose time is over."""
    tls_postgres.psql(
        f"create role tlsuser login password '{PASSWORD}'; "
        f"create role tlsgone login password '{PASSWORD}' valid until '2001-01-01'"
    )
    yield
    tls_postgres.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename like 'tls%'; "
        "drop role tlsuser, tlsgone"
    )


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy,
    tls_postgres: PostgresServer,
    certificates: Certificates,
    roles: None,
) -> ProxyProcess:
    """TLS for who wants it, and to the server, which offers channel binding."""
    pem = certificates.issue("proxy-auth", HOST)
    server = tls_postgres
    to = {"host": HOST, "port": server.port, "dbname": "postgres"}
    forced = to | {"user": server.user, "password": server.password}
    tables = {
        "poolproxy": {
            "auth_type": "hba",
            "auth_hba_file": "hba.conf",
            "auth_ident_file": "ident.conf",
            "auth_user": server.user,
            "auth_failure_delay": 0,
            "client_tls_sslmode": "prefer",
            "client_tls_key_file": str(pem.key),
            "client_tls_cert_file": str(pem.cert),
            "client_tls_ca_file": str(certificates.ca),
            "server_tls_sslmode": "require",
        },
        "databases": {
            "cert": forced,
            "map": forced,
            "scram": to,
            "open": to,
            "plain": to | {"auth_type": "plain"},
            "anybody": forced | {"auth_type": "any"},
        },
        "users": {server.user: {"password": server.password}},
    }
    files = {"hba.conf": HBA, "ident.conf": "names boss tlsuser\n"}
    return start_module_proxy(tables, files)


def log_in(proxy: ProxyProcess, database: str, user: str, password: str = "", **how: object) -> str:
    """Whom the server sees; raises psycopg.OperationalError."""
    with psycopg.connect(
        host=HOST,
        port=proxy.port,
        user=user,
        password=password,
        dbname=database,
        **{"sslmode": "require", **how},
    ) as connection:
        row = connection.execute("select current_user").fetchone()
        assert row is not None
        return str(row[0])


@pytest.mark.parametrize("database", METHODS)
def test_methods_over_tls(proxy: ProxyProcess, tls_postgres: PostgresServer, database: str) -> None:
    """Right is let in, wrong, unknown and expired are not."""
    expected = tls_postgres.user if database == "anybody" else "tlsuser"
    assert log_in(proxy, database, "tlsuser", PASSWORD) == expected
    if database == "anybody":
        return
    for user, password in (("tlsuser", "wrong"), ("unknown", PASSWORD), ("tlsgone", PASSWORD)):
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            log_in(proxy, database, user, password)


def test_channel_binding_is_offered(proxy: ProxyProcess) -> None:
    """A client that demands channel binding gets it, and one that does not want it gets in as well."""
    assert log_in(proxy, "scram", "tlsuser", PASSWORD, channel_binding="require") == "tlsuser"
    assert log_in(proxy, "scram", "tlsuser", PASSWORD, channel_binding="disable") == "tlsuser"
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        log_in(proxy, "scram", "tlsuser", "wrong", channel_binding="require")


def named(certificates: Certificates, name: str) -> dict[str, str]:
    pem: Pem = certificates.issue(f"auth-{name}", common_name=name)
    return {"sslcert": str(pem.cert), "sslkey": str(pem.key)}


def test_certificates(
    proxy: ProxyProcess, tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """The common name is the user, or the map says whom it may be; without a certificate nobody gets in."""
    own, boss = named(certificates, "tlsuser"), named(certificates, "boss")
    assert log_in(proxy, "cert", "tlsuser", **own) == tls_postgres.user
    assert log_in(proxy, "map", "tlsuser", **boss) == tls_postgres.user
    for database, user, pem in (
        ("cert", "tlsuser", boss),
        ("cert", "boss", boss),  # not a known user
        ("map", "tlsuser", own),
        ("cert", "tlsuser", {}),
    ):
        with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
            log_in(proxy, database, user, **pem)


def test_rules_that_tell_tls_from_none(proxy: ProxyProcess) -> None:
    """hostssl and hostnossl."""
    with pytest.raises(psycopg.OperationalError, match="login rejected"):
        log_in(proxy, "open", "tlsuser", PASSWORD, sslmode="disable")
    with pytest.raises(psycopg.OperationalError, match="no authentication method is found"):
        log_in(proxy, "scram", "tlsuser", PASSWORD, sslmode="disable")


def test_silent_handshakes_keep_nobody_out(
    start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """Connections that stop before or after their handshake make room as all others."""
    pem = certificates.issue("proxy-silent", HOST)
    tables = {
        "poolproxy": {
            "auth_type": "any",
            "max_client_conn": 40,
            "max_logins": 5,
            "workers": 1,
            "client_tls_sslmode": "require",
            "client_tls_key_file": str(pem.key),
            "client_tls_cert_file": str(pem.cert),
        },
        "databases": {
            "db": {
                "host": HOST,
                "port": tls_postgres.port,
                "dbname": "postgres",
                "user": tls_postgres.user,
                "password": tls_postgres.password,
            }
        },
        "users": {"ann": {"password": "x"}},
    }
    proxy = start_proxy(tables)
    silent = []
    try:
        for number in range(12):
            one = RawClient((HOST, proxy.port), log_in=False)
            silent.append(one)
            one.send(SSL_REQUEST)
            assert one.read_bytes(1) == b"S"
            if number % 2:
                one.sock = certificates.context().wrap_socket(one.sock, server_hostname=HOST)
        failures = "poolproxy_worker_login_failures_total"
        eventually(lambda: sample(proxy, failures, reason="max_logins") == 7, "they are closed")
        assert log_in(proxy, "db", "ann") == tls_postgres.user
    finally:
        for one in silent:
            one.close()
