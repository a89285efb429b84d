"""Named prepared statements through the running program, in transaction and statement mode."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from signal import SIGHUP

import asyncpg
import pg8000.native
import psycopg
import pytest
from psycopg.pq import DiagnosticField, ExecStatus

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import SYNC, Eof, bind, parse, query
from tests.system.support import client, eventually, sample, tables
from tests.wire.prepared_traffic import EXECUTE, ask, column, sqlstates

KEPT = 5  # statements on a server connection: few, so that all of these tests evict
USE = bind("mine") + EXECUTE + SYNC


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Two workers, and pools of two server connections."""
    databases = {
        mode: {"pool_mode": mode, "pool_size": 2}
        for mode in ("transaction", "statement", "session")
    }
    databases["alone"] = {"pool_mode": "transaction", "pool_size": 1}
    return start_module_proxy(tables(postgres, databases, workers=2, max_prepared_statements=KEPT))


@pytest.fixture(params=["transaction", "statement"])
def database(request: pytest.FixtureRequest) -> str:
    """Each mode in which statements are shared."""
    return str(request.param)


def url(proxy: ProxyProcess, database: str) -> str:
    return proxy.url(user="postgres", password="", database=database)


# -- drivers -------------------------------------------------------------------------------------------


def test_asyncpg(proxy: ProxyProcess, database: str) -> None:
    """asyncpg with its statement cache: many connections, each with many statements."""

    async def one(number: int) -> None:
        connection = await asyncpg.connect(url(proxy, database), ssl=False)
        for n in range(60):
            assert (
                await connection.fetchval(f"select $1::int + {n % 12}", number) == number + n % 12
            )
        statement = await connection.prepare("select $1::text")
        assert await statement.fetchval("again") == "again"
        await connection.close()

    async def many() -> None:
        await asyncio.gather(*map(one, range(8)))

    asyncio.run(many())


def test_asyncpg_transactions(proxy: ProxyProcess) -> None:
    """asyncpg in transactions, with cursors, errors and executemany."""

    async def one(number: int) -> None:
        connection = await asyncpg.connect(url(proxy, "transaction"), ssl=False)
        for _ in range(5):
            async with connection.transaction():
                await connection.execute("create temp table pp_many (n int) on commit drop")
                await connection.executemany(
                    "insert into pp_many values ($1)", [(n,) for n in range(9)]
                )
                cursor = connection.cursor("select n from pp_many where n < $1", 5)
                assert len([row async for row in cursor]) == 5
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("select 1 / $1::int", 0)
            assert await connection.fetchval("select $1::int", number) == number
        await connection.close()

    async def many() -> None:
        await asyncio.gather(*map(one, range(6)))

    asyncio.run(many())


def test_psycopg(proxy: ProxyProcess, database: str) -> None:
    """psycopg that prepares everything at once, and throws its oldest statements away."""

    def one(number: int) -> None:
        with psycopg.connect(
            url(proxy, database), autocommit=True, sslmode="disable", prepare_threshold=0
        ) as connection:
            connection.prepared_max = 7
            for n in range(60):
                row = connection.execute(f"select %s::int + {n % 12}", [number]).fetchone()
                assert row == (number + n % 12,)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(one, range(6)))


def fail_amid(connection: psycopg.Connection) -> None:
    """A pipeline whose second statement fails."""
    with connection.pipeline():
        connection.execute("select %s::int", [1])
        connection.execute("select 1 / %s::int", [0])
        connection.execute("select %s::int", [2])


def test_psycopg_pipelines(proxy: ProxyProcess) -> None:
    """psycopg's pipeline mode with prepared statements: results in order, errors where they belong."""

    def one(number: int) -> None:
        with psycopg.connect(
            url(proxy, "transaction"), autocommit=True, sslmode="disable", prepare_threshold=0
        ) as connection:
            for _ in range(10):
                with connection.pipeline():
                    cursors = [
                        connection.execute(f"select %s::int * {n}", [number]) for n in range(9)
                    ]
                assert [cursor.fetchone() for cursor in cursors] == [
                    (number * n,) for n in range(9)
                ]
                with pytest.raises(psycopg.errors.DivisionByZero):
                    fail_amid(connection)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(one, range(6)))


def test_pg8000(proxy: ProxyProcess, database: str) -> None:
    """pg8000's prepared statements, several at once."""

    def one(number: int) -> None:
        connection = pg8000.native.Connection(
            "postgres", host=proxy.host, port=proxy.port, database=database
        )
        statements = [connection.prepare(f"select cast(:v as int) + {n}") for n in range(8)]
        for _ in range(5):
            for n, statement in enumerate(statements):
                assert statement.run(v=number) == [[number + n]]
        for statement in statements:
            statement.close()
        connection.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, range(4)))


@pytest.fixture(scope="module")
def bench_tables(postgres: PostgresServer, admin: psycopg.Connection) -> Iterator[None]:
    """pgbench's tables."""
    command = [str(postgres.binaries.tool("pgbench")), "-iq", postgres.url()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    yield
    admin.execute("drop table pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers")


@pytest.mark.parametrize(
    ("database", "script"),
    [("transaction", "tpcb-like"), ("transaction", "select-only"), ("statement", "select-only")],
)
def test_pgbench(
    proxy: ProxyProcess, postgres: PostgresServer, bench_tables: None, database: str, script: str
) -> None:
    """pgbench --protocol=prepared with 32 clients on two server connections, without an error."""
    tool = str(postgres.binaries.tool("pgbench"))
    # A thread each: PQprepare blocks, and would wait for servers that the same thread's clients hold.
    command = [tool, "-n", "-M", "prepared", "-b", script, "-c", "32", "-j", "32", "-t", "20"]
    done = subprocess.run(
        [*command, url(proxy, database)], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    assert "640/640" in done.stdout


# -- messages ------------------------------------------------------------------------------------------


def test_session_mode_is_untouched(proxy: ProxyProcess) -> None:
    """In session mode PostgreSQL has the statements by the clients' own names."""
    with client(proxy, "session") as one:
        ask(one.sock, parse("mine", "select 7") + SYNC)
        assert one.query("select name from pg_prepared_statements") == [("mine",)]
        assert one.query("execute mine") == [("7",)]


def test_large_bind(proxy: ProxyProcess) -> None:
    """A Bind of several megabytes goes through to a server that lacks the statement."""
    with client(proxy, "transaction") as one:
        ask(one.sock, parse("mine", "select length($1)") + SYNC)
        large = bind("mine", b"x" * 3_000_000) + EXECUTE + SYNC
        assert column(ask(one.sock, large)) == ["3000000"]


def test_reader_that_is_late(proxy: ProxyProcess) -> None:
    """A pipeline larger than what is kept of a client, sent before any of its results is read."""
    count, size = 1500, 20_000
    with client(proxy, "transaction") as one:
        one.send(
            *(
                parse(str(n), f"select repeat('x', {size})") + SYNC + bind(str(n)) + EXECUTE + SYNC
                for n in range(count)
            )
        )
        seen = [reply.code for _ in range(2 * count) for reply in one.read_until("Z")]
        assert seen.count("D") == count
        assert one.value("select 1") == "1"


def test_names_do_not_mix(proxy: ProxyProcess, database: str) -> None:
    """Two clients use one name for two statements."""
    with client(proxy, database) as one, client(proxy, database) as two:
        ask(one.sock, parse("mine", "select 1") + SYNC)
        ask(two.sock, parse("mine", "select 2") + SYNC)
        for _ in range(5):
            assert column(ask(one.sock, USE)) == ["1"]
            assert column(ask(two.sock, USE)) == ["2"]


def test_deallocate_by_sql(proxy: ProxyProcess, database: str) -> None:
    """psycopg's pipelines send DEALLOCATE by the extended protocol; others by a simple query."""
    with psycopg.connect(url(proxy, database), autocommit=True) as connection:
        pgconn = connection.pgconn
        for by in (pgconn.exec_, partial(pgconn.exec_params, param_values=None)):
            assert pgconn.prepare(b"mine", b"select 1").status == ExecStatus.COMMAND_OK
            assert by(b"deallocate mine").command_status == b"DEALLOCATE"
            assert by(b"deallocate mine").error_field(DiagnosticField.SQLSTATE) == b"26000"


def test_one_server_takes_turns(proxy: ProxyProcess) -> None:
    """More statements than a server keeps, from two clients on one server: all work all the time."""
    with client(proxy, "alone") as one, client(proxy, "alone") as two:
        for each in (one, two):
            for n in range(2 * KEPT):
                ask(each.sock, parse(str(n), f"select {n}") + SYNC)
        for n in range(2 * KEPT):
            for each in (one, two):
                assert column(ask(each.sock, bind(str(n)) + EXECUTE + SYNC)) == [str(n)]
        kept = one.value("select count(*) from pg_prepared_statements")
        assert int(kept or 0) <= KEPT


@pytest.mark.parametrize(
    "behind", [("deallocate all", b""), ("deallocate all", SYNC), ("discard all", SYNC)]
)
def test_first_name_behind_the_end_of_all(proxy: ProxyProcess, behind: tuple[str, bytes]) -> None:
    """A client's first statement, pipelined behind what takes all from the server, which had it, is there."""
    sql, sync = behind
    with client(proxy, "alone") as one, client(proxy, "alone") as two:
        assert column(ask(one.sock, parse("mine", "select 41") + USE)) == ["41"]
        batch = parse("", sql) + bind("") + EXECUTE + sync + parse("mine", "select 41") + USE
        assert column(ask(two.sock, batch)) == ["41"]
        assert column(ask(two.sock, USE)) == ["41"]
        assert column(ask(one.sock, USE)) == ["41"]


@pytest.mark.parametrize("rest", [b"", bind("mine")[:9], b"B", parse("other", "x" * 300)[:200]])
def test_client_that_leaves(proxy: ProxyProcess, rest: bytes) -> None:
    """A client that is gone amid a message, or while it waits for a server, leaves nothing behind."""
    with client(proxy, "alone") as holder:
        holder.query("begin")
        leaver = client(proxy, "alone")
        leaver.send(parse("mine", "select 1") + USE + SYNC + rest)
        eventually(
            lambda: sample(proxy, "poolproxy_pool_clients", database="alone", state="waiting"),
            "the client waits",
        )
        leaver.close()
        holder.query("commit")
    with client(proxy, "alone") as other:
        ask(other.sock, parse("mine", "select 2") + SYNC)
        assert column(ask(other.sock, USE)) == ["2"]


def test_terminate_behind_a_pipeline(proxy: ProxyProcess) -> None:
    """What stands before Terminate is done, then the connection is closed."""
    one = client(proxy, "alone")
    one.send(parse("mine", "select 1") + USE + b"X\0\0\0\4")
    with pytest.raises(Eof):
        one.read_until("none")
    one.close()
    with client(proxy, "alone") as other:
        assert other.value("select 1") == "1"


def test_slow_message_holds_no_server(proxy: ProxyProcess) -> None:
    """A client that has sent a message only in part leaves the one server to others."""
    with client(proxy, "alone") as slow, client(proxy, "alone") as other:
        ask(slow.sock, parse("mine", "select 1") + SYNC)
        for end in (1, 4, 5, 9):
            slow.send(USE[:end])
            assert other.value("select 1") == "1"
            slow.send(USE[end:])
            assert column([(r.code, r.body) for r in slow.read_until("Z")]) == ["1"]


def test_counters(proxy: ProxyProcess) -> None:
    """Parses of clients, Parses on servers and Binds are counted; unnamed ones are not."""
    names = [f"poolproxy_pool_{name}_total" for name in ("client_parses", "server_parses", "binds")]

    def counts() -> list[float]:
        return [sample(proxy, name, database="alone") for name in names]

    with client(proxy, "alone") as one, client(proxy, "alone") as two:
        before = counts()
        for each in (one, two):
            ask(each.sock, parse("mine", "select 'counted'") + SYNC)
            each.pipeline("select 1")
            each.results()
        ask(one.sock, USE)
        parses, on_servers, binds = (a - b for a, b in zip(counts(), before, strict=True))
        assert (parses, binds) == (2, 1)
        assert on_servers in (1, 2, 3)  # the server may have moved between the workers


# -- max_prepared_statements ---------------------------------------------------------------------------


def test_switched_off_and_on(start_proxy: StartProxy, postgres: PostgresServer) -> None:
    """With 0 names are left to PostgreSQL; switched on again, connected clients' statements work."""

    def config(limit: int) -> dict[str, object]:
        databases = {"db": {"pool_mode": "transaction", "pool_size": 1}}
        return tables(postgres, databases, workers=1, max_prepared_statements=limit)

    proxy = start_proxy(config(200))

    def reload(limit: int, count: int) -> None:
        proxy.write_config(config(limit))
        proxy.signal(SIGHUP)
        eventually(lambda: proxy.log.count("configuration reloaded") == count, "reloaded")
        proxy.metrics()  # its answer comes behind the configuration

    with client(proxy, "db") as old:
        ask(old.sock, parse("mine", "select 1") + SYNC)
        reload(0, 1)
        with client(proxy, "db") as new:
            for each in (old, new):
                assert sqlstates(ask(each.sock, USE)) == ["26000"]
            begin = query("begin") + parse("plain", "select 3") + bind("plain") + EXECUTE + SYNC
            assert column(ask(new.sock, begin)) == ["3"]
            assert new.query("select name from pg_prepared_statements") == [("plain",)]
            new.query("rollback; deallocate plain")
            reload(200, 2)
            assert column(ask(old.sock, USE)) == ["1"]
            ask(new.sock, parse("mine", "select 2") + SYNC)
            assert column(ask(new.sock, USE)) == ["2"]
