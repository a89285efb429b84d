"""Replication connections: each has a server of its own, in every pool mode."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolproxy.demo.binaries import Binaries
from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.consoles import give
from tests.system.protocol_client import (
    Eof,
    ErrorAnswer,
    RawClient,
    message,
    query,
    refusal,
    startup,
)
from tests.system.support import client, eventually, is_running, sample, tables

MODES = ("transaction", "session", "statement")
STANDBY_STATUS = b"r" + bytes(33)
COPY_DONE = message("c")


@pytest.fixture(scope="module")
def primary(postgres_binaries: Binaries) -> Iterator[PostgresServer]:
    """A server that can be replicated from, also logically."""
    settings = {"wal_level": "logical", "max_connections": 60}
    hba = ["host replication all 127.0.0.1/32 scram-sha-256"]
    with PostgresServer(postgres_binaries, settings=settings, hba=hba) as server:
        server.psql("create table t (a int); create role plain login password 'secret'")
        yield server


@pytest.fixture(scope="module")
def watcher(primary: PostgresServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        yield connection


def config(primary: PostgresServer, **proxy: object) -> dict[str, Any]:
    databases = {mode: {"pool_mode": mode, "pool_size": 2} for mode in MODES}
    # The name that PostgreSQL's tools give to the database of a physical replication connection.
    databases["replication"] = {"pool_size": 5}
    return tables(
        primary,
        databases,
        {"plain": {"password": "secret"}, "boss": {}},
        workers=2,
        admin_users=["boss"],
        **proxy,
    )


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, primary: PostgresServer) -> ProxyProcess:
    return start_module_proxy(config(primary, query_timeout="1s", idle_transaction_timeout="1s"))


def walsenders(watcher: psycopg.Connection) -> int:
    sql = "select count(*) from pg_stat_activity where backend_type = 'walsender'"
    row = watcher.execute(sql).fetchone()
    assert row is not None
    return int(row[0])


def backends(watcher: psycopg.Connection) -> int:
    """All server connections but the watcher's own."""
    sql = (
        "select count(*) from pg_stat_activity where pid <> pg_backend_pid()"
        " and backend_type in ('walsender', 'client backend')"
    )
    row = watcher.execute(sql).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def started(
    proxy: ProxyProcess, primary: PostgresServer, name: str, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """A program of PostgreSQL's, connected to the proxy; killed at the end if it still runs."""
    where = ["-h", proxy.host, "-p", str(proxy.port), "-U", "postgres"]
    process = subprocess.Popen(
        [primary.binaries.tool(name), *where, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def done(process: subprocess.Popen[str]) -> str:
    """What it has printed by its successful end."""
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def run(proxy: ProxyProcess, primary: PostgresServer, name: str, *arguments: str) -> str:
    with started(proxy, primary, name, *arguments) as process:
        return done(process)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["database", "true"])
def test_commands(
    proxy: ProxyProcess, primary: PostgresServer, watcher: psycopg.Connection, mode: str, kind: str
) -> None:
    """The client talks to a walsender of its own, whose process id it is told, until it leaves."""
    with client(proxy, mode, replication=kind, application_name="mine") as one:
        system, _, lsn, database = one.query("IDENTIFY_SYSTEM")[0]
        assert system == primary.psql("select system_identifier from pg_control_system()")
        assert lsn
        assert database == ("postgres" if kind == "database" else None)
        row = watcher.execute(
            "select backend_type, application_name from pg_stat_activity where pid = %s",
            [one.key[0]],
        ).fetchone()
        assert row == ("walsender", "mine")
        shown = {"database": "logical", "true": "physical"}[kind]
        for show in ("clients", "servers"):
            rows = [r for r in give(proxy, f"show {show}") if r["application_name"] == "mine"]
            assert [r["replication"] for r in rows] == [shown]
        assert one.value("SHOW wal_level") == "logical"
        if kind == "database":
            assert one.value("select pg_backend_pid()") == str(one.key[0])
            one.query("begin")
            one.query("set local work_mem = '1MB'")
            assert one.value("show work_mem") == "1MB"
            one.query("commit")
        with client(proxy, mode) as other:
            assert other.backend() != one.key[0]
    eventually(lambda: not walsenders(watcher), "the walsender ends with its client")


def test_psql(proxy: ProxyProcess, primary: PostgresServer) -> None:
    """replication in a connection string."""
    target = "dbname=transaction replication=database options='-c application_name=psql'"
    output = run(proxy, primary, "psql", "-XAt", "-c", "IDENTIFY_SYSTEM", "-d", target)
    assert output.endswith("|postgres\n")


def test_every_start_up_parameter_goes_with_it(proxy: ProxyProcess) -> None:
    """They are in the server's own start-up packet."""
    parameters = {"options": "-c work_mem=3MB -c my.tenant=x", "TimeZone": "Asia/Tokyo"}
    with client(proxy, "transaction", replication="database", **parameters) as one:
        assert one.parameters["TimeZone"] == "Asia/Tokyo"
        assert one.value("show work_mem") == "3MB"
        one.query("set work_mem = '5MB'")
        one.query("reset work_mem")
        assert one.value("show work_mem") == "3MB"
        assert one.value("show my.tenant") == "x"


@pytest.mark.parametrize("mode", MODES)
def test_streaming(proxy: ProxyProcess, watcher: psycopg.Connection, mode: str) -> None:
    """Both sides send CopyData at once, for longer than a query may take, and end it one by one."""
    with client(proxy, mode, replication="database") as one:
        one.query("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL test_decoding")
        one.send(query("START_REPLICATION SLOT s LOGICAL 0/0"))
        assert one.read().code == "W"
        for number in range(3):
            one.send(message("d", STANDBY_STATUS))
            watcher.execute("insert into t values (%s)", [number])
            assert f"a[integer]:{number}" in changes_up_to_commit(one)
        watcher.execute("select pg_sleep(1.3)")
        watcher.execute("insert into t select 7 from generate_series(1, 2000)")
        assert changes_up_to_commit(one).count("a[integer]:7") == 2000
        one.send(COPY_DONE)
        codes = [reply.code for reply in one.read_until("Z") if reply.code != "d"]
        assert codes[0] == "c"
        assert codes[-1] == "Z"
        assert one.query("IDENTIFY_SYSTEM")
        one.send(query("START_REPLICATION SLOT s LOGICAL 0/0"))
        assert one.read().code == "W"
    eventually(lambda: not walsenders(watcher), "the walsender ends with its client")


def changes_up_to_commit(one: RawClient) -> str:
    text = ""
    while "COMMIT" not in text[-40:]:
        reply = one.read()
        assert reply.code == "d"
        if reply.body.startswith(b"w"):
            text += reply.body[25:].decode() + "\n"
    return text


def test_cancel(proxy: ProxyProcess, watcher: psycopg.Connection) -> None:
    """A cancel request ends what a walsender does."""
    with client(proxy, "transaction", replication="database") as one:
        one.send(query("select pg_sleep(60)"))
        sql = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
        eventually(lambda: watcher.execute(sql, [one.key[0]]).fetchone(), "it sleeps")
        with RawClient((proxy.host, proxy.port), log_in=False) as canceller:
            canceller.send(
                (16).to_bytes(4, "big")
                + (80877102).to_bytes(4, "big")
                + one.key[0].to_bytes(4, "big")
                + one.key[1]
            )
            assert canceller.at_end()
        with pytest.raises(ErrorAnswer, match="57014"):
            one.results()
        assert one.query("IDENTIFY_SYSTEM")


def test_pg_receivewal(
    proxy: ProxyProcess, primary: PostgresServer, watcher: psycopg.Connection, tmp_path: Path
) -> None:
    """Physical streaming through the proxy follows the server."""
    watcher.execute("select pg_create_physical_replication_slot('wal', true)")
    options = ["-D", str(tmp_path), "-S", "wal", "--synchronous"]
    with started(proxy, primary, "pg_receivewal", *options) as process:
        eventually(lambda: walsenders(watcher), "it streams")
        lsn = watcher.execute("insert into t values (1) returning pg_current_wal_lsn()").fetchone()
        sql = "select 1 from pg_stat_replication where flush_lsn >= %s"
        eventually(lambda: watcher.execute(sql, lsn).fetchone(), "what was written has arrived")
        watcher.execute("select pg_switch_wal()")
        eventually(lambda: any(len(f.name) == 24 for f in tmp_path.iterdir()), "a whole segment")
        process.send_signal(signal.SIGINT)
        done(process)
    eventually(lambda: not walsenders(watcher), "the walsender ends")
    watcher.execute("select pg_drop_replication_slot('wal')")


def test_pg_recvlogical(
    proxy: ProxyProcess, primary: PostgresServer, watcher: psycopg.Connection, tmp_path: Path
) -> None:
    """Logical decoding by PostgreSQL's own client."""
    slot = ["-d", "statement", "-S", "logical"]
    run(proxy, primary, "pg_recvlogical", *slot, "--create-slot")
    file = tmp_path / "changes"
    options = [*slot, "--start", "-f", str(file), "-F", "1", "-s", "1"]
    with started(proxy, primary, "pg_recvlogical", *options) as process:
        watcher.execute("insert into t values (4711)")
        eventually(lambda: file.exists() and "4711" in file.read_text(), "the change has arrived")
        process.send_signal(signal.SIGINT)
        done(process)
    run(proxy, primary, "pg_recvlogical", *slot, "--drop-slot")


def test_pg_basebackup(proxy: ProxyProcess, primary: PostgresServer, tmp_path: Path) -> None:
    """Two connections at once, one of which streams WAL; a tar of 20 MB and more is whole."""
    folder = tmp_path / "backup"
    options = ["-D", str(folder), "-X", "stream", "-c", "fast", "-Ft"]
    run(proxy, primary, "pg_basebackup", *options)
    assert (folder / "base.tar").stat().st_size > 20_000_000
    assert (folder / "pg_wal.tar").exists()


def test_a_client_that_leaves_amid_a_backup(
    proxy: ProxyProcess, watcher: psycopg.Connection
) -> None:
    """The server is not read to its end: the backup is cancelled."""
    one = client(proxy, "replication", replication="true")
    one.send(query("BASE_BACKUP (CHECKPOINT 'fast')"))
    assert one.read_until("H")
    one.close()
    eventually(lambda: not walsenders(watcher), "the walsender ends")


def test_the_pools_limit_counts_them(
    start_proxy: StartProxy, primary: PostgresServer, watcher: psycopg.Connection
) -> None:
    """Idle servers make way for them, busy ones don't; who comes when all are taken waits."""
    proxy = start_proxy(config(primary))
    before = backends(watcher)
    with client(proxy, "transaction") as plain, client(proxy, "transaction") as other:
        plain.query("begin")
        pids = [plain.backend(), other.backend()]
        assert backends(watcher) - before == 2
        with client(proxy, "transaction", replication="true") as one:
            assert backends(watcher) - before == 2
            assert is_running(watcher, pids[0])
            assert not is_running(watcher, pids[1])
            waiting = RawClient((proxy.host, proxy.port), log_in=False)
            asked = {"user": "postgres", "database": "transaction", "replication": "true"}
            waiting.send(startup(asked))
            eventually(
                lambda: sample(proxy, "poolproxy_pool_max_wait_seconds", database="transaction"),
                "it waits",
            )
            plain.query("commit")
            waiting.read_until("Z")
            assert not is_running(watcher, pids[0])
            assert one.query("IDENTIFY_SYSTEM")
            assert waiting.query("IDENTIFY_SYSTEM")
            assert backends(watcher) - before == 2
            other.send(query("select 'served at last'"))
            waiting.terminate()
            assert other.results() == [("served at last",)]
        assert plain.value("select 1") == "1"
        assert backends(watcher) - before <= 2


def test_who_may_not_replicate(proxy: ProxyProcess) -> None:
    """PostgreSQL's own words; ordinary clients of the same user go on being served."""
    for database in ("transaction", "session"):
        with client(proxy, database, "plain") as one:
            error = refusal((proxy.host, proxy.port), database, "plain", replication="true")
            assert error.sqlstate in ("42501", "28000")
            assert "poolproxy" in error.hint
            assert one.value("select 1") == "1"
        with client(proxy, database, "plain") as two:
            assert two.value("select 2") == "2"
    error = refusal(
        (proxy.host, proxy.port), "session", "postgres", replication="database", geqo="maybe"
    )
    assert (error.sqlstate, error.message) == (
        "22023",
        'parameter "geqo" requires a Boolean value',
    )


def test_a_server_that_dies(proxy: ProxyProcess, watcher: psycopg.Connection) -> None:
    """The client is told and can connect again."""
    with client(proxy, "session", replication="database") as one:
        one.send(query("select pg_sleep(60)"))
        watcher.execute("select pg_terminate_backend(%s)", [one.key[0]])
        with pytest.raises((ErrorAnswer, Eof)):
            one.results()
    with client(proxy, "session", replication="database") as one:
        assert one.query("IDENTIFY_SYSTEM")


def test_a_reload_that_moves_the_database(
    start_proxy: StartProxy, primary: PostgresServer, watcher: psycopg.Connection
) -> None:
    """Their clients must connect again, as what they follow is no longer the database; others stay."""
    tables_ = config(primary)
    proxy = start_proxy(tables_)
    with (
        client(proxy, "transaction", replication="true") as moved,
        client(proxy, "session", replication="true") as other,
    ):
        tables_["databases"]["transaction"]["dbname"] = "template1"
        proxy.write_config(tables_)
        proxy.signal(signal.SIGHUP)
        assert moved.read().error().message == "database configuration changed"
        assert moved.at_end()
        assert other.query("IDENTIFY_SYSTEM")


def test_leaving(start_proxy: StartProxy, primary: PostgresServer) -> None:
    """SIGINT does not wait for connections that have no end."""
    proxy = start_proxy(config(primary))
    with client(proxy, "transaction", replication="true") as one:
        assert one.query("IDENTIFY_SYSTEM")
        assert proxy.stop(signal.SIGINT) == 0
