"""Failover between real servers: streaming replication, a killed primary, a promoted standby."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import psycopg
import pytest

from poolproxy.demo.binaries import system_binaries
from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.fixtures.replication import REPLICATION_HBA, Standby
from tests.system.support import PATIENCE, Tables, eventually, sample

pytestmark = pytest.mark.needs_system_postgres
WRITERS = 4
WRITE = "insert into written (by) values (%s) returning current_setting('port')::int"


class Cluster:
    """A primary ``a`` and its standby ``b``."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        primary = PostgresServer(system_binaries(), hba=REPLICATION_HBA)
        self.a: PostgresServer = stack.enter_context(primary)
        self.a.psql("create table written (n serial, by text)")
        self.b: Standby = stack.enter_context(Standby(self.a))

    def rejoin(self) -> None:
        """The old primary comes back on its port, as a standby of the new one."""
        self.a.close()
        self.a = self._stack.enter_context(Standby(self.b, self.a.port))

    def ports(self) -> list[int]:
        return [self.a.port, self.b.port]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A primary and its standby, for a test that changes them."""
    with ExitStack() as stack:
        yield Cluster(stack)


@pytest.fixture(scope="module")
def steady() -> Iterator[Cluster]:
    """A primary and its standby, which stay what they are."""
    with ExitStack() as stack:
        yield Cluster(stack)


@pytest.fixture(scope="module")
def halved() -> Iterator[Cluster]:
    """A standby whose primary is dead."""
    with ExitStack() as stack:
        cluster = Cluster(stack)
        cluster.a.kill9()
        yield cluster


def tables(cluster: Cluster, **databases: Mapping[str, object]) -> Tables:
    """Each database is the cluster's, with the settings that are given for it."""
    entry = {"host": "127.0.0.1,127.0.0.1", "port": cluster.ports(), "dbname": "postgres"}
    settings = {"auth_type": "trust", "pool_mode": "transaction", "workers": 2}
    return {
        "poolproxy": settings,
        "databases": {name: entry | given for name, given in databases.items()},
        "users": {"postgres": {"password": cluster.a.password}},
    }


class Writer(threading.Thread):
    """A client that writes a row after the other, and connects again after an error. ``rows``: how many were
    confirmed, by the server's port.
    """

    def __init__(self, url: str, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.url = url
        self.over = threading.Event()
        self.rows: Counter[int] = Counter()
        self.errors: list[psycopg.Error] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                with psycopg.connect(self.url, autocommit=True, connect_timeout=30) as connection:
                    while not self.over.is_set():
                        row = connection.execute(WRITE, [self.name]).fetchone()
                        assert row is not None
                        self.rows[row[0]] += 1
            except psycopg.Error as error:
                self.errors.append(error)
                self.over.wait(0.05)


def url(proxy: ProxyProcess, database: str) -> str:
    return proxy.url(user="postgres", password="x", database=database)


def rows_of(server: PostgresServer, name: str) -> int:
    return int(server.psql(f"select count(*) from written where by = '{name}'"))


def ports_of(proxy: ProxyProcess, database: str, connections: int) -> list[int]:
    """The ports of the servers that so many clients get, which hold one each at one time."""
    with ExitStack() as stack:
        found = []
        for _ in range(connections):
            connection = stack.enter_context(psycopg.connect(url(proxy, database)))
            row = connection.execute("select current_setting('port')::int").fetchone()
            assert row is not None
            found.append(row[0])
        return found


def end_clients(server: PostgresServer) -> None:
    """End all connections to the server."""
    server.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )


def all_go_on(writers: list[Writer], what: str) -> None:
    marks = [writer.rows.total() for writer in writers]
    eventually(
        lambda: all(w.rows.total() > mark + 20 for w, mark in zip(writers, marks, strict=True)),
        what,
    )


def test_a_failover_is_followed(cluster: Cluster, start_proxy: StartProxy) -> None:
    """Clients that write go on after the standby was promoted, with no restart and no write at a standby;
    nor when the old primary comes back as one. A server that was a standby is left, and that is counted.
    """
    writing = {"target_session_attrs": "read-write", "pool_size": 3}
    reading = {"target_session_attrs": "standby", "pool_size": 1}
    proxy = start_proxy(tables(cluster, db=writing, readers=reading))
    before = proxy.pid, proxy.worker_pids()
    reader = psycopg.connect(url(proxy, "readers"), autocommit=True)
    reader.execute("select 1")
    writers = [Writer(url(proxy, "db"), f"writer {number}") for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        all_go_on(writers, "all write to the first primary")
        assert not any(w.errors for w in writers)
        cluster.a.kill9()
        # Who had a server then hears an error, the others wait for the next; it may be that all do.
        eventually(lambda: "connect failed: Connection refused" in proxy.log, "it is noticed")
        cluster.b.promote()
        all_go_on(writers, "all write to the new primary")
        with reader:
            reader.execute("select 1")
        left = {"database": "readers", "reason": "role_changed"}
        eventually(
            lambda: sample(proxy, "poolproxy_pool_server_closes_total", **left) == 1,
            "the server that is no standby any more is closed",
        )
        cluster.rejoin()
        known = [len(w.errors) for w in writers]
        # The pool has to choose again, now that there is a standby to choose.
        end_clients(cluster.b)
        all_go_on(writers, "all write after the old primary has come back")
        later = [error for w, n in zip(writers, known, strict=True) for error in w.errors[n:]]
        assert not [error for error in later if error.sqlstate == "25006"]
    finally:
        for writer in writers:
            writer.over.set()
        for writer in writers:
            writer.join(PATIENCE)
    # What the new primary has confirmed is there; of the old one's not all, as replication is asynchronous.
    for writer in writers:
        assert rows_of(cluster.b, writer.name) >= writer.rows[cluster.b.port] > 0
    assert (proxy.pid, proxy.worker_pids()) == before


def test_two_hosts_share_the_connections(steady: Cluster, start_proxy: StartProxy) -> None:
    """Round-robin spreads the server connections over the hosts; disable stays with the first."""
    stays = {"load_balance_hosts": "disable", "pool_size": 4}
    proxy = start_proxy(tables(steady, turns={"pool_size": 6}, stays=stays))
    assert sorted(ports_of(proxy, "turns", 6)) == sorted(steady.ports() * 3)
    assert ports_of(proxy, "stays", 4) == [steady.a.port] * 4


def test_the_host_that_is_wanted_is_found(steady: Cluster, start_proxy: StartProxy) -> None:
    """Each word of target_session_attrs finds its server among a primary and a standby."""
    words = ("read-write", "primary", "standby", "read-only", "prefer-standby")
    wanted = {word: {"target_session_attrs": word, "pool_size": 2} for word in words}
    proxy = start_proxy(tables(steady, **wanted))
    found = {word: set(ports_of(proxy, word, 2)) for word in words}
    a, b = ({port} for port in steady.ports())
    assert found == dict(zip(words, (a, a, b, b, b), strict=True))


def test_a_dead_host_is_skipped(halved: Cluster, start_proxy: StartProxy) -> None:
    """Clients get servers of the second host without an error, and the first is tried once, for all pools."""
    stays = {"load_balance_hosts": "disable", "pool_size": 3}
    other = {"target_session_attrs": "read-only", "pool_size": 3}
    config = tables(halved, db=stays, turns={"pool_size": 3}, other=other)
    config["poolproxy"]["server_login_retry"] = "10min"  # however slow the machine is
    proxy = start_proxy(config)
    for database in ("db", "turns", "other"):
        assert ports_of(proxy, database, 3) == [halved.b.port] * 3
    assert f"@127.0.0.1:{halved.a.port} pid=0 closing because: connect failed" in proxy.log
    assert proxy.log.count("closing because: connect failed") == 1


def test_clients_are_told_that_no_host_will_do(halved: Cluster, start_proxy: StartProxy) -> None:
    """The error in the log says of each host why it is not used."""
    proxy = start_proxy(tables(halved, db={"target_session_attrs": "read-write"}))

    def told() -> bool:
        try:
            with psycopg.connect(
                url(proxy, "db"), autocommit=True, connect_timeout=2
            ) as connection:
                connection.execute("select 1")
        except psycopg.Error:
            return "no read-write host" in proxy.log
        return False

    eventually(told, "a client fails")
    assert f"127.0.0.1:{halved.b.port}: standby" in proxy.log
