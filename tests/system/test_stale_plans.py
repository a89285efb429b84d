"""Prepared statements whose tables are changed under them, through the running program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import asyncpg
import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import (
    FLUSH,
    SYNC,
    RawClient,
    bind,
    call,
    close,
    describe,
    parse,
    query,
    run,
)
from tests.system.support import client, eventually, tables
from tests.wire.prepared_traffic import EXECUTE, ask, sqlstates

USE = bind("mine") + EXECUTE + SYNC


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Two workers, and pools of two server connections."""
    databases = {mode: {"pool_mode": mode, "pool_size": 2} for mode in ("transaction", "statement")}
    databases["alone"] = {"pool_mode": "transaction", "pool_size": 1}
    return start_module_proxy(tables(postgres, databases, workers=2))


@pytest.fixture(params=["transaction", "statement"])
def database(request: pytest.FixtureRequest) -> str:
    """Each mode in which statements are shared."""
    return str(request.param)


@pytest.fixture
def widened(admin: psycopg.Connection) -> Iterator[Callable[[], object]]:
    """Adds a column to the table of this name."""
    admin.execute("create table widened as select 1 as one")
    yield partial(admin.execute, "alter table widened add two int default 2")
    admin.execute("drop table widened")


DESCRIBED_USE = bind("mine") + describe("", "P") + EXECUTE + SYNC


def test_ddl_under_statements(
    proxy: ProxyProcess, database: str, widened: Callable[[], object]
) -> None:
    """ALTER TABLE under a prepared select *: clients that are told the columns each time see no error."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client(proxy, database)) for _ in range(12)]
        for each in clients:
            ask(each.sock, parse("mine", "select * from widened") + SYNC)
            ask(each.sock, DESCRIBED_USE)
        before = clients[0].value("select pg_backend_pid()")
        widened()
        for _ in range(3):
            for each in clients:
                answers = ask(each.sock, DESCRIBED_USE)
                assert [code for code, _ in answers] == ["2", "T", "D", "C", "Z"], answers
                assert dict(answers)["D"].startswith(b"\0\2")
        pids = {each.value("select pg_backend_pid()") for each in clients}
        assert before in pids  # no server connection was lost


def test_ddl_under_described_statements(
    proxy: ProxyProcess, database: str, widened: Callable[[], object]
) -> None:
    """A client that keeps what it was told sees PostgreSQL's error once, wherever it is served, or prepares
    anew.
    """
    with ExitStack() as stack:
        clients = [stack.enter_context(client(proxy, database)) for _ in range(12)]
        make = parse("mine", "select * from widened") + describe("mine") + SYNC
        for each in clients:
            ask(each.sock, make)
            ask(each.sock, USE)
        widened()
        for each in clients[:6]:
            failed = [sqlstates(ask(each.sock, USE)) for _ in range(6)]
            assert [one for one in failed if one] == [["0A000"]]
        for each in clients[6:]:
            assert sqlstates(ask(each.sock, USE)) == ["0A000"]
            ask(each.sock, close("mine") + make)
            assert not any(sqlstates(ask(each.sock, USE)) for _ in range(6))


def test_ddl_in_a_transaction(proxy: ProxyProcess, widened: Callable[[], object]) -> None:
    """Within a transaction nothing can be repeated: PostgreSQL's error comes, once."""
    with client(proxy, "alone") as one:
        ask(one.sock, parse("mine", "select * from widened") + SYNC + DESCRIBED_USE)
        widened()
        answers = ask(one.sock, query("begin") + DESCRIBED_USE + query("rollback"))
        assert sqlstates(answers) == ["0A000"]
        assert not sqlstates(ask(one.sock, query("begin") + DESCRIBED_USE + query("commit")))


def test_ddl_under_drivers(
    proxy: ProxyProcess, database: str, widened: Callable[[], object]
) -> None:
    """psycopg and asyncpg, each with its own way to prepare, see no error."""

    async def use(many: list[asyncpg.Connection]) -> None:
        for each in many:
            assert len(await each.fetchrow("select * from widened") or ()) in (1, 2)

    url = proxy.url(user="postgres", password="", database=database)

    async def talk() -> None:
        many = [await asyncpg.connect(url) for _ in range(4)]
        with ExitStack() as stack:
            connect = partial(psycopg.connect, url, autocommit=True)
            others = [stack.enter_context(connect()) for _ in range(4)]
            for round_ in range(4):
                await use(many)
                for each in others:
                    each.execute("select * from widened", prepare=True)
                if round_ == 1:
                    widened()
        for each in many:
            await each.close()

    asyncio.run(talk())


# -- a pipeline ----------------------------------------------------------------------------------------


@pytest.fixture
def waiting_plan(
    proxy: ProxyProcess, postgres: PostgresServer, admin: psycopg.Connection, widened: object
) -> Iterator[tuple[RawClient, Callable[[], object]]]:
    """A client that has prepared its statement, whose next use waits for the table; and what changes the
    table and lets it go on, when the client does wait.
    """

    def let_go() -> None:
        waiting = "select from pg_locks where relation = 'widened'::regclass and not granted"
        eventually(lambda: admin.execute(waiting).fetchall(), "the statement waits for its table")
        holder.execute("alter table widened add two int default 2")
        holder.commit()

    with psycopg.connect(postgres.url()) as holder, client(proxy, "alone") as one:
        ask(one.sock, parse("mine", "select * from widened") + SYNC)
        assert not sqlstates(ask(one.sock, DESCRIBED_USE))  # of the table as it is
        holder.execute("lock table widened")
        yield one, let_go


@pytest.fixture
def count(admin: psycopg.Connection) -> Iterator[Callable[[], int]]:
    """How often the sequence ``counted`` has been taken from."""

    def taken() -> int:
        sql = "select last_value - (not is_called)::int from counted"
        return int((admin.execute(sql).fetchone() or (0,))[0])

    admin.execute("create sequence counted")
    yield taken
    admin.execute("drop sequence counted")


NEXTVAL = 1574  # nextval(regclass)


@pytest.mark.parametrize(
    "before",
    [
        query("select nextval('counted')"),
        run("select nextval('counted')") + SYNC,
        parse("count", "select nextval('counted')") + bind("count") + EXECUTE + SYNC,
        call(NEXTVAL, b"counted"),
    ],
    ids=["query", "unnamed", "named", "function"],
)
def test_a_pipeline_is_not_executed_twice(
    waiting_plan: tuple[RawClient, Callable[[], object]], count: Callable[[], int], before: bytes
) -> None:
    """A stale plan behind what has been answered already is told to the client: to ask for it all once more
    would do the former twice.
    """
    one, let_go = waiting_plan
    one.send(before, DESCRIBED_USE)
    one.read_until("Z")
    let_go()
    assert [reply.code for reply in one.read_until("Z")] == ["E", "Z"]
    assert [code for code, _ in ask(one.sock, DESCRIBED_USE)] == ["2", "T", "D", "C", "Z"]
    assert count() == 1


def test_a_flushed_answer_is_not_given_twice(
    waiting_plan: tuple[RawClient, Callable[[], object]],
) -> None:
    """So it is within one segment: what a Flush has brought out comes once."""
    one, let_go = waiting_plan
    one.send(run("select 'flushed'"), FLUSH)
    assert [reply.code for reply in one.read_until("C")] == ["1", "2", "D", "C"]
    one.send(DESCRIBED_USE)
    let_go()
    assert [reply.code for reply in one.read_until("Z")] == ["E", "Z"]
    assert not sqlstates(ask(one.sock, DESCRIBED_USE))
