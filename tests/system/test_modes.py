"""When a server connection changes hands: session and transaction pooling."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import (
    FLUSH,
    SYNC,
    TERMINATE,
    ErrorAnswer,
    RawClient,
    message,
    query,
    run,
    startup,
)
from tests.system.support import client, eventually, sample, tables

LOCK = 4711


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """One worker, so that all clients of a pool meet in it."""
    databases = {
        f"{mode}{size}": {"pool_mode": mode, "pool_size": size}
        for mode in ("session", "transaction")
        for size in (1, 3)
    }
    return start_module_proxy(tables(postgres, databases, workers=1))


@pytest.fixture
def table(admin: psycopg.Connection) -> Iterator[str]:
    """An empty table ``visits(who text)``."""
    admin.execute("create table visits (who text)")
    yield "visits"
    admin.execute("drop table visits")


@pytest.fixture
def barrier(admin: psycopg.Connection) -> Iterator[str]:
    """SQL that waits until the fixture's owner has called ``admin.execute(OPEN)``."""
    admin.execute(f"select pg_advisory_lock({LOCK})")
    yield f"select pg_advisory_xact_lock({LOCK})"
    admin.execute(OPEN)


OPEN = f"select pg_advisory_unlock_all() /* {LOCK} */"


def waiting(proxy: ProxyProcess, database: str) -> float:
    return sample(proxy, "poolproxy_pool_clients", database=database, state="waiting")


# -- session -----------------------------------------------------------------------------------------


def test_session_keeps_the_server(proxy: ProxyProcess) -> None:
    """In session mode a client has the same backend for all its queries, and for itself alone."""
    with client(proxy, "session3") as one, client(proxy, "session3") as two:
        first = one.backend()
        assert two.backend() != first
        assert [one.backend() for _ in range(3)] == [first] * 3


def test_session_state_does_not_reach_the_next(proxy: ProxyProcess) -> None:
    """DISCARD ALL between two sessions: temporary tables, settings and cursors are gone."""
    with client(proxy, "session1") as one:
        pid = one.backend()
        one.query("create temp table mine (); set work_mem = '123kB'; listen news")
    with client(proxy, "session1") as two:
        assert two.backend() == pid
        assert two.value("show work_mem") != "123kB"
        assert two.value("select to_regclass('mine')") is None
        assert two.value("select count(*) from pg_listening_channels()") == "0"


def test_session_waits_for_the_session(proxy: ProxyProcess) -> None:
    """A full pool in session mode frees a server only when a client leaves."""
    with client(proxy, "session1") as one, client(proxy, "session1") as two:
        pid = one.backend()
        two.send(query("select pg_backend_pid()"))
        eventually(lambda: waiting(proxy, "session1") == 1, "the second client waits")
        assert one.backend() == pid
        assert two.is_silent()
        one.terminate()
        assert two.results() == [(str(pid),)]


# -- transaction -------------------------------------------------------------------------------------


def test_transaction_shares_between_statements(proxy: ProxyProcess) -> None:
    """In transaction mode clients outside of transactions share one server."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        assert one.backend() == two.backend() == one.backend()


@pytest.mark.parametrize("end", ["commit", "rollback", "end", "abort"])
def test_transaction_keeps_the_server_to_its_end(proxy: ProxyProcess, end: str) -> None:
    """From BEGIN to its end a transaction has its server, and a waiter gets it right afterwards."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.query("begin")
        pid = one.backend()
        assert one.status == "T"
        two.send(query("select pg_backend_pid()"))
        eventually(lambda: waiting(proxy, "transaction1") == 1, "the second client waits")
        assert one.backend() == pid
        assert two.is_silent()
        one.query(end)
        assert two.results() == [(str(pid),)]


def test_failed_transaction_keeps_the_server(proxy: ProxyProcess) -> None:
    """A failed transaction (status E) still belongs to its client until ROLLBACK."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.query("begin")
        with pytest.raises(ErrorAnswer, match="division by zero"):
            one.query("select 1/0")
        assert one.status == "E"
        two.send(query("select 2"))
        eventually(lambda: waiting(proxy, "transaction1") == 1, "the second client waits")
        with pytest.raises(ErrorAnswer, match="25P02"):
            one.query("select 1")
        assert two.is_silent()
        one.query("rollback")
        assert two.results() == [("2",)]


def test_error_outside_of_a_transaction_frees_the_server(proxy: ProxyProcess) -> None:
    """A failed statement leaves nothing behind: the server goes on with the next client."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        pid = one.backend()
        for protocol in (query, lambda sql: run(sql) + SYNC):
            one.send(protocol("select 1/0"))
            with pytest.raises(ErrorAnswer, match="division by zero"):
                one.results()
            assert two.backend() == pid


def test_pipelined_syncs_keep_the_server(
    proxy: ProxyProcess, admin: psycopg.Connection, table: str, barrier: str
) -> None:
    """A pipeline of several Syncs has the server until the answer to its last one."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.pipeline(barrier, "insert into visits values ('a')", "insert into visits values ('b')")
        eventually(lambda: admin.execute(LOCKED).fetchone(), "the pipeline is at work")
        two.send(query("select count(*) from visits"))
        eventually(lambda: waiting(proxy, "transaction1") == 1, "the second client waits")
        admin.execute(OPEN)
        for _ in range(3):
            one.results()
        assert two.results() == [("2",)]


LOCKED = f"select 1 from pg_locks where locktype = 'advisory' and objid = {LOCK} and not granted"


def test_pipeline_of_simple_queries_stays_on_one_server(proxy: ProxyProcess) -> None:
    """Queries sent without waiting for answers are all answered, in order, by one server."""
    with client(proxy, "transaction3") as one, client(proxy, "transaction3") as two:
        two.query("begin")
        one.send(*(query(f"select {i}, pg_backend_pid()") for i in range(20)))
        answers = [one.results()[0] for _ in range(20)]
        assert [answer[0] for answer in answers] == [str(i) for i in range(20)]
        assert len({answer[1] for answer in answers}) == 1


def test_pipeline_goes_on_after_an_error(proxy: ProxyProcess) -> None:
    """An error in one Sync segment of a pipeline does not touch the others."""
    with client(proxy, "transaction1") as one:
        one.pipeline("select 1", "select 1/0", "select 3")
        assert one.results() == [("1",)]
        with pytest.raises(ErrorAnswer, match="division by zero"):
            one.results()
        assert one.results() == [("3",)]
        assert one.value("select 4") == "4"


def test_extended_query_without_sync_keeps_the_server(proxy: ProxyProcess) -> None:
    """Answers fetched by Flush do not end the transaction; Sync does."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.send(run("select 1"), FLUSH)
        one.read_until("C")
        two.send(query("select 2"))
        eventually(lambda: waiting(proxy, "transaction1") == 1, "the second client waits")
        assert two.is_silent()
        one.send(SYNC)
        one.read_until("Z")
        assert two.results() == [("2",)]


def test_pipeline_that_ends_without_sync_keeps_the_server(proxy: ProxyProcess) -> None:
    """What follows the last Sync of a pipeline is a transaction of its own, open until its Sync."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.send(run("select 1"), SYNC, run("select 2"), FLUSH)
        one.read_until("Z")
        one.read_until("C")
        two.send(query("select 3"))
        eventually(lambda: waiting(proxy, "transaction1") == 1, "the second client waits")
        one.send(SYNC)
        one.read_until("Z")
        assert two.results() == [("3",)]


def test_sync_alone_is_answered(proxy: ProxyProcess) -> None:
    """A Sync without anything before it gets its ReadyForQuery, and the server is free again."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.send(SYNC)
        one.read_until("Z")
        assert two.value("select 2") == "2"


def test_empty_query(proxy: ProxyProcess) -> None:
    """An empty query is answered in both protocols."""
    with client(proxy, "transaction1") as one:
        one.send(query(""))
        assert [reply.code for reply in one.read_until("Z")] == ["I", "Z"]
        one.send(run(""), SYNC)
        assert [reply.code for reply in one.read_until("Z")] == ["1", "2", "I", "Z"]


def test_message_in_pieces(proxy: ProxyProcess) -> None:
    """A query that arrives byte by byte is answered as any other."""
    with client(proxy, "transaction1") as one:
        for byte in query("select 'piece by piece'"):
            one.send(bytes([byte]))
        assert one.results() == [("piece by piece",)]


def test_half_a_query_holds_no_server(proxy: ProxyProcess) -> None:
    """A client that has sent half a query does not keep others from the only server."""
    with client(proxy, "transaction1") as slow, client(proxy, "transaction1") as two:
        whole = query("select 'late'")
        slow.send(whole[:9])
        assert two.value("select 2") == "2"
        slow.send(whole[9:])
        assert slow.results() == [("late",)]


def test_large_query_and_large_result(proxy: ProxyProcess) -> None:
    """Megabytes go through in both directions unharmed."""
    with client(proxy, "transaction1") as one:
        size = 3_000_000
        assert one.value(f"select length('{'x' * size}')") == str(size)
        rows = one.query("select repeat(i::text, 1000) from generate_series(10, 3009) i")
        assert rows == [(str(i) * 1000,) for i in range(10, 3010)]


# -- COPY --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_copy_in_keeps_the_server(proxy: ProxyProcess, table: str, protocol: str) -> None:
    """During COPY FROM STDIN the server is the client's; CopyDone ends that."""
    sql = "copy visits from stdin"
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.send(query(sql) if protocol == "simple" else run(sql) + FLUSH)
        one.read_until("G")
        two.send(query("select count(*) from visits"))
        eventually(lambda: waiting(proxy, "transaction1") == 1, "the second client waits")
        one.send(message("d", b"a\n"), message("d", b"b\n"))
        assert two.is_silent()
        one.send(message("c"), SYNC if protocol == "extended" else b"")
        one.read_until("Z")
        assert two.results() == [("2",)]


def test_copy_in_extended_with_everything_ahead(proxy: ProxyProcess, table: str) -> None:
    """Execute, data, CopyDone and Sync in one go, as some drivers send them."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.send(run("copy visits from stdin"), message("d", b"a\n"), message("c"), SYNC)
        one.results()
        assert two.value("select count(*) from visits") == "1"


def test_copy_fail(proxy: ProxyProcess, table: str) -> None:
    """CopyFail ends the COPY with PostgreSQL's error, and the server serves the next."""
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.send(query("copy visits from stdin"))
        one.read_until("G")
        one.send(message("d", b"a\n"), message("f", b"enough\0"))
        with pytest.raises(ErrorAnswer, match="enough"):
            one.results()
        assert two.value("select count(*) from visits") == "0"


def test_copy_data_after_an_error(
    proxy: ProxyProcess, table: str, admin: psycopg.Connection
) -> None:
    """Data that comes after the server has failed the COPY is dropped, and the client goes on."""
    admin.execute("alter table visits add check (who <> 'bad')")
    with client(proxy, "transaction1") as one, client(proxy, "transaction1") as two:
        one.send(query("copy visits from stdin"))
        one.read_until("G")
        one.send(message("d", b"bad\n"), message("c"))
        with pytest.raises(ErrorAnswer, match="violates check"):
            one.results()
        one.send(message("d", b"late\n"), message("d", b"later\n"), message("c"))
        assert one.value("select 1") == "1"
        assert two.value("select count(*) from visits") == "0"


def test_copy_out(proxy: ProxyProcess) -> None:
    """COPY TO STDOUT passes all its rows."""
    with client(proxy, "transaction1") as one:
        one.send(query("copy (select generate_series(1, 50000)) to stdout"))
        replies = one.read_until("Z")
        assert sum(reply.code == "d" for reply in replies) == 50_000


# -- which server ------------------------------------------------------------------------------------


def open_three(proxy: ProxyProcess, database: str) -> list[int]:
    """Make the pool open its three servers; returns their backends in the order of release."""
    clients = [client(proxy, database) for _ in range(3)]
    for one in clients:
        one.query("begin")
    pids = [one.backend() for one in clients]
    for one in clients:
        one.query("commit")
        one.terminate()
    assert len(set(pids)) == 3
    return pids


def test_the_last_used_server_comes_first(proxy: ProxyProcess) -> None:
    """Idle servers are a stack: the one released last is the next to be used."""
    pids = open_three(proxy, "transaction3")
    with client(proxy, "transaction3") as one:
        assert [one.backend() for _ in range(3)] == [pids[-1]] * 3


def test_round_robin(start_proxy: StartProxy, postgres: PostgresServer) -> None:
    """With server_round_robin the servers take turns."""
    databases = {"robin": {"pool_mode": "transaction", "pool_size": 3}}
    proxy = start_proxy(tables(postgres, databases, workers=1, server_round_robin=True))
    pids = open_three(proxy, "robin")
    with client(proxy, "robin") as one:
        assert [one.backend() for _ in range(6)] == pids * 2


def test_waiters_are_served_in_order(proxy: ProxyProcess, table: str) -> None:
    """Clients that wait for the only server get it in the order in which they asked."""
    with client(proxy, "transaction1") as holder:
        holder.query("begin")
        waiters = [client(proxy, "transaction1") for _ in range(5)]
        for number, waiter in enumerate(waiters):
            waiter.send(query(f"insert into visits values ('{number}')"))
            eventually(
                lambda n=number: waiting(proxy, "transaction1") == n + 1, "one more client waits"
            )
        holder.query("commit")
        for waiter in waiters:
            waiter.results()
            waiter.terminate()
        order = holder.query("select who from visits order by ctid")
        assert order == [(str(i),) for i in range(5)]


# -- clients that leave ------------------------------------------------------------------------------


def test_terminate_behind_the_answer_keeps_the_server(proxy: ProxyProcess) -> None:
    """A client that leaves between transactions leaves a usable server."""
    with client(proxy, "transaction1") as one:
        pid = one.backend()
    with client(proxy, "transaction1") as two:
        assert two.backend() == pid


def test_data_before_the_welcome(proxy: ProxyProcess) -> None:
    """A query sent together with the start-up packet is answered after the welcome."""
    with RawClient((proxy.host, proxy.port), log_in=False) as one:
        parameters = {"user": "postgres", "database": "transaction1"}
        one.send(startup(parameters), query("select 'early'"))
        one.read_until("Z")
        assert one.results() == [("early",)]
        one.send(TERMINATE)
        assert one.at_end()
