"""Leaving without losing anything: SIGTERM with a shutdown_timeout, and one database alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGTERM

import attrs
import psycopg
import pytest
from psycopg.errors import AdminShutdown

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.rough_client import RoughClient, ServerError
from tests.system.setups import config, role
from tests.system.watching import eventually, metric

GONE = "57P01"


@pytest.fixture(scope="session")
def postgres(one_postgres: PostgresServer) -> PostgresServer:
    """One version of PostgreSQL is enough for all of this module."""
    return one_postgres


@attrs.define(eq=False)
class Writer(threading.Thread):
    """Writes a row in each transaction, until it is sent away and nobody listens any more.

    ``committed``: the rows whose COMMIT was answered. ``sent_away``: how often it was told to go, between
    two transactions; ``wrong``: any other end.
    """

    proxy: ProxyProcess
    number: int
    committed: int = 0
    sent_away: int = 0
    wrong: list[str] = attrs.Factory(list)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def run(self) -> None:
        while True:
            try:
                url = self.proxy.url(user="limited", password="", database="db")
                connection = psycopg.connect(url, prepare_threshold=None)
            except psycopg.OperationalError:
                return  # nobody listens any more
            try:
                self.write(connection)
            finally:
                connection.close()

    def write(self, connection: psycopg.Connection) -> None:
        while True:
            begun = False
            try:
                connection.execute("select")
                begun = True
                row = (self.number, self.committed)
                connection.execute("insert into written values (%s, %s)", row)
                connection.commit()
            except psycopg.Error as error:
                if begun or not isinstance(error, AdminShutdown):
                    self.wrong.append(f"amid a transaction: {begun}; {error!r}")
                self.sent_away += 1
                return
            self.committed += 1


@contextmanager
def table(server: PostgresServer) -> Iterator[None]:
    server.psql("create table written (writer int, number int); grant all on written to limited")
    try:
        yield
    finally:
        server.psql("drop table written")


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_drain_under_load_loses_nothing(
    start_proxy: StartProxy, one_postgres: PostgresServer, mode: str
) -> None:
    """Every COMMIT that was answered is there and no other; clients hear 57P01 between transactions, never
    anything else, and the server leaves before its time is over.
    """
    with role(one_postgres, "limited"), table(one_postgres):
        tables = config(one_postgres, shutdown_timeout=60, pool_mode=mode, default_pool_size=12)
        proxy = start_proxy(tables)
        writers = [Writer(proxy, number) for number in range(12)]
        for writer in writers:
            writer.start()
        eventually(lambda: all(w.committed > 20 for w in writers), 60, "all of them write")
        proxy.signal(SIGTERM)
        assert proxy.process.wait(50) == 0
        for writer in writers:
            writer.join()
        assert not [text for writer in writers for text in writer.wrong]
        assert all(writer.sent_away for writer in writers)
        found = one_postgres.psql("select writer, count(*), max(number) from written group by 1")
        rows = [tuple(map(int, line.split("|"))) for line in found.split()]
        assert sorted(rows) == [(w.number, w.committed, w.committed - 1) for w in writers]
        assert "clients are still here" not in proxy.log


def test_a_drain_waits_for_transactions(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """Who is idle goes at once, who is amid a transaction goes behind its COMMIT, in session mode, too."""
    with role(one_postgres, "limited"):
        tables = config(one_postgres, shutdown_timeout=60)
        tables["databases"]["sess"] = {**tables["databases"]["db"], "pool_mode": "session"}
        proxy = start_proxy(tables)
        with (
            RoughClient(proxy.port) as idle,
            RoughClient(proxy.port) as busy,
            RoughClient(proxy.port) as session,
        ):
            idle.log_in("limited", "db").query("select 1")
            busy.log_in("limited", "db").query("begin; select 1")
            session.log_in("limited", "sess").query("begin; select 1")
            proxy.signal(SIGTERM)
            with pytest.raises(ServerError, match="server shutting down") as caught:
                idle.results()
            assert caught.value.sqlstate == GONE
            for client in (busy, session):
                assert client.query("select 2") == [("2",)]
                assert client.query("commit; select 3") == [("3",)]
                with pytest.raises(ServerError, match="server shutting down"):
                    client.results()
        assert proxy.process.wait(20) == 0


def test_the_time_for_a_drain_ends(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """A transaction that lasts longer than shutdown_timeout is cut, and the log says so."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, shutdown_timeout=1))
        with RoughClient(proxy.port) as busy:
            busy.log_in("limited", "db").query("begin; select 1")
            proxy.signal(SIGTERM)
            assert proxy.process.wait(20) == 0
            busy.until_eof()
        assert "after shutdown_timeout (1 s)" in proxy.log


def test_not_ready_before_it_stops_listening(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """With shutdown_delay clients come in and are served, and /readyz says no; a second signal ends it."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, shutdown_timeout=60, shutdown_delay=50))
        with RoughClient(proxy.port) as one:
            one.log_in("limited", "db")
            proxy.signal(SIGTERM)
            eventually(lambda: proxy.get("/readyz") == (503, "shutting down"), 10, "not ready")
            with RoughClient(proxy.port) as late:
                late.log_in("limited", "db")
                assert late.query("select 1") == one.query("select 1") == [("1",)]
            proxy.signal(SIGTERM)
            assert proxy.process.wait(20) == 0


def test_clients_that_come_with_the_signal_are_let_in(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A log-in under way when the signal comes ends well; then its client is sent away like the others."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, shutdown_timeout=60))
        with RoughClient(proxy.port) as slow:
            eventually(lambda: metric(proxy, "poolproxy_clients") == 1, 10, "it is accepted")
            proxy.signal(SIGTERM)
            eventually(lambda: "no longer listening" in proxy.log, 10, "the drain has begun")
            slow.log_in("limited", "db")
            with pytest.raises(ServerError, match="server shutting down"):
                slow.results()
        assert proxy.process.wait(20) == 0
