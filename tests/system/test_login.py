"""Who gets in: every auth method by libpq and asyncpg, over TCP and the Unix socket, and who does not."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import (
    RawClient,
    message,
    refusal,
    startup,
    text,
)
from tests.system.support import client, eventually, sample

METHODS = ("trust", "plain", "md5", "scram-sha-256")
PASSWORD = "pass'word \\ ü"

# user -> (how its secret is stored in auth_file, how the server wants its password)
USERS = {
    "plain_scram": ("plain", "scram-sha-256"),
    "plain_md5": ("plain", "md5"),
    "hash_md5": ("md5", "md5"),
    "secret_scram": ("scram", "scram-sha-256"),
}
# Which stored secrets a method can check.
USABLE = {
    "trust": {"plain", "md5", "scram"},
    "plain": {"plain", "md5", "scram"},
    "md5": {"plain", "md5", "scram"},
    "scram-sha-256": {"plain", "scram"},
}


@contextmanager
def hba_lines(admin: psycopg.Connection, server: PostgresServer, *lines: str) -> Iterator[None]:
    """Put lines before the server's pg_hba.conf."""
    path = server.data / "pg_hba.conf"
    before = path.read_text()
    path.write_text("\n".join((*lines, before)))
    admin.execute("select pg_reload_conf()")
    try:
        yield
    finally:
        path.write_text(before)
        admin.execute("select pg_reload_conf()")


@pytest.fixture(scope="module")
def secrets(admin: psycopg.Connection, postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """The roles, and what auth_file holds for each."""
    stored = {}
    with hba_lines(
        admin, postgres, "host all plain_md5,hash_md5 127.0.0.1/32 md5", "local all all trust"
    ):
        for user, (kind, method) in USERS.items():
            admin.execute(f"set password_encryption = '{method}'")
            quoted = PASSWORD.replace("'", "''")
            admin.execute(f"create role {user} login password '{quoted}'")
            row = admin.execute(
                "select rolpassword from pg_authid where rolname = %s", [user]
            ).fetchone()
            assert row is not None
            stored[user] = PASSWORD if kind == "plain" else row[0]
        admin.execute("reset password_encryption")
        assert stored["hash_md5"] == "md5" + hashlib.md5(f"{PASSWORD}hash_md5".encode()).hexdigest()
        yield stored
        for user in USERS:
            admin.execute(f"drop role {user}")


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    """A folder for Unix sockets: their paths must be short."""
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """The auth_type of the proxy."""
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(
    method: str,
    start_module_proxy: StartProxy,
    postgres: PostgresServer,
    secrets: dict[str, str],
    sockets: Path,
) -> ProxyProcess:
    """A proxy for each method, in front of one server for TCP and one for its Unix socket."""
    config = {
        "poolproxy": {
            "auth_type": method,
            "auth_file": "userlist.txt",
            "auth_failure_delay": 0,
            "log_repeat_limit": 0,  # the log is looked at right after many refusals
            "unix_socket_dir": str(sockets),
            "server_login_retry": "200ms",
            "pool_mode": "transaction",
        },
        "databases": {
            "postgres": {"host": postgres.host, "port": postgres.port},
            "local": {
                "host": str(postgres.socket_folder),
                "port": postgres.port,
                "dbname": "postgres",
            },
            "missing": {"host": postgres.host, "port": postgres.port, "dbname": "nowhere"},
            "forced": {
                "host": postgres.host,
                "port": postgres.port,
                "dbname": "postgres",
                "user": postgres.user,
                "password": postgres.password,
            },
            "wrong": {
                "host": postgres.host,
                "port": postgres.port,
                "dbname": "postgres",
                "user": postgres.user,
                "password": "wrong",
            },
        },
    }
    lines = [f'"{user}" "{secret}"' for user, secret in secrets.items()]
    lines.append('"empty" ""')
    return start_module_proxy(config, {"userlist.txt": "\n".join(lines) + "\n"})


def by_libpq(host: str, port: int, user: str, password: str, database: str) -> str:
    """Log in by psycopg; whom the server sees. Raises psycopg.OperationalError."""
    with psycopg.connect(
        host=host, port=port, user=user, password=password, dbname=database, connect_timeout=10
    ) as connection:
        row = connection.execute("select current_user").fetchone()
        assert row is not None
        return str(row[0])


def by_asyncpg(host: str, port: int, user: str, password: str, database: str) -> str:
    """Log in by asyncpg."""

    async def ask() -> str:
        connection = await asyncpg.connect(
            host=host,
            port=port,
            user=user,
            password=password,
            database=database,
            ssl=False,
            statement_cache_size=0,
        )
        try:
            return str(await connection.fetchval("select current_user"))
        finally:
            await connection.close()

    return asyncio.run(ask())


def only(*methods: str) -> pytest.MarkDecorator:
    """For tests of what some methods do."""
    return pytest.mark.parametrize("method", methods, indirect=True)


with_a_password = only(*(method for method in METHODS if method != "trust"))

Driver = Callable[[str, int, str, str, str], str]
DRIVERS = (by_libpq, by_asyncpg)
REFUSED = (psycopg.OperationalError, asyncpg.PostgresError)


def may_log_in(method: str, user: str) -> bool:
    return USERS[user][0] in USABLE[method]


def server_can(method: str, user: str) -> bool:
    """Whether what the proxy knows is enough to log in to the server as this user.

    An md5 secret serves for md5; a SCRAM secret only with the key of a client's SCRAM log-in.
    """
    return USERS[user][0] != "scram" or method in ("md5", "scram-sha-256", "plain")


@pytest.mark.parametrize("by", DRIVERS)
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_right_password(
    proxy: ProxyProcess, method: str, sockets: Path, transport: str, by: Driver
) -> None:
    """The right password opens the way to the server, for each kind of stored secret that can serve."""
    host = proxy.host if transport == "tcp" else str(sockets)
    for user in USERS:
        if may_log_in(method, user) and server_can(method, user):
            assert by(host, proxy.port, user, PASSWORD, "postgres") == user
        else:
            with pytest.raises(REFUSED):
                by(host, proxy.port, user, PASSWORD, "postgres")


@with_a_password
@pytest.mark.parametrize("by", DRIVERS)
def test_wrong_password(proxy: ProxyProcess, method: str, by: Driver) -> None:
    """A wrong password and an unknown user get one answer, whatever the database."""
    for user in (*USERS, "unknown", "empty"):
        scram = method == "scram-sha-256" or (method == "md5" and user == "secret_scram")
        words = "SASL" if scram else "password"
        for password in ("wrong", "x" * 900):
            for database in ("postgres", "unknown database"):
                with pytest.raises(REFUSED, match=f"{words} authentication failed"):
                    by(proxy.host, proxy.port, user, password, database)


@only("plain")
def test_empty_password(proxy: ProxyProcess) -> None:
    """An empty password is refused as such, also for a user whose stored one is empty."""
    for user in ("plain_scram", "empty", "unknown"):
        error = refusal((proxy.host, proxy.port), "postgres", user, "")
        assert error.message == "empty password returned by client"


@only("trust")
def test_unknown_user_with_trust(proxy: ProxyProcess) -> None:
    """trust lets in the known users only."""
    error = refusal((proxy.host, proxy.port), "postgres", "unknown")
    assert error.message == '"trust" authentication failed'
    assert error.fields["S"] == "FATAL"
    assert error.hint


def test_unknown_database_is_told_after_the_password(proxy: ProxyProcess) -> None:
    """Who has authenticated hears that there is no such database."""
    with pytest.raises(REFUSED, match="no such database: unknown"):
        by_libpq(proxy.host, proxy.port, "plain_scram", PASSWORD, "unknown")


def test_database_that_the_server_lacks(proxy: ProxyProcess) -> None:
    """PostgreSQL's own words and SQLSTATE when a configured database is not there."""
    with pytest.raises(asyncpg.InvalidCatalogNameError, match='database "nowhere" does not exist'):
        by_asyncpg(proxy.host, proxy.port, "plain_scram", PASSWORD, "missing")
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        by_libpq(proxy.host, proxy.port, "plain_scram", PASSWORD, "missing")


def test_wrong_server_password(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """PostgreSQL's own words and SQLSTATE when it refuses the proxy's password."""
    words = f'password authentication failed for user "{postgres.user}"'
    with pytest.raises(asyncpg.InvalidPasswordError, match=words):
        by_asyncpg(proxy.host, proxy.port, "plain_scram", PASSWORD, "wrong")
    with pytest.raises(psycopg.OperationalError, match=words):
        by_libpq(proxy.host, proxy.port, "plain_scram", PASSWORD, "wrong")


@pytest.mark.parametrize("by", DRIVERS)
def test_forced_user(proxy: ProxyProcess, postgres: PostgresServer, by: Driver) -> None:
    """A database's user logs in to the server, whoever the client is."""
    for user in ("plain_scram", "plain_md5"):
        seen = by(proxy.host, proxy.port, user, PASSWORD, "forced")
        assert seen == postgres.user


def test_server_by_unix_socket(proxy: ProxyProcess) -> None:
    """A host that is a folder means the server's Unix socket."""
    assert by_libpq(proxy.host, proxy.port, "plain_scram", PASSWORD, "local") == "plain_scram"


@with_a_password
def test_other_message_than_a_password(proxy: ProxyProcess) -> None:
    """A query in place of the password is refused."""
    one = RawClient((proxy.host, proxy.port), log_in=False)
    one.send(startup({"user": "plain_scram", "database": "postgres"}))
    assert one.read().code == "R"
    one.send(message("Q", text("select 1")))
    assert one.farewell().fields["S"] == "FATAL"


@only("plain")
def test_welcome(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """The welcome repeats what the server reports, and has a cancel key of our own."""
    with (
        RawClient((proxy.host, proxy.port), "postgres", "plain_scram", password=PASSWORD) as one,
        psycopg.connect(postgres.url()) as direct,
    ):
        assert one.key[0]
        assert len(one.key[1]) == 4
        for name in ("server_version", "integer_datetimes", "DateStyle", "server_encoding"):
            expected = direct.info.parameter_status(name)
            assert one.parameters[name] == expected


def test_failures_are_counted_and_logged(proxy: ProxyProcess) -> None:
    """A refused log-in shows in metrics and log, without its password."""

    def failures() -> float:
        return sum(
            sample(proxy, "poolproxy_worker_login_failures_total", worker=worker)
            for worker in ("0", "1")
        )

    before = failures()
    with pytest.raises(REFUSED):
        by_libpq(proxy.host, proxy.port, "unknown", "secret-text", "postgres")
    eventually(lambda: failures() > before, "the failure is counted")
    assert "postgres/unknown@127.0.0.1" in proxy.log
    assert "secret-text" not in proxy.log
    assert PASSWORD not in proxy.log


def test_database_template(start_proxy: StartProxy, postgres: PostgresServer) -> None:
    """The database * stands for every name that the server has, but for those of the console."""
    config = {
        "poolproxy": {"auth_type": "trust", "pool_mode": "transaction"},
        "databases": {"*": {"host": postgres.host, "port": postgres.port}},
        "users": {postgres.user: {"password": postgres.password}},
    }
    proxy = start_proxy(config)
    for name in ("postgres", "template1"):
        with client(proxy, name) as one:
            assert one.value("select current_database()") == name
    error = refusal((proxy.host, proxy.port), "nowhere", postgres.user)
    assert (error.message, error.sqlstate) == ('database "nowhere" does not exist', "3D000")
    error = refusal((proxy.host, proxy.port), "pgbouncer", postgres.user)
    assert error.message == "not allowed"


def test_scram_pass_through_needs_a_client(
    start_proxy: StartProxy, postgres: PostgresServer, secrets: dict[str, str]
) -> None:
    """With a SCRAM secret alone a trusted client can't bring the proxy in: the error says why."""
    config = {
        "poolproxy": {"auth_type": "trust"},
        "databases": {"postgres": {"host": postgres.host, "port": postgres.port}},
        "users": {"secret_scram": {"password": secrets["secret_scram"]}},
    }
    proxy = start_proxy(config)
    error = refusal((proxy.host, proxy.port), "postgres", "secret_scram")
    assert error.message == "server login failed: wrong password type"
    assert error.sqlstate == "08P01"
    assert "a client that has" in proxy.log
