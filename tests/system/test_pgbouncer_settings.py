"""PgBouncer's settings that change what happens to connections: disable_pqexec, server_fast_close,
autodb_idle_timeout, pool_idle_timeout.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.consoles import give, one
from tests.system.protocol_client import SYNC, RawClient, query, run, startup
from tests.system.support import Tables, client, eventually, is_running, tables
from tests.system.watching import metric

CHANGED = "database configuration changed"


def reload(proxy: ProxyProcess, config: Tables) -> None:
    """Put a configuration into use."""
    before = proxy.log.count("configuration reloaded")
    proxy.write_config(config)
    proxy.signal(signal.SIGHUP)
    eventually(lambda: proxy.log.count("configuration reloaded") > before, "it is reloaded")


@pytest.fixture(scope="module")
def watcher(one_postgres: PostgresServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(one_postgres.url(), autocommit=True) as connection:
        yield connection


# -- disable_pqexec -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_simple_queries_are_refused(
    start_proxy: StartProxy, one_postgres: PostgresServer, watcher: psycopg.Connection, mode: str
) -> None:
    """The client is disconnected and the query not executed; extended ones are served. A reload changes it
    for new clients only; others take it along to another worker.
    """
    databases = {"db": {"pool_mode": mode, "pool_size": 2}}
    rest = {"workers": 1, "admin_users": ["boss"]}
    config = tables(one_postgres, databases, {"boss": {}}, disable_pqexec=True, **rest)
    proxy = start_proxy(config)
    sql = f"create table should_not_be_{mode} ()"
    with client(proxy, "db") as fine, client(proxy, "db") as amid, client(proxy, "db") as bad:
        for each in (fine, amid):
            each.send(run("select 'served'") + SYNC)
            assert each.results() == [("served",)]
        amid.send(run("begin") + SYNC)
        amid.replies()
        for each in (bad, amid):
            each.send(run("select 1") + SYNC + query(sql))
            error = each.farewell()
            assert (error.message, error.sqlstate) == ("PQexec disallowed", "08P01")
            assert "disable_pqexec" in error.hint
        assert watcher.execute(f"select to_regclass('should_not_be_{mode}')").fetchone() == (None,)
        reload(proxy, tables(one_postgres, databases, {"boss": {}}, **rest))
        (before,) = proxy.worker_pids()
        give(proxy, "recycle worker 0")
        eventually(lambda: before not in proxy.worker_pids(), "its clients have moved")
        with client(proxy, "db") as newcomer:
            assert newcomer.value("select 1") == "1"
        fine.send(run("select 'served'") + SYNC)
        assert fine.results() == [("served",)]
        fine.send(query("select 1"))
        assert fine.farewell().message == "PQexec disallowed"


def test_a_simple_query_behind_the_startup_packet(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """Also one that has come before the client was welcomed is refused, and drivers that send none work."""
    config = tables(one_postgres, {"db": {"pool_mode": "session"}}, workers=1, disable_pqexec=True)
    proxy = start_proxy(config)
    with RawClient((proxy.host, proxy.port), log_in=False) as early:
        early.send(startup({"user": "postgres", "database": "db"}) + query("select 1"))
        assert early.farewell().message == "PQexec disallowed"
    url = proxy.url(user="postgres", password="unused", database="db")
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("select %s::int", [7]).fetchone() == (7,)


# -- server_fast_close ----------------------------------------------------------------------------


def fast(postgres: PostgresServer, **proxy: Any) -> Tables:
    databases = {"db": {"pool_mode": "session", "pool_size": 4}}
    proxy = {"workers": 1, "admin_users": ["boss"], "server_fast_close": True, **proxy}
    return tables(postgres, databases, {"boss": {}}, **proxy)


def let_the_clock_tick(proxy: ProxyProcess) -> None:
    """Wait until the worker has looked for sessions to end once more: it measures its delay each time."""

    def ticks() -> float:
        return metric(proxy, r"poolproxy_worker_loop_lag_seconds_count\{.*\}")

    before = ticks()
    eventually(lambda: ticks() >= before + 2, "the worker's clock ticks")


def test_sessions_end_between_transactions(
    start_proxy: StartProxy, one_postgres: PostgresServer, watcher: psycopg.Connection
) -> None:
    """RECONNECT ends idle sessions at once and others when their transaction is over; without
    server_fast_close, which a reload changes, it leaves them alone.
    """
    proxy = start_proxy(fast(one_postgres))
    with client(proxy, "db") as idle, client(proxy, "db") as busy:
        pids = [one_.backend() for one_ in (idle, busy)]
        busy.query("begin")
        give(proxy, "reconnect db")
        error = idle.farewell()
        assert (error.message, error.sqlstate) == (CHANGED, "57P01")
        assert "server_fast_close" in error.hint
        eventually(lambda: not is_running(watcher, pids[0]), "the idle session's backend is gone")
        let_the_clock_tick(proxy)
        assert busy.value("select 'goes on'") == "goes on"
        busy.query("commit")  # its answer comes whole
        assert busy.farewell().message == CHANGED
        eventually(lambda: not is_running(watcher, pids[1]), "the other one, too")
    reload(proxy, fast(one_postgres, server_fast_close=False))
    with client(proxy, "db") as kept:
        pid = kept.backend()
        give(proxy, "reconnect db")
        assert one(give(proxy, "show servers"), database="db")["close_needed"] == 1
        let_the_clock_tick(proxy)
        assert kept.backend() == pid
        reload(proxy, fast(one_postgres))
        assert kept.farewell().message == CHANGED


def test_a_busy_session_ends_too(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """A client that sends its next query at once hears of it in the place of that answer."""
    proxy = start_proxy(fast(one_postgres))
    with client(proxy, "db") as one_:
        one_.backend()
        one_.send(query("select pg_sleep(0.5)"))
        give(proxy, "reconnect db")
        assert len(one_.results()) == 1
        one_.send(query("select 1"))
        assert one_.farewell().message == CHANGED


# -- idle pools -----------------------------------------------------------------------------------


def test_unused_pools_are_given_up(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """After autodb_idle_timeout those of *, after pool_idle_timeout those of listed databases; a pool that
    is used stays. What was counted stays, too, and the pool is there again when it is needed.
    """
    limits = {"autodb_idle_timeout": "400ms", "server_idle_timeout": "100ms"}
    databases: dict[str, dict[str, object]] = {"listed": {}, "used": {}, "*": {}}
    config = tables(
        one_postgres, databases, {"boss": {}}, workers=2, admin_users=["boss"], **limits
    )
    config["databases"]["*"].pop("dbname")
    proxy = start_proxy(config)

    def pools(command: str = "pools", column: str = "database") -> set[str]:
        return {row[column] for row in give(proxy, f"show {command}")}

    with client(proxy, "used") as user:
        for name in ("postgres", "listed"):
            with client(proxy, name) as each:
                each.query("select 1")
        assert pools() >= {"listed", "used", "postgres"}
        eventually(lambda: "postgres" not in pools(), "the pool of * is given up")
        eventually(lambda: "postgres" not in pools("databases", "name"), "its database is")
        eventually(lambda: "postgres" not in pools("ledger"), "its limits are")
        assert pools() >= {"listed", "used"}
        assert one(give(proxy, "show stats"), database="postgres")["total_query_count"] == 1
        with client(proxy, "postgres") as again:
            assert again.value("select 1") == "1"
            assert one(give(proxy, "show pools"), database="postgres")["cl_active"] == 1
        config["poolproxy"]["pool_idle_timeout"] = "400ms"
        reload(proxy, config)
        eventually(lambda: pools() == {"used", "pgbouncer"}, "all unused pools are given up")
        assert user.value("select 1") == "1"
        del config["databases"]["used"]
        del config["databases"]["*"]
        reload(proxy, config)
        assert user.farewell().message == "database removed"
    eventually(lambda: pools() == {"pgbouncer"}, "the pool of a removed database is gone")
