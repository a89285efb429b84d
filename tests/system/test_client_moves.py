"""Clients go to other workers and notice nothing: real processes, real clients."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy, started_proxies
from tests.system.protocol_client import (
    SYNC,
    Eof,
    ErrorAnswer,
    RawClient,
    bind,
    cancel_request,
    execute,
    parse,
    query,
)
from tests.system.support import client, eventually, sample, tables

MOVES = "poolproxy_client_moves_total"
REPLACEMENTS = "poolproxy_worker_replacements_total"
ROUNDS = 3  # replacements that a test goes through
CANCELLED = "57014"
POOLS = 16


@pytest.fixture(scope="module")
def restless(one_postgres: PostgresServer) -> Iterator[ProxyProcess]:
    """Two workers that are replaced all the time."""
    databases = {
        "transaction": {"pool_mode": "transaction", "pool_size": 4},
        "session": {"pool_mode": "session", "pool_size": 10},
    }
    with started_proxies() as start:
        yield start(tables(one_postgres, databases, workers=2, worker_max_lifetime=0.5, verbose=2))


def moves(proxy: ProxyProcess) -> float:
    return sample(proxy, MOVES, outcome="done")


def url(proxy: ProxyProcess, database: str = "transaction") -> str:
    return proxy.url(user="postgres", password="unused", database=database)


def replacements(proxy: ProxyProcess, count: int) -> None:
    """Wait until so many workers have been replaced from now on."""
    then = sample(proxy, REPLACEMENTS) + count
    eventually(lambda: sample(proxy, REPLACEMENTS) >= then, f"{count} workers are replaced")


def test_an_idle_client_comes_along_when_its_worker_is_replaced(restless: ProxyProcess) -> None:
    """Parameters and prepared statements are as before, time and again."""
    with client(restless, "transaction", application_name="traveller") as one:
        one.query("set timezone = 'Asia/Tokyo'")
        one.send(parse("mine", "select $1 || current_setting('timezone')") + SYNC)
        one.results()
        for _ in range(ROUNDS):
            then = moves(restless)
            eventually(lambda then=then: moves(restless) > then, "the client moves")
            one.send(bind("mine", b"in ") + execute() + SYNC)
            assert one.results() == [("in Asia/Tokyo",)]
            assert one.value("show application_name") == "traveller"


def test_a_session_comes_along_with_its_server(restless: ProxyProcess) -> None:
    """The client keeps its backend with all that is there, and hears what it listens to on its way."""
    with psycopg.connect(url(restless, "session"), autocommit=True) as one:
        pid = one.info.backend_pid
        one.execute("listen news")
        one.execute("create temp table mine as select 42 as answer")
        with psycopg.connect(url(restless), autocommit=True) as other:
            for number in range(ROUNDS):
                then = moves(restless)
                eventually(lambda then=then: moves(restless) >= then + 2, "clients move")
                other.execute(f"notify news, '{number}'")
                notice = next(one.notifies(timeout=15))
                assert notice.payload == str(number)
                assert one.execute("select answer from mine").fetchone() == (42,)
                assert one.execute("select pg_backend_pid()").fetchone() == (pid,)
        assert sample(restless, "poolproxy_pool_servers", database="session", state="active") == 1


def works(proxy: ProxyProcess, number: int, over: threading.Event) -> int:
    """Transactions of a client, simple and prepared ones; how many. Any error is raised."""
    done = 0
    with psycopg.connect(url(proxy), autocommit=True, prepare_threshold=1) as one:
        one.execute(f"set application_name = 'worker {number}'")
        while not over.is_set():
            assert one.execute("select %s::int + 1", [done]).fetchone() == (done + 1,)
            with one.transaction():
                one.execute("select 1")
                row = one.execute("select current_setting('application_name')").fetchone()
                assert row == (f"worker {number}",)
            done += 1
            time.sleep(0.002 * (number % 3))
    return done


def test_busy_clients_do_not_notice_that_workers_are_replaced(restless: ProxyProcess) -> None:
    """Clients that log in, work and leave all the time see no error while each worker is replaced."""
    over = threading.Event()
    then = moves(restless)
    with ThreadPoolExecutor(10) as threads:
        busy = [threads.submit(works, restless, number, over) for number in range(9)]
        brief = threads.submit(_come_and_go, restless, over)
        try:
            replacements(restless, ROUNDS)
            eventually(lambda: moves(restless) >= then + 9, "clients move")
        finally:
            over.set()
        assert all(one.result() > 10 for one in busy)
        assert brief.result() > 3
    eventually(lambda: sample(restless, "poolproxy_clients") == 0, "no client is left")
    assert sample(restless, MOVES, outcome="lost") == 0


def _come_and_go(proxy: ProxyProcess, over: threading.Event) -> int:
    done = 0
    while not over.is_set():
        with psycopg.connect(url(proxy)) as one:
            one.execute("select 1")
        done += 1
    return done


def test_cancel_requests_find_clients_that_move(restless: ProxyProcess) -> None:
    """In a storm of cancels each sleeping query of a client that has moved ends, and nobody else's does."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client(restless, "transaction")) for _ in range(3)]
        bystander = stack.enter_context(client(restless, "transaction"))
        then = moves(restless)
        rounds = 0
        while moves(restless) < then + 12 or rounds < 10:
            rounds += 1
            for one in clients:
                one.send(query("select pg_sleep(60)"))
            assert bystander.value(f"select {rounds}") == str(rounds)
            for one in clients:
                _cancel_until_answered(restless, one)
                with pytest.raises(ErrorAnswer, match=CANCELLED):
                    one.results()
                assert _value(one) == "1"


def _cancel_until_answered(proxy: ProxyProcess, one: RawClient) -> None:
    """As users do who cancel: once more if nothing happens, as the first may have come before the query."""
    end = time.monotonic() + 15
    while one.is_silent():
        assert time.monotonic() < end, "the cancel requests do not arrive"
        with RawClient((proxy.host, proxy.port), log_in=False) as canceller:
            canceller.send(cancel_request(one.key))
            assert canceller.at_end()
        time.sleep(0.02)


def _value(one: RawClient) -> str | None:
    """A late cancel may hit this query instead."""
    while True:
        try:
            return one.value("select 1")
        except ErrorAnswer as error:
            if error.sqlstate != CANCELLED:
                raise


def descriptors(proxy: ProxyProcess) -> int:
    """Open files of acceptor and workers."""
    pids = [proxy.pid, *proxy.worker_pids()]
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


@contextmanager
def all_on_one_worker(proxy: ProxyProcess, count: int, workers: int) -> Iterator[list[RawClient]]:
    """Clients, in as many pools, that all are with the same worker: the others are sent away again."""
    with ExitStack() as stack:
        there: list[RawClient] = []
        elsewhere: list[RawClient] = []
        for number in range(count * workers):
            one = RawClient((proxy.host, proxy.port), f"db{number // workers % POOLS}")
            (elsewhere if number % workers else there).append(one)
        for one in elsewhere:
            one.leave()
        for one in there:
            stack.enter_context(one)
        yield there


@pytest.mark.parametrize("size", [1, 20])
def test_work_is_spread_over_the_workers(
    start_proxy: StartProxy, one_postgres: PostgresServer, size: int
) -> None:
    """All busy clients are with one worker: soon all workers have about as much to do, where pools are
    gathered and where clients go one by one; none sees an error.
    """
    databases = {f"db{n}": {"pool_mode": "transaction", "pool_size": size} for n in range(POOLS)}
    proxy = start_proxy(tables(one_postgres, databases, workers=4, client_moves=False))
    over = threading.Event()

    def work(one: RawClient) -> int:
        done = 0
        while not over.is_set():
            assert one.value("select 1") == "1"
            done += 1
            # Else the scheduler decides what a worker gets, and not what it has to do.
            time.sleep(0.01)
        return done

    count = 2 * POOLS
    with all_on_one_worker(proxy, count, 4) as clients, ThreadPoolExecutor(count) as threads:
        busy = [threads.submit(work, one) for one in clients]
        try:
            eventually(lambda: imbalance(proxy) > 3, "one worker has all the work")
            assert moves(proxy) == 0
            proxy.write_config(tables(one_postgres, databases, workers=4))
            proxy.signal(signal.SIGHUP)
            eventually(lambda: lasting_imbalance(proxy) < 1.4, "the work is spread evenly")
        finally:
            over.set()
        assert all(one.result() for one in busy)
    assert moves(proxy) >= count // 2


def imbalance(proxy: ProxyProcess) -> float:
    return sample(proxy, "poolproxy_worker_imbalance")


def lasting_imbalance(proxy: ProxyProcess) -> float:
    """Of two seconds: the busiest worker's processor time by the mean of all."""
    before = processor_times(proxy)
    time.sleep(2)
    used = [now - then for now, then in zip(processor_times(proxy), before, strict=True)]
    return max(used) * len(used) / sum(used)


def processor_times(proxy: ProxyProcess) -> list[float]:
    metric = "poolproxy_worker_cpu_seconds_total"
    return [sample(proxy, metric, worker=str(slot)) for slot in range(4)]


def test_workers_that_die_lose_their_own_clients_only(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """Workers are killed while clients move: clients get right answers or an end, and nothing is left."""
    databases = {"transaction": {"pool_mode": "transaction", "pool_size": 4}}
    proxy = start_proxy(tables(one_postgres, databases, workers=2, worker_max_lifetime=0.4))
    over = threading.Event()
    with client(proxy, "transaction") as one:
        one.value("select 1")
    before = descriptors(proxy)

    def work(number: int) -> int:
        ends = 0
        while not over.is_set():
            try:
                with client(proxy, "transaction") as one:
                    while not over.is_set():
                        assert one.value(f"select {number}") == str(number)
            except (Eof, ErrorAnswer, ConnectionError):
                ends += 1
        return ends

    with ThreadPoolExecutor(8) as threads:
        busy = [threads.submit(work, number) for number in range(8)]
        try:
            for _ in range(4):
                replacements(proxy, 1)
                victims = proxy.worker_pids()
                os.kill(victims[0], signal.SIGKILL)
        finally:
            over.set()
        assert sum(one.result() for one in busy) > 0
    eventually(lambda: sample(proxy, "poolproxy_clients") == 0, "no client is left")
    eventually(
        lambda: sample(proxy, "poolproxy_workers", state="leaving") == 0, "old workers have left"
    )
    eventually(lambda: descriptors(proxy) <= before, "no descriptor is left")
