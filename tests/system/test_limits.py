"""Limits hold over all workers: clients, and the server connections that PostgreSQL sees."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.conftest import MakeRoles
from tests.system.protocol_client import ErrorAnswer, RawClient, refusal
from tests.system.support import client, eventually, sample, tables

MAX_CLIENTS = (
    60  # more than twice the clients of a storm: a successor may come before its like is gone
)
OTHERS = ("limits_a", "limits_b", "limits_c")
POOL_USERS = ("in_pooled", "in_session")


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy, postgres: PostgresServer, make_roles: MakeRoles
) -> ProxyProcess:
    """Two workers, and a database or user for each limit."""
    # A role for each test, so that its backends are told from those that others have left idle.
    make_roles(*OTHERS, *POOL_USERS, "patient", "few_servers", "few_clients")
    transaction = {"pool_mode": "transaction", "pool_size": 3}
    databases = {
        "pooled": transaction,
        "session": {"pool_mode": "session", "pool_size": 3},
        "few_servers": {**transaction, "max_db_connections": 4},
        "few_clients": {**transaction, "max_db_client_connections": 5},
        "other_one": transaction,
        "other_two": transaction,
    }
    users = {
        **{name: {} for name in (*OTHERS, *POOL_USERS, "patient")},
        "few_servers": {"max_user_connections": 4},
        "few_clients": {"max_user_client_connections": 5},
    }
    return start_module_proxy(
        tables(postgres, databases, users, workers=2, max_client_conn=MAX_CLIENTS)
    )


class Watch:
    """Counts as fast as it can the backends that a condition selects; ``most`` is the maximum."""

    def __init__(self, server: PostgresServer, condition: str) -> None:
        self.most = 0
        self._over = threading.Event()
        self._sql = f"select count(*) from pg_stat_activity where {condition}"
        self._url = server.url()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with psycopg.connect(self._url, autocommit=True, application_name="admin") as connection:
            while not self._over.is_set():
                row = connection.execute(self._sql).fetchone()
                assert row is not None
                self.most = max(self.most, row[0])

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()


def storm(proxy: ProxyProcess, targets: list[tuple[str, str]], rounds: int = 6) -> int:
    """Clients of every (database, user) at once, leaving and coming; how many queries succeeded."""

    def one_client(target: tuple[str, str], number: int) -> int:
        done = 0
        for _ in range(rounds):
            with client(proxy, *target) as one:
                for _ in range(5):
                    one.query("begin")
                    assert one.value(f"select {number}") == str(number)
                    one.query("commit")
                    done += 1
        return done

    with ThreadPoolExecutor(max_workers=24) as pool:
        work = [pool.submit(one_client, targets[n % len(targets)], n) for n in range(24)]
        return sum(future.result(60) for future in work)


@pytest.mark.parametrize("database", ["pooled", "session"])
def test_pool_size(proxy: ProxyProcess, postgres: PostgresServer, database: str) -> None:
    """A pool never has more than pool_size backends, and every client is served."""
    user = f"in_{database}"
    with Watch(postgres, f"usename = '{user}'") as watch:
        assert storm(proxy, [(database, user)]) == 24 * 6 * 5
    assert 1 <= watch.most <= 3


def test_max_db_connections(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """Over the pools of several users a database has at most max_db_connections backends."""
    with Watch(postgres, "usename like 'limits_%'") as watch:
        assert storm(proxy, [("few_servers", user) for user in OTHERS]) == 24 * 6 * 5
    assert 3 <= watch.most <= 4


def test_max_user_connections(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """Over the pools of several databases a user has at most max_user_connections backends."""
    databases = ("pooled", "other_one", "other_two")
    with Watch(postgres, "usename = 'few_servers'") as watch:
        assert storm(proxy, [(name, "few_servers") for name in databases]) == 24 * 6 * 5
    assert 3 <= watch.most <= 4


@pytest.fixture
def crowd(proxy: ProxyProcess) -> Iterator[ExitStack]:
    """Clients to be closed at the end; no earlier one is left at the beginning."""
    eventually(lambda: sample(proxy, "poolproxy_clients") == 0, "earlier clients are gone")
    with ExitStack() as stack:
        yield stack


def test_max_client_conn(proxy: ProxyProcess, crowd: ExitStack) -> None:
    """One client more than max_client_conn is refused, until another has left."""
    first = client(proxy, "pooled")
    for _ in range(MAX_CLIENTS - 1):
        crowd.enter_context(client(proxy, "pooled"))
    for _ in range(3):
        error = refusal((proxy.host, proxy.port), "pooled", "postgres")
        assert error.message == "no more connections allowed (max_client_conn)"
        assert (error.fields["S"], error.sqlstate) == ("FATAL", "53300")
        assert "max_client_conn" in error.hint
    assert sample(proxy, "poolproxy_refused_connections_total") >= 3
    first.terminate()
    eventually(lambda: _enters(proxy, crowd), "there is room again")


def test_who_comes_back_at_once_finds_its_place(proxy: ProxyProcess, crowd: ExitStack) -> None:
    """Also where every place was taken, and the worker that gets it has not yet heard of the end of the other
    connection.
    """
    for _ in range(MAX_CLIENTS - 1):
        crowd.enter_context(client(proxy, "pooled"))
    for number in range(100):
        with client(proxy, "pooled") as one:
            assert one.value(f"select {number}") == str(number)


def _enters(proxy: ProxyProcess, crowd: ExitStack) -> bool:
    try:
        crowd.enter_context(client(proxy, "pooled"))
    except ErrorAnswer:
        return False
    return True


@pytest.mark.parametrize(
    ("target", "setting"),
    [
        (("few_clients", "postgres"), "max_db_client_connections"),
        (("pooled", "few_clients"), "max_user_client_connections"),
    ],
)
def test_client_limits(
    proxy: ProxyProcess, crowd: ExitStack, target: tuple[str, str], setting: str
) -> None:
    """Clients of a database or user are counted over the workers; others are not concerned."""
    leaver = client(proxy, *target)
    for _ in range(4):
        crowd.enter_context(client(proxy, *target))
    error = refusal((proxy.host, proxy.port), *target)
    assert error.message == f"client connections exceeded ({setting})"
    assert (error.fields["S"], error.sqlstate) == ("FATAL", "53300")
    assert setting in error.hint
    crowd.enter_context(client(proxy, "pooled"))
    leaver.terminate()

    def enters() -> bool:
        try:
            crowd.enter_context(client(proxy, *target))
        except ErrorAnswer:
            return False
        return True

    eventually(enters, "there is room again")
    assert refusal((proxy.host, proxy.port), *target).message == error.message


def test_refused_log_ins_are_not_counted(proxy: ProxyProcess, crowd: ExitStack) -> None:
    """Clients that could not log in leave no trace in the client limits."""
    for _ in range(10):
        assert refusal((proxy.host, proxy.port), "few_clients", "unknown").message
        assert refusal((proxy.host, proxy.port), "no such", "few_clients").message
    for _ in range(5):
        crowd.enter_context(client(proxy, "few_clients", "few_clients"))


def test_waiting_clients_of_both_workers_are_served(proxy: ProxyProcess) -> None:
    """Long transactions of one pool do not starve the clients that happen to be at the other worker."""

    def work(number: int) -> int:
        with client(proxy, "pooled", "patient") as one:
            for _ in range(10):
                one.query("begin; select pg_sleep(0.005); commit")
        return number

    with ThreadPoolExecutor(max_workers=16) as pool:
        assert list(pool.map(work, range(16))) == list(range(16))


def test_half_open_clients_count(proxy: ProxyProcess, crowd: ExitStack) -> None:
    """Sockets that have not logged in count against max_client_conn."""
    for _ in range(MAX_CLIENTS):
        crowd.enter_context(RawClient((proxy.host, proxy.port), log_in=False))
    eventually(lambda: sample(proxy, "poolproxy_clients") == MAX_CLIENTS, "all are accepted")
    assert "max_client_conn" in refusal((proxy.host, proxy.port), "pooled", "postgres").message
