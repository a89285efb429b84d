"""Cancel requests: they reach the right query, from whichever worker, and no other."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import (
    SYNC,
    ErrorAnswer,
    RawClient,
    cancel_request,
    query,
    run,
)
from tests.system.support import client, eventually, tables

SLEEP = "select pg_sleep(60)"


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Two workers, so that a cancel request often arrives at the other one."""
    databases = {
        "transaction": {"pool_mode": "transaction", "pool_size": 4},
        "session": {"pool_mode": "session", "pool_size": 4},
    }
    return start_module_proxy(tables(postgres, databases, workers=2))


def url(proxy: ProxyProcess, database: str) -> str:
    return proxy.url(user="postgres", password="unused", database=database)


def cancel(proxy: ProxyProcess, key: tuple[int, bytes]) -> None:
    """Send a cancel request and wait until it is done."""
    with RawClient((proxy.host, proxy.port), log_in=False) as one:
        one.send(cancel_request(key))
        assert one.at_end()


def is_asleep(admin: psycopg.Connection, tag: str) -> bool:
    sql = "select 1 from pg_stat_activity where state = 'active' and query like %s"
    return bool(admin.execute(sql, [f"%pg_sleep% /* {tag} */%"]).fetchone())


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_cancel(proxy: ProxyProcess, admin: psycopg.Connection, mode: str, protocol: str) -> None:
    """A running query ends with PostgreSQL's error, and the client goes on."""
    with client(proxy, mode) as one:
        for number in range(6):
            tag = f"{mode} {protocol} {number}"
            sql = f"{SLEEP} /* {tag} */"
            one.send(query(sql) if protocol == "simple" else run(sql) + SYNC)
            eventually(lambda tag=tag: is_asleep(admin, tag), "the query runs")
            cancel(proxy, one.key)
            with pytest.raises(ErrorAnswer, match="57014: canceling statement"):
                one.results()
            assert one.value("select 1") == "1"


def test_only_the_right_query_is_cancelled(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """Of several queries that run at once each cancel ends its own."""
    clients = [client(proxy, "transaction") for _ in range(4)]
    for number, one in enumerate(clients):
        one.send(query(f"{SLEEP} /* many {number} */"))
    for number in range(4):
        eventually(lambda n=number: is_asleep(admin, f"many {n}"), "the query runs")
    for number in (2, 0, 3, 1):
        one = clients[number]
        cancel(proxy, one.key)
        with pytest.raises(ErrorAnswer, match="57014"):
            one.results()
        assert not is_asleep(admin, f"many {number}")
        clients[number].terminate()
        rest = [n for n in (2, 0, 3, 1) if is_asleep(admin, f"many {n}")]
        assert len(rest) == [2, 0, 3, 1][::-1].index(number)


def test_a_late_cancel_hits_nobody(proxy: ProxyProcess) -> None:
    """Cancels for queries that are over never disturb whoever has the server now."""
    over = threading.Event()

    def annoy(victim: tuple[int, bytes]) -> int:
        sent = 0
        while not over.is_set():
            cancel(proxy, victim)
            sent += 1
        return sent

    def work(one: RawClient) -> int:
        done = 0
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert one.value("select 7 /* must not be cancelled */") == "7"
            done += 1
        return done

    with (
        ThreadPoolExecutor() as pool,
        client(proxy, "transaction") as quick,
        client(proxy, "transaction") as victim,
        client(proxy, "transaction") as third,
    ):
        cancelling = [pool.submit(annoy, victim.key) for _ in range(2)]
        working = [pool.submit(work, one) for one in (quick, third)]
        try:
            outcomes = set()
            for _ in range(200):
                victim.send(query("select 1"))
                outcomes.add(_outcome(victim))
            assert [future.result(30) > 50 for future in working] == [True, True]
        finally:
            over.set()
        assert all(future.result(30) > 5 for future in cancelling)
        assert outcomes <= {"", "57014"}


def _outcome(one: RawClient) -> str:
    """The SQLSTATE of what the client has asked, "" for success."""
    try:
        one.results()
    except ErrorAnswer as error:
        return error.sqlstate
    return ""


def test_cancel_of_an_idle_client_does_nothing(proxy: ProxyProcess) -> None:
    """A cancel for a client that runs nothing is closed at once, and the client is unharmed."""
    with client(proxy, "transaction") as one, client(proxy, "session") as two:
        two.query("select 1")
        for each in (one, two):
            cancel(proxy, each.key)
            assert each.value("select 1") == "1"


@pytest.mark.parametrize("secret", [b"\0\0\0\0", b"x" * 32, b"y" * 256])
def test_cancel_with_a_wrong_key(
    proxy: ProxyProcess, admin: psycopg.Connection, secret: bytes
) -> None:
    """A key that nobody has is closed without a word, and without an effect."""
    with client(proxy, "transaction") as one:
        one.send(query(f"{SLEEP} /* wrong {len(secret)} */"))
        eventually(lambda: is_asleep(admin, f"wrong {len(secret)}"), "the query runs")
        cancel(proxy, (one.key[0], secret))
        assert is_asleep(admin, f"wrong {len(secret)}")
        cancel(proxy, one.key)
        with pytest.raises(ErrorAnswer, match="57014"):
            one.results()


def test_cancel_of_a_waiting_client(proxy: ProxyProcess) -> None:
    """A cancel for a client in the queue reaches no server, and the client is served in its turn."""
    holders = [client(proxy, "transaction") for _ in range(4)]
    for holder in holders:
        holder.query("begin")
    with client(proxy, "transaction") as one:
        one.send(query("select 'served'"))
        cancel(proxy, one.key)
        for holder in holders:
            assert holder.value("select 1") == "1"
            holder.query("commit")
            holder.terminate()
        assert one.results() == [("served",)]


def test_keys_are_not_the_servers(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """A client's key means nothing to PostgreSQL itself: it is no way round the proxy."""
    with client(proxy, "transaction") as one, client(proxy, "transaction") as two:
        assert one.key != two.key
        one.send(query("select pg_sleep(0.3)"))
        with RawClient((postgres.host, postgres.port), log_in=False) as direct:
            direct.send(cancel_request(one.key))
            assert direct.at_end()
        one.results()


def test_psycopg_cancel(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """Connection.cancel of psycopg, many times."""
    with psycopg.connect(url(proxy, "transaction"), autocommit=True) as connection:
        for number in range(10):
            tag = f"psycopg {number}"

            def stop(tag: str = tag) -> None:
                eventually(lambda: is_asleep(admin, tag), "the query runs")
                connection.cancel()

            with ThreadPoolExecutor() as pool:
                stopping = pool.submit(stop)
                with pytest.raises(psycopg.errors.QueryCanceled):
                    connection.execute(f"{SLEEP} /* {tag} */")
                stopping.result(20)
            assert connection.execute("select 1").fetchone() == (1,)


def test_psql_ctrl_c(
    proxy: ProxyProcess, postgres: PostgresServer, admin: psycopg.Connection
) -> None:
    """Ctrl-C in psql ends the query at the server (and a psql that reads a script with it)."""
    with subprocess.Popen(
        [postgres.binaries.tool("psql"), "-XAt", url(proxy, "transaction")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as psql:
        assert psql.stdin is not None
        psql.stdin.write(f"{SLEEP} /* ctrl-c */;\n")
        psql.stdin.flush()
        eventually(lambda: is_asleep(admin, "ctrl-c"), "the query runs")
        psql.send_signal(signal.SIGINT)
        eventually(lambda: not is_asleep(admin, "ctrl-c"), "the query is cancelled")
        assert "canceling statement due to user request" in psql.communicate(timeout=20)[1]


def test_cancel_ends_before_the_server_is_used_again(
    proxy: ProxyProcess, admin: psycopg.Connection
) -> None:
    """While a cancel is on its way its server serves nobody else: the next query is safe."""
    with client(proxy, "transaction") as one, client(proxy, "transaction") as two:
        for number in range(30):
            one.send(query(f"select pg_sleep(0.00{number % 10})"))
            with RawClient((proxy.host, proxy.port), log_in=False) as canceller:
                canceller.send(cancel_request(one.key))
                assert two.value("select 2") == "2"
                assert canceller.at_end()
            assert _outcome(one) in ("", "57014")
