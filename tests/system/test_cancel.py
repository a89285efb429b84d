"""Cancel requests: they reach the right query, from whichever worker, and no other."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import (
    FLUSH,
    SYNC,
    ErrorAnswer,
    RawClient,
    cancel_request,
    query,
    run,
)
from tests.system.support import client, eventually, sample, tables

SLEEP = "select pg_sleep(60)"
CLIENTS = "poolproxy_pool_clients"
SERVER_CONNECTS = "poolproxy_pool_server_connect_seconds_count"


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


PIPELINE = run("select 1") + SYNC + run("select 2") + SYNC + query("select 3")
REFUSED = ("ERROR", "57014", "canceling statement due to user request")


@contextmanager
def full_pool(proxy: ProxyProcess, mode: str) -> Iterator[list[RawClient]]:
    """Clients that hold all servers of a pool."""
    with ExitStack() as stack:
        holders = [stack.enter_context(client(proxy, mode)) for _ in range(4)]
        for holder in holders:
            holder.query("begin")
        yield holders


def until_waiting(proxy: ProxyProcess) -> None:
    eventually(lambda: sample(proxy, CLIENTS, state="waiting") == 1, "a client waits")


def refusals(one: RawClient, count: int) -> list[tuple[str, ...]]:
    """The errors of so many requests, each with its ReadyForQuery."""
    found = []
    for _ in range(count):
        with pytest.raises(ErrorAnswer) as caught:
            one.results()
        assert one.status == "I"
        found.append(tuple(caught.value.fields[key] for key in "SCM"))
    return found


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_cancel_of_a_waiting_client(proxy: ProxyProcess, mode: str) -> None:
    """All that waits is refused at once as PostgreSQL refuses it, and the session lives on."""
    with client(proxy, mode) as one:
        with full_pool(proxy, mode):
            for sent, count in ((query("select 1"), 1), (run("x") + SYNC, 1), (PIPELINE, 3)):
                one.send(sent)
                until_waiting(proxy)
                cancel(proxy, one.key)
                assert refusals(one, count) == [REFUSED] * count
                assert one.is_silent()
        assert one.value("select 'served'") == "served"


def test_cancel_of_a_waiting_batch_without_its_sync(proxy: ProxyProcess) -> None:
    """It is refused at once, what comes of it afterwards is dropped up to its Sync, which is answered."""
    with client(proxy, "transaction") as one:
        with full_pool(proxy, "transaction"):
            one.send(run("select 1"), FLUSH)
            until_waiting(proxy)
            cancel(proxy, one.key)
            assert one.read().error().sqlstate == "57014"
            one.send(run("select 2"), FLUSH)
        one.send(SYNC, query("select 3"))
        assert [reply.code for reply in one.replies()] == ["Z"]
        assert one.results() == [("3",)]


def test_cancel_of_a_waiting_message_that_is_not_complete(proxy: ProxyProcess) -> None:
    """There is no telling what it would have been: the client is closed with the error."""
    with client(proxy, "transaction") as one, full_pool(proxy, "transaction"):
        one.send(query("x" * 300_000)[:200_000])
        until_waiting(proxy)
        cancel(proxy, one.key)
        error = one.farewell()
        assert (error.fields["S"], error.sqlstate) == ("FATAL", "57014")


def test_drivers_go_on_after_a_cancelled_wait(proxy: ProxyProcess) -> None:
    """psycopg, alone and in pipeline mode."""
    with psycopg.connect(url(proxy, "transaction"), autocommit=True) as connection:
        with full_pool(proxy, "transaction"), ThreadPoolExecutor() as pool:

            def stop() -> None:
                until_waiting(proxy)
                connection.cancel()

            stopping = pool.submit(stop)
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("select 1")
            stopping.result(20)
            stopping = pool.submit(stop)
            with pytest.raises(psycopg.errors.QueryCanceled), connection.pipeline():
                connection.execute("select 1")
            stopping.result(20)
        assert connection.execute("select 'served'").fetchone() == ("served",)


def test_a_storm_of_cancels_is_bounded_and_hits_its_own_query(
    proxy: ProxyProcess, admin: psycopg.Connection
) -> None:
    """Hundreds for one query, at once and from both workers, while others work."""
    before = sample(proxy, SERVER_CONNECTS)
    with client(proxy, "transaction") as one, client(proxy, "transaction") as other:
        for number in range(3):
            one.send(query(f"{SLEEP} /* storm {number} */"))
            eventually(lambda n=number: is_asleep(admin, f"storm {n}"), "the query runs")
            with ThreadPoolExecutor(20) as pool:
                storm = [pool.submit(cancel, proxy, one.key) for _ in range(100)]
                for _ in range(20):
                    assert other.value("select 7") == "7"
                for future in storm:
                    future.result(30)
            with pytest.raises(ErrorAnswer, match="57014"):
                one.results()
            assert one.value("select 1") == "1"
    assert sample(proxy, SERVER_CONNECTS) - before <= 4


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
