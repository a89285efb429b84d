"""Every method of authentication over every transport: who is right, who is wrong, unknown or expired.

Real libpq clients, and a real PostgreSQL whose pg_hba.conf has the line that belongs to the method; it is the
password of the client, or what the pooler knows of it, that PostgreSQL sees. :data:`METHODS` is the whole
table. What can't be has its reason there, and a client that tries it all the same is refused.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import attrs
import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.services import EXPIRED, PEOPLE, Directory
from tests.fixtures.tls import Certificates

pytestmark = [
    pytest.mark.needs_system_postgres,
    pytest.mark.needs_slapd,
    pytest.mark.needs_pam_wrapper,
]

ME = getpass.getuser()
SECRET = "pass'word \\ ü"
PASSWORD = "password authentication failed"
SASL = "SASL authentication failed"
REFUSED = "authentication failed|login rejected|channel binding required"
TRANSPORTS = ("tcp", "tls", "unix")
OUTCOMES = ("right", "wrong", "unknown", "expired")


@attrs.frozen
class Try:
    """A client, and what it hears; "" is in. ``certificate``: the common name of the one that it has."""

    user: str
    password: str
    hears: str = ""
    certificate: str = ""
    database: str = ""


@attrs.frozen
class Never:
    """There is no such case."""

    reason: str


@attrs.frozen(kw_only=True)
class Method:
    """``become``: whom PostgreSQL sees, if not the client's user. ``only``: transports over which the method
    is possible at all, and ``else_hears`` what the right client hears over another, with ``else_reason``.
    """

    right: Try
    wrong: Try | Never
    unknown: Try | Never
    expired: Try | Never
    become: str = ""
    only: tuple[str, ...] = TRANSPORTS
    else_hears: str = ""
    else_reason: str = ""
    conninfo: Mapping[str, str] = attrs.field(factory=dict)


def by_password(name: str, hears: str, **more: str) -> Method:
    """Users ``NAME`` and ``NAME_old``, the latter expired at PostgreSQL."""
    return Method(
        right=Try(name, SECRET),
        wrong=Try(name, "wrong", hears),
        unknown=Try("nobody", SECRET, hears),
        # Where the pooler's secret is a copy PostgreSQL is who refuses, and the client hears of it.
        expired=Try(f"{name}_old", SECRET, "authentication failed|server login failed"),
        conninfo=more,
    )


NO_PASSWORD = Never("nobody asks for a password")
NO_EXPIRY = Never("VALID UNTIL ends a password, and here is none")
METHODS = {
    "trust": Method(
        right=Try("mx_trust", ""),
        wrong=NO_PASSWORD,
        unknown=Try("nobody", "", '"trust" authentication failed'),
        expired=NO_EXPIRY,
    ),
    "any": Method(
        right=Try("whoever", ""),
        wrong=NO_PASSWORD,
        unknown=Never("every name is right"),
        expired=Try("whoever", "", "authentication failed", database="any_old"),
        become="mx_any",
    ),
    "plain": by_password("mx_plain", PASSWORD),
    "md5": by_password("mx_md5", PASSWORD),
    "scram-sha-256": by_password("mx_scram", SASL, channel_binding="disable"),
    "SCRAM-SHA-256-PLUS": attrs.evolve(
        by_password("mx_plus", SASL, channel_binding="require"),
        only=("tls",),
        else_hears="channel binding required",
        else_reason="what is bound to is the certificate of TLS",
    ),
    "cert": Method(
        right=Try("mx_cert", "", certificate="mx_cert"),
        wrong=Try("mx_cert", "", "certificate authentication failed", certificate="mx_other"),
        unknown=Try("nobody", "", "certificate authentication failed", certificate="nobody"),
        expired=Try("mx_cert", "", "certificate expired|alert", certificate="mx_cert_old"),
        only=("tls",),
        else_hears="certificate authentication failed",
        else_reason="there are no certificates without TLS",
    ),
    "peer": Method(
        right=Try(ME, ""),
        wrong=Try("mx_trust", "", "unix socket login rejected"),
        unknown=Try("nobody", "", "unix socket login rejected"),
        expired=NO_EXPIRY,
        become="mx_trust",
        only=("unix",),
        else_hears="unix socket login rejected",
        else_reason="the system knows who is at the other end of a Unix socket only",
    ),
    # Another line of the file for each transport: md5, scram-sha-256, password.
    "hba": by_password("mx_hba", f"({PASSWORD}|{SASL})"),
    "pam": Method(
        right=Try("ann", PEOPLE["ann"]),
        wrong=Try("ann", "wrong", "PAM authentication failed"),
        unknown=Try("nobody", SECRET, "PAM authentication failed"),
        expired=Try(EXPIRED, EXPIRED, "PAM authentication failed"),
    ),
    "ldap": Method(
        right=Try("o'neil", PEOPLE["o'neil"]),
        wrong=Try("o'neil", "wrong", "LDAP authentication failed"),
        unknown=Try("nobody", SECRET, "LDAP authentication failed"),
        expired=Never("a directory without password policies has no such entries"),
    ),
    # The secrets are PostgreSQL's own: found there, or copied from there.
    "auth_query": by_password("mx_query", SASL),
    "pass-through": by_password("mx_passed", SASL),
}
# Those that the pooler knows; pass-through's are added with PostgreSQL's secrets.
LISTED = ("mx_trust", "mx_plain", "mx_scram", "mx_plus", "mx_cert", "mx_hba", "mx_md5", ME)
CASES = [(name, transport) for name in METHODS for transport in TRANSPORTS]


def lines(directory: Directory) -> str:
    """PostgreSQL's pg_hba.conf."""
    by = {
        "trust": "mx_trust",
        "password": "mx_plain,mx_plain_old,ann",
        "md5": "mx_md5,mx_md5_old",
        "cert": "mx_cert",
        f"ldap {directory.simple}": '"o\'neil"',
        "scram-sha-256": "all",
    }
    return "".join(f"hostssl all {users} {HOST}/32 {how}\n" for how, users in by.items())


@pytest.fixture(scope="module")
def secrets(tls_postgres: PostgresServer, directory: Directory) -> Iterator[dict[str, str]]:
    """The roles, and PostgreSQL's secrets of them."""
    server, literal = tls_postgres, SECRET.replace("'", "''")
    old = "valid until '2001-01-01'"
    names = {
        *("mx_trust", "mx_any", "mx_cert"),
        *(m.right.user for m in METHODS.values() if m.right.password == SECRET),
    }
    sql = [f"create role {name} login password '{literal}'" for name in sorted(names - {"mx_md5"})]
    sql += [f"create role {name}_old login password '{literal}' {old}" for name in sorted(names)]
    sql += [
        f"create role \"{user}\" login password '{PEOPLE[user].replace(chr(39), chr(39) * 2)}'"
        for user in ("ann", "o'neil")
    ]
    sql += ["create role mx_asker login password 'ask'", "grant select on pg_authid to mx_asker"]
    sql += ["drop role mx_md5_old", "set password_encryption = 'md5'"]
    sql += [
        f"create role mx_md5 login password '{literal}'",
        f"create role mx_md5_old login password '{literal}' {old}",
    ]
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(lines(directory) + before)
    server.psql("; ".join((*sql, "select pg_reload_conf()")))
    found = server.psql("select rolname, rolpassword from pg_authid where rolname like 'mx%'")
    yield dict(line.split("|") for line in found.splitlines())
    hba.write_text(before)
    server.psql("revoke select on pg_authid from mx_asker; select pg_reload_conf()")
    ours = "where rolname like 'mx%' or rolname in ('ann', 'o''neil')"
    server.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity join pg_authid on usesysid = pg_authid.oid "
        + ours
    )
    roles = server.psql(f"select string_agg(quote_ident(rolname), ', ') from pg_authid {ours}")
    server.psql(f"drop role {roles}")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.fixture(scope="module")
def people(certificates: Certificates) -> None:
    """Certificates of clients, by common name; one has expired."""
    for name in ("mx_cert", "mx_other", "nobody"):
        certificates.issue(f"matrix-{name}", common_name=name)
    certificates.issue(
        "matrix-mx_cert_old", common_name="mx_cert", not_after=datetime(2020, 1, 1, tzinfo=UTC)
    )


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy,
    tls_postgres: PostgresServer,
    certificates: Certificates,
    directory: Directory,
    pam_environment: dict[str, str],
    secrets: dict[str, str],
    people: None,
    folder: Path,
) -> ProxyProcess:
    """One proxy with a database for each method."""
    to = {"host": HOST, "port": tls_postgres.port, "dbname": "postgres"}
    pem = certificates.issue("matrix-proxy", HOST)
    ours = certificates.issue("matrix-pooler", common_name="mx_cert")
    own_types = {"trust", "plain", "md5", "scram-sha-256", "cert", "pam", "ldap", "hba"}
    databases: dict[str, dict[str, object]] = {name: to | {"auth_type": name} for name in own_types}
    databases |= {
        "any": to | {"auth_type": "any", "user": "mx_any", "password": SECRET},
        "any_old": to | {"auth_type": "any", "user": "mx_any_old", "password": SECRET},
        "peer": to | {"auth_type": "peer", "user": "mx_trust"},
        "SCRAM-SHA-256-PLUS": to | {"auth_type": "scram-sha-256"},
        "auth_query": to | {"auth_type": "scram-sha-256", "auth_user": "mx_asker"},
        "pass-through": to | {"auth_type": "scram-sha-256"},
    }
    known = dict.fromkeys((name + old for name in LISTED for old in ("", "_old")), SECRET)
    known |= {name: secrets[name] for name in secrets if name.startswith(("mx_passed", "mx_md5"))}
    known["mx_asker"] = "ask"
    userlist = "".join(f'"{name}" "{secret}"\n' for name, secret in known.items())
    hba = "".join(
        f"{kind} hba all {address} {how}\n"
        for kind, address, how in (
            ("hostnossl", "all", "md5"),
            ("hostssl", "all", "scram-sha-256"),
            ("local", "", "password"),
        )
    )
    tables = {
        "poolproxy": {
            "auth_type": "scram-sha-256",
            "auth_file": "userlist.txt",
            "auth_hba_file": "hba.conf",
            "auth_ldap_options": directory.simple,
            "auth_failure_delay": 0,
            "server_login_retry": 0,
            "pool_mode": "transaction",
            "unix_socket_dir": str(folder),
            "client_tls_sslmode": "prefer",
            "client_tls_key_file": str(pem.key),
            "client_tls_cert_file": str(pem.cert),
            "client_tls_ca_file": str(certificates.ca),
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": str(certificates.ca),
            "server_tls_key_file": str(ours.key),
            "server_tls_cert_file": str(ours.cert),
        },
        "databases": databases,
    }
    return start_module_proxy(
        tables, {"userlist.txt": userlist, "hba.conf": hba}, environment=pam_environment
    )


def seen(
    proxy: ProxyProcess, folder: Path, certificates: Certificates, how: str, name: str, one: Try
) -> str:
    """Log in by libpq; whom PostgreSQL sees. Raises psycopg.OperationalError."""
    files = {"sslcert": "/nowhere", "sslkey": "/nowhere"}
    if one.certificate and how == "tls":
        path = certificates.folder / f"matrix-{one.certificate}"
        files = {"sslcert": f"{path}.pem", "sslkey": f"{path}.key"}
    transport = {
        "tcp": {"host": HOST, "sslmode": "disable"},
        "tls": {
            "host": HOST,
            "sslmode": "verify-full",
            "sslrootcert": str(certificates.ca),
            **files,
        },
        "unix": {"host": str(folder)},
    }[how]
    with psycopg.connect(
        port=proxy.port,
        user=one.user,
        password=one.password,
        dbname=one.database or name,
        connect_timeout=20,
        **{**transport, **METHODS[name].conninfo},
    ) as connection:
        row = connection.execute("select current_user").fetchone()
        assert row is not None
        return str(row[0])


@pytest.mark.parametrize(("name", "transport"), CASES)
def test_matrix(
    proxy: ProxyProcess, folder: Path, certificates: Certificates, name: str, transport: str
) -> None:
    """Each outcome that can be; over a transport that the method is not for nobody gets in."""
    method = METHODS[name]
    for outcome in OUTCOMES:
        one = getattr(method, outcome)
        if isinstance(one, Never):
            continue
        hears = one.hears
        if transport not in method.only:
            hears = method.else_hears if outcome == "right" else REFUSED
        if hears:
            with pytest.raises(psycopg.OperationalError, match=hears):
                seen(proxy, folder, certificates, transport, name, one)
        else:
            expected = method.become or one.user
            assert seen(proxy, folder, certificates, transport, name, one) == expected


def test_the_table_is_whole() -> None:
    """Every cell is a client or a reason, and what a method is not for has its reason, too."""
    cells = [getattr(method, outcome) for method in METHODS.values() for outcome in OUTCOMES]
    assert len(cells) == 13 * 4
    assert all(cell.reason for cell in cells if isinstance(cell, Never))
    for method in METHODS.values():
        assert bool(method.else_hears) == bool(method.else_reason) == (method.only != TRANSPORTS)
        refusals = [
            one for one in (method.wrong, method.unknown, method.expired) if isinstance(one, Try)
        ]
        assert not method.right.hears
        assert all(one.hears for one in refusals)
