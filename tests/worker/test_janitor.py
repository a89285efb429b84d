"""Time-outs, by a clock that the test turns."""

from __future__ import annotations

from time import monotonic

import pytest
import trio

from poolproxy.ipc.messages import ServerClosed, Want
from poolproxy.relay.closing import Closing
from poolproxy.relay.task import TASK_TIMEOUT
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.worker.janitor import TICK, tick
from tests.worker.house import error, house

SELECT = query("select 1")
DONE = message(ord("C"), b"SELECT 1\0") + ready_for_query()
IN_BLOCK = message(ord("C"), b"BEGIN\0") + ready_for_query(ord("T"))


@pytest.mark.parametrize(
    ("setting", "message_", "sqlstate"),
    [
        ("query_wait_timeout", "query_wait_timeout", "08006"),
        ("query_timeout", "query_timeout", "57014"),
    ],
)
def test_a_client_waits_for_a_server_only_so_long(
    setting: str, message_: str, sqlstate: str
) -> None:
    """Each by its own time; who came later waits on. query_timeout counts the waiting too."""
    with house({"query_wait_timeout": "100s", setting: "5s"}) as h:
        first, first_app = h.client(SELECT)
        later, _ = h.client(SELECT)
        now = first.wait_since
        later.wait_since = now + 1
        tick(h.worker, now + 4.9)
        assert not first.closed
        tick(h.worker, now + 5)
        assert first.closed
        assert not later.closed
        told = error(first_app)
        assert (told.message, told.sqlstate) == (message_, sqlstate)


async def test_a_query_may_run_only_so_long() -> None:
    """The server is cancelled, and closed if that takes longer than abandoned_work_timeout."""
    limits = {"query_timeout": "5s", "abandoned_work_timeout": "3s"}
    async with trio.open_nursery() as nursery:
        with house(limits, nursery=nursery) as h:
            server, _ = h.server()
            _, app = h.client(SELECT)
            tick(h.worker, server.query_since + 4.9)
            assert server.client is not None
            tick(h.worker, server.query_since + 5)
            assert error(app).message == "query timeout"
            assert server.task is not None
            assert server.cancels == 0
            await trio.testing.wait_all_tasks_blocked()
            tick(h.worker, server.task.since + 2.9)
            assert not server.closed
            tick(h.worker, server.task.since + 3.1)
            assert server.closed
            assert h.pool.stats.server_closes == {"not_settled": 1}
            assert h.pool.stats.abandoned == {"closed": 1}
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("setting", "message_"),
    [
        ("transaction_timeout", "transaction timeout"),
        ("idle_transaction_timeout", "idle transaction timeout"),
    ],
)
def test_a_transaction_may_last_only_so_long(setting: str, message_: str) -> None:
    """In all, or between two statements; the server's transaction is rolled back."""
    with house({setting: "5s"}) as h:
        server, postgres = h.server()
        _, app = h.client(query("begin"))
        postgres.send(IN_BLOCK)
        h.turn()
        assert app.recv(100) == IN_BLOCK
        tick(h.worker, server.last_activity + 4.9)
        assert not server.closed
        tick(h.worker, server.last_activity + 5)
        assert error(app).message == message_
        assert postgres.recv(100) == query("begin") + query("ROLLBACK")
        postgres.send(DONE)
        h.turn()
        assert list(h.pool.idle) == [server]


def test_a_prepared_statement_without_sync_is_an_idle_transaction() -> None:
    """PostgreSQL holds a transaction open until Sync, so the pool misses the server."""
    limits = {"idle_transaction_timeout": "5s", "abandoned_work": "close"}
    with house({**limits, "max_prepared_statements": 0}) as h:
        server, postgres = h.server()
        h.client(message(ord("P"), b"\0select 1\0\0\0") + message(ord("H"), b""))
        postgres.send(message(ord("1"), b""))
        h.turn()
        tick(h.worker, server.last_activity + 5)
        assert server.closed


def test_an_idle_client_is_closed_after_its_time() -> None:
    """One that waits or works is not idle."""
    with house({"client_idle_timeout": "5s"}) as h:
        idle, app = h.client()
        waiting, _ = h.client(SELECT)
        tick(h.worker, idle.last_activity + 4.9)
        assert not idle.closed
        tick(h.worker, waiting.last_activity + 6)
        assert error(app).message == "client_idle_timeout"
        assert not waiting.closed


def test_nothing_is_late_without_limits() -> None:
    """0 means never, which is the default of most."""
    with house({"query_wait_timeout": 0}) as h:
        server, postgres = h.server()
        clients = [h.client(query("begin"))[0], h.client(SELECT)[0], h.client()[0]]
        tick(h.worker, monotonic() + 100_000)
        postgres.send(IN_BLOCK)
        h.turn()
        tick(h.worker, monotonic() + 100_000)
        assert not any(client.closed for client in clients)
        assert not server.closed


async def test_a_check_may_take_only_so_long() -> None:
    """A server that does not answer it is closed; its client goes elsewhere."""
    check = {"server_check_query": "select 1", "server_check_delay": "0s"}
    async with trio.open_nursery() as nursery:
        with house(check, nursery=nursery) as h:
            server, _ = h.server()
            client, _ = h.client(SELECT)
            assert server.task is not None
            tick(h.worker, server.task.since + TASK_TIMEOUT)
            assert not server.closed
            tick(h.worker, monotonic() + TASK_TIMEOUT + TICK)
            assert server.closed
            assert list(h.pool.waiting) == [client]
            nursery.cancel_scope.cancel()


def test_idle_servers_are_closed_after_their_time_but_for_the_kept() -> None:
    """Their permits go back when PostgreSQL has closed its end."""
    with house({"server_idle_timeout": "5s"}) as h:
        server, postgres = h.server()
        kept, _ = h.server(keep=True)
        h.heard()
        tick(h.worker, server.idle_since + 6)
        assert server.closed
        assert not kept.closed
        assert postgres.recv(1) == b""
        assert h.heard() == []
        postgres.close()
        h.turn()
        assert h.heard() == [ServerClosed(server.permit, clean=True)]


def test_a_permit_comes_back_even_if_postgresql_never_closes() -> None:
    """After server_close_timeout, and the acceptor is told that it wasn't clean."""
    with house({"server_close_timeout": "3s"}) as h:
        server, _ = h.server()
        h.heard()
        server.end("test")
        (closing,) = h.worker.closings
        assert isinstance(closing, Closing)
        tick(h.worker, closing.deadline - 0.1)
        assert h.heard() == []
        tick(h.worker, closing.deadline)
        assert h.heard() == [ServerClosed(server.permit, clean=False)]
        assert not h.worker.closings


def test_wants_are_brought_up_to_date() -> None:
    """Changed numbers are told, and nobody's want is withdrawn."""
    with house() as h:
        first, _ = h.client(SELECT)
        second, _ = h.client(SELECT)
        h.heard()
        tick(h.worker, monotonic())
        key = h.pool.key
        assert h.heard() == [Want(key, 2, first.wait_since, False, False)]
        tick(h.worker, monotonic())
        assert h.heard() == []
        for client in (first, second):
            client.leave("test")
        tick(h.worker, monotonic())
        assert Want(key, 0, 0.0, False, False) in h.heard()


@pytest.mark.parametrize(
    ("setting", "database"), [("autodb_idle_timeout", "anything"), ("pool_idle_timeout", "db")]
)
def test_an_unused_pool_is_forgotten(setting: str, database: str) -> None:
    """Names come from clients, so pools of * must have an end; others have one where it is asked for."""
    with house({"autodb_idle_timeout": 0, setting: "50s"}, more=["*"]) as h:
        for name in ("db", "anything"):
            settings = h.worker.config.pool(name, "ann")
            assert settings is not None
            h.worker.pool(settings)
        both = set(h.worker.pools)
        for now in (10.0, 59.9):
            tick(h.worker, now)
            assert set(h.worker.pools) == both
        tick(h.worker, 60.0)
        assert {key.database for key in both - set(h.worker.pools)} == {database}
