"""Rules of auth_hba_file, users that PostgreSQL knows (auth_query), and what the pooler logs in with."""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import ErrorAnswer, RawClient, refusal, startup
from tests.system.roles import PASSWORD, target

ME = getpass.getuser()
HBA = """
# TYPE  DATABASE     USER      ADDRESS        METHOD
local   m_scram      all                      scram-sha-256
host    m_scram      all       127.0.0.0/8    scram-sha-256
local   m_md5        all                      md5
host    m_md5        all       127.0.0.1/32   md5
local   m_plain      all                      password
host    m_plain      all       all            password
local   m_trust      all                      trust
host    m_trust      all       127.0.0.1 255.255.255.255  trust
local   m_peer       all                      peer
local   m_map        all                      peer map=here
host    grouped      +staff    all            trust
host    grouped      @listed   all            trust
host    grouped      all       all            reject
hostssl encrypted    all       all            trust
host    replication  all       all            trust
"""
IDENT = f"here {ME} {ME}_mapped\n"
METHODS = ("m_scram", "m_md5", "m_plain")
# Roles that must not get in, and why psql would not get them in either.
SHUT_OUT = ("expired", "nologin", "unknown", "dropped")


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy, one_postgres: PostgresServer, roles: None, sockets: Path
) -> ProxyProcess:
    """One proxy, a database for each method."""
    to = target(one_postgres)
    forced = to | {"user": "forced", "password": "f"}
    config = {
        "poolproxy": {
            "auth_type": "hba",
            "auth_file": "userlist.txt",
            "auth_hba_file": "hba.conf",
            "auth_ident_file": "ident.conf",
            "auth_user": "asker",
            "auth_failure_delay": "150ms",
            "unix_socket_dir": str(sockets),
            "pool_mode": "transaction",
            "server_login_retry": "200ms",
            "max_client_conn": 500,
        },
        "databases": {
            **dict.fromkeys(METHODS, to),
            **dict.fromkeys(("m_trust", "m_peer", "m_map", "grouped", "encrypted"), forced),
            "anybody": forced | {"auth_type": "any"},
            "session": to | {"pool_mode": "session", "auth_type": "scram-sha-256"},
            "own_type": to | {"auth_type": "plain"},
            "elsewhere": forced | {"auth_type": "plain", "auth_dbname": "m_plain"},
            "broken_query": to | {"auth_type": "plain", "auth_query": "select 1/0, $1::text"},
            "three": to | {"auth_type": "plain", "auth_query": "select $1::text, 'x', 'y'"},
            "other_name": to
            | {
                "auth_type": "plain",
                "auth_query": "select 'forced', 'f' where $1::text is not null",
            },
        },
        "users": {"strict": {"password": PASSWORD, "auth_type": "scram-sha-256"}},
    }
    userlist = (
        f'"asker" "ask"\n"{ME}" "x"\n"{ME}_mapped" "x"\n'
        '"ann" "x" +staff\n"bob" "x"\n"eve" "x"\n"strict" "x"\n'
    )
    files = {"userlist.txt": userlist, "hba.conf": HBA, "ident.conf": IDENT, "listed": "bob\n"}
    return start_module_proxy(config, files)


def user_by(
    proxy: ProxyProcess, sockets: Path, transport: str, database: str, user: str, password: str
) -> str:
    """Log in by libpq; whom the server sees. Raises psycopg.OperationalError."""
    host = proxy.host if transport == "tcp" else str(sockets)
    with psycopg.connect(
        host=host,
        port=proxy.port,
        user=user,
        password=password,
        dbname=database,
        connect_timeout=10,
    ) as connection:
        row = connection.execute("select current_user").fetchone()
        assert row is not None
        return str(row[0])


# -- every method over both transports ------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize("database", METHODS)
def test_looked_up_users(proxy: ProxyProcess, sockets: Path, database: str, transport: str) -> None:
    """Right: in, as oneself, by the secret that the server has. Wrong, unknown, expired, without LOGIN: one
    answer.
    """
    users = ["right_scram", "forever"] + ["right_md5"] * (database != "m_scram")
    for user in users:
        assert user_by(proxy, sockets, transport, database, user, PASSWORD) == user
    for user in (*users, *SHUT_OUT):
        password = "wrong" if user in users else PASSWORD
        with pytest.raises(
            psycopg.OperationalError, match=r"(password|SASL) authentication failed"
        ):
            user_by(proxy, sockets, transport, database, user, password)


def test_md5_secret_can_not_do_scram(proxy: ProxyProcess, sockets: Path) -> None:
    """A user with an md5 secret is refused where the rule wants SCRAM, as if it were unknown."""
    with pytest.raises(psycopg.OperationalError, match="SASL authentication failed"):
        user_by(proxy, sockets, "tcp", "m_scram", "right_md5", PASSWORD)


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_trust(proxy: ProxyProcess, sockets: Path, transport: str) -> None:
    """Known users get in, looked-up ones included; unknown ones do not."""
    for user in ("ann", "right_scram", "right_md5"):
        assert user_by(proxy, sockets, transport, "m_trust", user, "") == "forced"
    for user in ("unknown", "nologin"):
        with pytest.raises(psycopg.OperationalError, match='"trust" authentication failed'):
            user_by(proxy, sockets, transport, "m_trust", user, "")


def test_peer(proxy: ProxyProcess, sockets: Path) -> None:
    """The system user is let in as the user of its name, or as the map says; as nobody else."""
    assert user_by(proxy, sockets, "unix", "m_peer", ME, "") == "forced"
    assert user_by(proxy, sockets, "unix", "m_map", f"{ME}_mapped", "") == "forced"
    for database, user in (("m_peer", "ann"), ("m_map", ME), ("m_peer", "unknown")):
        with pytest.raises(psycopg.OperationalError, match="unix socket login rejected"):
            user_by(proxy, sockets, "unix", database, user, "")


def test_peer_is_nothing_for_tcp(proxy: ProxyProcess, sockets: Path) -> None:
    """Over TCP no local rule fits."""
    with pytest.raises(psycopg.OperationalError, match="no authentication method is found"):
        user_by(proxy, sockets, "tcp", "m_peer", ME, "")


def test_any(proxy: ProxyProcess, sockets: Path) -> None:
    """Whoever it is becomes the database's user."""
    for user in ("nobody at all", "forced", "asker"):
        assert user_by(proxy, sockets, "tcp", "anybody", user, "") == "forced"


def test_groups_lists_and_reject(proxy: ProxyProcess, sockets: Path) -> None:
    """A group of auth_file, a file of names, and reject for the rest."""
    for user in ("ann", "bob"):
        assert user_by(proxy, sockets, "tcp", "grouped", user, "") == "forced"
    with pytest.raises(psycopg.OperationalError, match="login rejected"):
        user_by(proxy, sockets, "tcp", "grouped", "eve", "")
    with pytest.raises(psycopg.OperationalError, match="no authentication method is found"):
        user_by(proxy, sockets, "tcp", "encrypted", "ann", "")


def test_replication_needs_its_own_rule(proxy: ProxyProcess) -> None:
    """A rule for all databases or this one says nothing of physical replication."""
    address = (proxy.host, proxy.port)
    with pytest.raises(ErrorAnswer) as caught:
        RawClient(address, "grouped", "eve", replication="true")
    assert caught.value.message != "login rejected"  # the line "replication" has let it pass
    assert refusal(address, "grouped", "eve").message == "login rejected"


def test_auth_type_of_a_database_and_of_a_user(proxy: ProxyProcess, sockets: Path) -> None:
    """The database's goes before the proxy's, the user's before both."""
    with RawClient((proxy.host, proxy.port), log_in=False) as one:
        one.send(startup({"user": "right_scram", "database": "own_type"}))
        assert one.read().body == (3).to_bytes(4, "big")
    with RawClient((proxy.host, proxy.port), log_in=False) as one:
        one.send(startup({"user": "strict", "database": "own_type"}))
        assert one.read().body[:4] == (10).to_bytes(4, "big")
    assert user_by(proxy, sockets, "tcp", "own_type", "right_scram", PASSWORD) == "right_scram"


# -- auth_query -----------------------------------------------------------------------------------


def test_auth_query_in_session_mode(proxy: ProxyProcess, sockets: Path) -> None:
    """A pool in session mode serves look-ups as well, one after the other."""
    for _ in range(3):
        assert user_by(proxy, sockets, "tcp", "session", "right_scram", PASSWORD) == "right_scram"


def test_auth_query_for_a_forced_user(
    proxy: ProxyProcess, sockets: Path, one_postgres: PostgresServer
) -> None:
    """It runs as auth_user also where the clients' queries run as another."""
    assert user_by(proxy, sockets, "tcp", "elsewhere", "right_md5", PASSWORD) == "forced"
    assert user_by(proxy, sockets, "tcp", "m_trust", "right_md5", "") == "forced"
    seen = one_postgres.psql(
        "select distinct usename from pg_stat_activity where usename = 'asker'"
    )
    assert seen == "asker"


@pytest.mark.parametrize("database", ["broken_query", "three"])
def test_what_is_wrong_with_auth_query_is_for_the_log(proxy: ProxyProcess, database: str) -> None:
    """A client that nobody knows yet is not told PostgreSQL's errors."""
    error = refusal((proxy.host, proxy.port), database, "right_scram", PASSWORD)
    assert error.message == "bouncer config error"
    assert f'auth_query in database "{database}" failed' in proxy.log


def test_cve_2015_6817_unknown_user_is_nobody(proxy: ProxyProcess) -> None:
    """An unknown user becomes neither auth_user nor whoever the query names instead."""
    address = (proxy.host, proxy.port)
    for database in ("other_name", "own_type"):
        for password in ("f", "ask", PASSWORD):
            error = refusal(address, database, "stranger", password)
            assert error.message == "password authentication failed"


def test_cve_2025_2291_expiry_is_obeyed(
    proxy: ProxyProcess, sockets: Path, one_postgres: PostgresServer
) -> None:
    """A role that expires, loses LOGIN, changes its password or is dropped is refused from then on."""
    one_postgres.psql("create role fading login password 'one'")
    try:
        assert user_by(proxy, sockets, "tcp", "m_plain", "fading", "one") == "fading"
        for change, password in (
            ("alter role fading valid until '2001-01-01'", "one"),
            ("alter role fading valid until 'infinity' nologin", "one"),
            ("alter role fading login password 'two'", "one"),
        ):
            one_postgres.psql(change)
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                user_by(proxy, sockets, "tcp", "m_plain", "fading", password)
        assert user_by(proxy, sockets, "tcp", "m_plain", "fading", "two") == "fading"
    finally:
        one_postgres.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'fading'; "
            "drop role fading"
        )
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        user_by(proxy, sockets, "tcp", "m_plain", "fading", "two")


def test_cve_2025_12819_parameters_stay_outside(
    proxy: ProxyProcess, sockets: Path, one_postgres: PostgresServer
) -> None:
    """No start-up parameter of an unauthenticated client reaches the connection of auth_query."""
    one_postgres.psql(
        "create schema evil; create table evil.pg_authid (rolname name, rolpassword text, "
        "rolvaliduntil timestamptz, rolcanlogin bool); "
        "insert into evil.pg_authid values ('stranger', 'open', null, true); "
        "grant usage on schema evil to public; grant select on evil.pg_authid to public"
    )
    try:
        for parameters in (
            {"search_path": "evil, pg_catalog"},
            {"options": "-c search_path=evil,pg_catalog"},
            {"DateStyle": "German", "search_path": "evil"},
        ):
            with pytest.raises(ErrorAnswer) as caught:
                RawClient(
                    (proxy.host, proxy.port), "m_plain", "stranger", password="open", **parameters
                )
            assert caught.value.message == "password authentication failed"
    finally:
        one_postgres.psql("drop schema evil cascade")


def test_cve_2021_3935_early_bytes_are_no_queries(
    proxy: ProxyProcess, one_postgres: PostgresServer
) -> None:
    """What a client sends behind its start-up packet is a password or nothing."""
    with RawClient((proxy.host, proxy.port), log_in=False) as one:
        query = b"Q" + (34).to_bytes(4, "big") + b"create table early_bytes (a int);\0"[:30]
        one.send(startup({"user": "right_scram", "database": "m_plain"}), query)
        assert one.read().code == "R"
        assert one.farewell().message in ("unknown pkt", "password authentication failed")
    assert one_postgres.psql("select to_regclass('early_bytes') is null") == "t"


@pytest.mark.parametrize("user", ["right_scram' or '1'='1", "$1", "x" * 100, "a\\'b", 'q"q'])
def test_names_are_parameters(proxy: ProxyProcess, user: str) -> None:
    """A name with quotes, or longer than a role's, is just another unknown user."""
    error = refusal((proxy.host, proxy.port), "m_plain", user, PASSWORD)
    assert error.message == "password authentication failed"


def test_cut_names_are_not_others(
    proxy: ProxyProcess, sockets: Path, one_postgres: PostgresServer
) -> None:
    """PostgreSQL cuts a name at 63 bytes; a longer one is not the role that is left."""
    long = "n" * 63
    one_postgres.psql(f"create role {long} login password 'one'")
    try:
        assert user_by(proxy, sockets, "tcp", "m_plain", long, "one") == long
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            user_by(proxy, sockets, "tcp", "m_plain", long + "n", "one")
    finally:
        one_postgres.psql(
            f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{long}'; "
            f"drop role {long}"
        )


def test_unknown_users_take_the_same_time(proxy: ProxyProcess) -> None:
    """Wrong password, no such user, no password: the refusal comes after the same time."""

    def seconds(user: str, database: str) -> float:
        began = time.monotonic()
        error = refusal((proxy.host, proxy.port), database, user, "wrong")
        assert error.message == "password authentication failed"
        return time.monotonic() - began

    users = ("right_scram", "right_md5", "unknown", "expired", "ann")
    times = {user: min(seconds(user, "m_plain") for _ in range(4)) for user in users}
    assert max(times.values()) - min(times.values()) < 0.1, times
    assert min(times.values()) >= 0.15
