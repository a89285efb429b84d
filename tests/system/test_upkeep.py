"""Upkeep of server connections: reset, check, lifetime, idle time, minimum, reserve, connect_query."""

from __future__ import annotations

import time

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.conftest import MakeRoles
from tests.system.protocol_client import query
from tests.system.support import client, eventually, is_running, last_query, sample, tables

RESET = "select 'reset query'"
CHECK = "select 'check query'"


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy, postgres: PostgresServer, make_roles: MakeRoles
) -> ProxyProcess:
    """Reset and check before every use, and short times for the rest."""
    make_roles("standing")
    transaction = {"pool_mode": "transaction", "pool_size": 1}
    databases = {
        "transaction": transaction,
        "session": {"pool_mode": "session", "pool_size": 1},
        "mortal": {**transaction, "server_lifetime": "1s"},
        "ready": {**transaction, "pool_size": 3, "min_pool_size": 2},
        "forced": {**transaction, "pool_size": 3, "min_pool_size": 2, "user": "standing"},
        "reserved": {**transaction, "reserve_pool_size": 1},
        "greeted": {**transaction, "connect_query": "set work_mem = '777kB'"},
        "badly_greeted": {**transaction, "connect_query": "select nonsense"},
        "started": {**transaction, "timezone": "Asia/Tokyo", "application_name": "from config"},
    }
    databases["forced"]["password"] = postgres.password
    return start_module_proxy(
        tables(
            postgres,
            databases,
            {"standing": {}},
            workers=1,
            server_reset_query=RESET,
            server_reset_query_always=True,
            server_check_query=CHECK,
            server_check_delay=0,
            server_idle_timeout="1s",
            reserve_pool_timeout="500ms",
        )
    )


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_reset_query_follows_the_client(
    proxy: ProxyProcess, admin: psycopg.Connection, mode: str
) -> None:
    """server_reset_query runs on release: in session mode, with _always in transaction mode too."""
    with client(proxy, mode) as one:
        pid = one.backend()
        if mode == "session":
            assert last_query(admin, pid)[1] != RESET
    eventually(lambda: last_query(admin, pid) == ("idle", RESET), "the reset query has run")


def test_check_query_goes_before_the_client(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """With server_check_delay = 0 the check runs before every use of a server."""
    with client(proxy, "transaction") as one:
        one.query("select 'opens the server'")
        one.query("set log_statement = 'all'")
        start = len(postgres.log_text())
        for _ in range(3):
            one.query("select 'mine'")
    assert postgres.log_text()[start:].count(CHECK) >= 3


def test_check_query_after_server_check_delay(
    start_proxy: StartProxy, postgres: PostgresServer
) -> None:
    """With a positive server_check_delay only a server that was idle for that long is checked."""
    delay = 1.0
    databases = {"delayed": {"pool_mode": "transaction", "pool_size": 1}}
    # log_statement shall stay on the server.
    config = tables(
        postgres,
        databases,
        server_check_query=CHECK,
        server_check_delay=delay,
        session_state="allow",
    )
    with client(start_proxy(config), "delayed") as one:
        one.query("set log_statement = 'all'")
        start = len(postgres.log_text())
        for _ in range(3):
            one.query("select 'at once'")
        assert CHECK not in postgres.log_text()[start:]
        time.sleep(delay * 1.1)  # idle time is what is tested: nothing happens in it
        one.query("select 'later'")
        said = postgres.log_text()[start:]
    assert said.count(CHECK) == 1
    assert said.rindex("at once") < said.index(CHECK) < said.index("later")


def test_failed_check_takes_another_server(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """A server that is found dead by its check is replaced, and the client sees nothing of it."""
    with client(proxy, "transaction") as one:
        pid = one.backend()
        admin.execute("select pg_terminate_backend(%s)", [pid])
        assert one.backend() != pid


def test_connect_query(proxy: ProxyProcess) -> None:
    """connect_query runs on each new server connection, before any client."""
    with client(proxy, "greeted") as one:
        assert one.value("show work_mem") == "777kB"


def test_failed_connect_query_is_ignored(proxy: ProxyProcess) -> None:
    """A connect_query that fails is logged, and the server used all the same."""
    with client(proxy, "badly_greeted") as one:
        assert one.value("select 1") == "1"
    assert "connect_query failed" in proxy.log


def test_start_up_parameters_of_a_database(proxy: ProxyProcess) -> None:
    """A database's own parameters hold for clients that ask for nothing else."""
    with client(proxy, "started") as one:
        assert one.parameters["TimeZone"] == "Asia/Tokyo"
        assert one.value("show timezone") == "Asia/Tokyo"
        assert one.value("show application_name") == "from config"
    with client(proxy, "started", TimeZone="UTC") as two:
        assert two.value("show timezone") == "UTC"


def test_server_lifetime(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """A server past its lifetime is closed when nobody uses it, and not in a transaction."""
    with client(proxy, "mortal") as one:
        one.query("begin")
        pid = one.backend()
        one.query("select pg_sleep(1.2)")
        assert is_running(admin, pid)
        one.query("commit")
        eventually(lambda: not is_running(admin, pid), "the old backend is gone")
        assert one.backend() != pid


def test_server_idle_timeout(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """A server that nobody uses is closed after server_idle_timeout, not before."""
    with client(proxy, "transaction") as one:
        pid = one.backend()
        began = time.monotonic()
        eventually(lambda: not is_running(admin, pid), "the idle backend is gone")
        assert time.monotonic() - began >= 0.9
        assert one.backend() != pid


def servers(proxy: ProxyProcess, database: str) -> float:
    return sample(proxy, "poolproxy_pool_permits", database=database)


def test_min_pool_size_with_a_client(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """A pool that has a client holds min_pool_size servers, past server_idle_timeout."""
    with client(proxy, "ready"):
        eventually(lambda: servers(proxy, "ready") == 2, "two servers are open")
        time.sleep(1.5)  # longer than server_idle_timeout: nothing may happen
        assert servers(proxy, "ready") == 2


def test_min_pool_size_of_a_forced_user(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """With a forced user the servers are there before any client comes."""
    sql = "select count(*) from pg_stat_activity where usename = 'standing'"
    eventually(lambda: admin.execute(sql).fetchone() == (2,), "two servers are open")
    with client(proxy, "forced") as one:
        assert one.value("select current_user") == "standing"
    assert "forced/postgres" in proxy.log


def test_reserve_pool(proxy: ProxyProcess) -> None:
    """Who has waited for reserve_pool_timeout gets a server beyond pool_size; the next does not."""
    with client(proxy, "reserved") as one, client(proxy, "reserved") as two:
        one.query("begin")
        pid = one.backend()
        began = time.monotonic()
        two.query("begin")
        assert time.monotonic() - began >= 0.45
        assert two.backend() != pid
        assert sample(proxy, "poolproxy_pool_reserve_used", database="reserved") == 1
        with client(proxy, "reserved") as three:
            three.send(query("select 3"))
            time.sleep(0.8)  # longer than reserve_pool_timeout: nothing may happen
            assert three.is_silent()
            one.query("commit")
            assert three.results() == [("3",)]
        two.query("commit")
