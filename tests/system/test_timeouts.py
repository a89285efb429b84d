"""Every timeout, with the text, SQLSTATE and hint that the client gets."""

from __future__ import annotations

import time

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.conftest import MakeRoles
from tests.system.protocol_client import FLUSH, SYNC, ErrorAnswer, RawClient, query, refusal, run
from tests.system.support import client, eventually, last_query, sample, tables
from tests.system.watching import backends_of

SHORT = 0.4  # seconds, the timeouts here
SLACK = 3.0  # seconds by which a busy machine may be late
LIMITS = (
    "query_timeout",
    "transaction_timeout",
    "idle_transaction_timeout",
    "query_wait_timeout",
    "client_idle_timeout",
)


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy, postgres: PostgresServer, make_roles: MakeRoles
) -> ProxyProcess:
    """A role for each timeout, named after it, and client_login_timeout for all."""
    make_roles(*LIMITS)
    databases = {
        "transaction": {"pool_mode": "transaction", "pool_size": 1},
        "session": {"pool_mode": "session", "pool_size": 1},
        "waiting": {"pool_mode": "transaction", "pool_size": 1, "query_wait_timeout": SHORT},
    }
    users = {name: {name: SHORT} for name in LIMITS}
    limits = {"client_login_timeout": SHORT, "query_wait_notify": SHORT / 2}
    config = tables(postgres, databases, users, workers=1, **limits)
    return start_module_proxy(config)


def ends(one: RawClient, began: float, text: str, setting: str, sqlstate: str) -> None:
    """Check how the client's connection ends: in time, and with what words."""
    error = one.farewell()
    took = time.monotonic() - began
    assert SHORT * 0.9 <= took <= SHORT + SLACK
    assert (error.fields["S"], error.message, error.sqlstate) == ("FATAL", text, sqlstate)
    assert setting in error.hint


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_query_timeout(
    proxy: ProxyProcess, admin: psycopg.Connection, mode: str, protocol: str
) -> None:
    """A query that takes too long ends its client, and PostgreSQL stops working on it."""
    one = client(proxy, mode, "query_timeout")
    pid = one.backend()
    began = time.monotonic()
    sql = "select pg_sleep(60)"
    one.send(query(sql) if protocol == "simple" else run(sql) + SYNC)
    ends(one, began, "query timeout", "query_timeout", "57014")
    eventually(lambda: last_query(admin, pid)[0] == "idle", "the server is free")


def test_query_timeout_inside_a_transaction(proxy: ProxyProcess) -> None:
    """Each query of a transaction has its own time; idle time within it does not count."""
    one = client(proxy, "transaction", "query_timeout")
    one.query("begin")
    for _ in range(4):
        one.query(f"select pg_sleep({SHORT / 3})")
    began = time.monotonic()
    one.send(query("select pg_sleep(60)"))
    ends(one, began, "query timeout", "query_timeout", "57014")


def test_query_timeout_of_a_waiting_client(proxy: ProxyProcess) -> None:
    """A query that waits for a server is under query_timeout, too."""
    with client(proxy, "session", "query_timeout") as holder:
        holder.backend()
        one = client(proxy, "session", "query_timeout")
        began = time.monotonic()
        one.send(query("select 1"))
        ends(one, began, "query_timeout", "query_timeout", "57014")
        assert holder.value("select 1") == "1"


def test_query_wait_notify(proxy: ProxyProcess) -> None:
    """A client that waits is told once, with its place and the limit; then it is served as ever."""
    with (
        client(proxy, "transaction") as holder,
        client(proxy, "transaction") as one,
        client(proxy, "transaction") as two,
    ):
        holder.query("begin")
        began = time.monotonic()
        for each in (one, two):
            each.send(query("select 'served'"))
        for place, each in enumerate((one, two), 1):
            notice = each.read()
            assert notice.code == "N"
            fields = notice.error().fields
            assert (fields["S"], fields["C"]) == ("NOTICE", "00000")
            assert fields["M"] == (
                "No server connection available in postgres backend, client being queued"
            )
            assert f"number {place} of 2 in the queue" in fields["D"]
            assert "The limit pool_size (1)" in fields["D"]
            assert "pool_size" in fields["H"]
        assert time.monotonic() - began >= SHORT / 2 * 0.9
        holder.query("commit")
        for each in (one, two):
            assert [reply.code for reply in each.replies()] == ["T", "D", "C", "Z"]


def test_query_wait_notify_tells_why_log_ins_fail(
    start_proxy: StartProxy, postgres: PostgresServer, admin: psycopg.Connection
) -> None:
    """The reason is PostgreSQL's, when it is that which keeps clients waiting."""
    admin.execute(f"create role crowded login connection limit 1 password '{postgres.password}'")
    databases = {"one": {"pool_size": 2, "pool_mode": "transaction"}}
    limits = {"query_wait_notify": SHORT, "server_login_retry": 60}
    proxy = start_proxy(tables(postgres, databases, {"crowded": {}}, workers=1, **limits))
    try:
        with client(proxy, "one", "crowded") as holder, client(proxy, "one", "crowded") as one:
            holder.query("begin")
            one.send(query("select 1"))
            fields = one.read().error().fields
        assert "too many connections for role" in fields["D"]
        assert "server_login_retry" in fields["H"]
    finally:
        proxy.stop()
        eventually(lambda: not backends_of(postgres, "crowded"), "its backends are gone")
        admin.execute("drop role crowded")


def test_transaction_timeout(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """A transaction has its time in all, however short its statements are."""
    with client(proxy, "transaction", "transaction_timeout") as one:
        began = time.monotonic()
        one.query("begin")
        pid = one.backend()
        error = None
        while error is None:
            try:
                one.query("select pg_sleep(0.01)")
            except ErrorAnswer as answer:
                error = answer
    assert SHORT * 0.9 <= time.monotonic() - began <= SHORT + SLACK
    assert (error.message, error.sqlstate) == ("transaction timeout", "08P01")
    assert "transaction_timeout" in error.hint
    eventually(lambda: last_query(admin, pid)[0] == "idle", "the server is free")


@pytest.mark.parametrize("begin", ["simple", "unsynced"])
def test_idle_transaction_timeout(proxy: ProxyProcess, begin: str) -> None:
    """A client that does nothing in its transaction loses it; an unsynced query is one, too."""
    one = client(proxy, "transaction", "idle_transaction_timeout")
    if begin == "simple":
        one.query("begin")
    else:
        one.send(run("select 1"), FLUSH)
        one.read_until("C")
    began = time.monotonic()
    ends(one, began, "idle transaction timeout", "idle_transaction_timeout", "08P01")
    with client(proxy, "transaction", "idle_transaction_timeout") as two:
        assert two.value("select 1") == "1"


def test_idle_transaction_timeout_spares_long_queries(proxy: ProxyProcess) -> None:
    """A query at work is not idle, nor is a session outside of transactions."""
    with client(proxy, "session", "idle_transaction_timeout") as one:
        one.query("begin")
        one.query(f"select pg_sleep({SHORT * 2})")
        one.query("commit")
        time.sleep(SHORT * 1.5)  # nothing happens: so there is nothing to wait for
        assert one.value("select 1") == "1"


@pytest.mark.parametrize(
    ("database", "user"), [("waiting", "postgres"), ("session", "query_wait_timeout")]
)
def test_query_wait_timeout(proxy: ProxyProcess, database: str, user: str) -> None:
    """A client that gets no server in time is told so; the setting is a database's or a user's."""
    with client(proxy, database, user) as holder:
        holder.query("begin")
        one = client(proxy, database, user)
        began = time.monotonic()
        one.send(query("select 1"))
        ends(one, began, "query_wait_timeout", "query_wait_timeout", "08006")
        holder.query("commit")


def test_client_idle_timeout(proxy: ProxyProcess) -> None:
    """A client without server that sends nothing is disconnected, and its slot is free."""
    one = client(proxy, "transaction", "client_idle_timeout")
    one.query("select 1")
    began = time.monotonic()
    ends(one, began, "client_idle_timeout", "client_idle_timeout", "57P05")


def test_client_idle_timeout_spares_transactions(proxy: ProxyProcess) -> None:
    """client_idle_timeout is for clients outside of transactions."""
    with client(proxy, "transaction", "client_idle_timeout") as one:
        one.query("begin")
        one.query(f"select pg_sleep({SHORT * 2})")
        assert one.value("select 1") == "1"
        one.query("commit")


@pytest.mark.parametrize("sent", [b"", b"\0\0\0\x20\0\3"])
def test_client_login_timeout(proxy: ProxyProcess, sent: bytes) -> None:
    """Silence, or half a start-up packet and silence, ends in time."""
    one = RawClient((proxy.host, proxy.port), log_in=False)
    began = time.monotonic()
    one.send(sent)
    ends(one, began, "client_login_timeout", "client_login_timeout", "08P01")


def test_client_login_timeout_while_the_server_is_down(start_proxy: StartProxy) -> None:
    """A log-in that waits for a server that never comes says what it has waited for."""
    config = {
        "poolproxy": {"auth_type": "trust", "client_login_timeout": SHORT},
        "databases": {"down": {"host": "127.0.0.1", "port": 1}},
        "users": {"postgres": {"password": "x"}},
    }
    proxy = start_proxy(config)
    began = time.monotonic()
    error = refusal((proxy.host, proxy.port), "down", "postgres")
    assert time.monotonic() - began >= SHORT * 0.9
    assert error.message == "client_login_timeout (server down)"


def test_timeouts_are_counted(proxy: ProxyProcess) -> None:
    """Each error is counted by its setting, and logged as a pooler error."""
    one = client(proxy, "transaction", "client_idle_timeout")
    before = _errors(proxy, "client_idle_timeout")
    one.farewell()
    eventually(lambda: _errors(proxy, "client_idle_timeout") == before + 1, "it is counted")
    assert "pooler error: client_idle_timeout" in proxy.log


def _errors(proxy: ProxyProcess, reason: str) -> float:
    return sample(proxy, "poolproxy_pool_errors_total", database="transaction", reason=reason)
