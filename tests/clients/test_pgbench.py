"""pgbench: its tables made through the pool, all protocols, pipelines, a connection for each transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.clients.conftest import target_at
from tests.clients.target import CLIENTS, Target, run_program
from tests.fixtures.proxy import ProxyProcess

PIPELINE = r"""
\set who random(1, 100000)
\startpipeline
begin;
update pgbench_accounts set abalance = abalance + 1 where aid = :who;
select abalance from pgbench_accounts where aid = :who;
update pgbench_accounts set abalance = abalance - 1 where aid = :who;
end;
\endpipeline
\startpipeline
select :who + 1;
select :who + 2;
\endpipeline
"""


@pytest.fixture(scope="module")
def bench_tables(versions_proxy: ProxyProcess, postgres: PostgresServer) -> Iterator[None]:
    """pgbench's tables, made in transaction mode: by COPY and VACUUM."""
    target = target_at(versions_proxy, postgres, "transaction")
    run_program(target, [postgres.binaries.tool("pgbench"), "-iq"])
    yield
    names = ("accounts", "branches", "history", "tellers")
    postgres.psql(f"drop table {', '.join(f'pgbench_{name}' for name in names)}")


def bench(
    target: Target, server: PostgresServer, *options: str | Path, transactions: int = 20
) -> None:
    """All transactions of all clients succeed, and the books balance afterwards."""
    # Each client has a thread of its own: preparing blocks a thread.
    sizes = [f"-c{CLIENTS}", f"-j{CLIENTS}", f"-t{transactions}"]
    command = [server.binaries.tool("pgbench"), "-n", *sizes, *options]
    done = run_program(target, command)
    number = CLIENTS * transactions
    assert f"number of transactions actually processed: {number}/{number}" in done.stdout
    assert re.search(r"number of failed transactions: 0 ", done.stdout)
    assert "ERROR" not in done.stderr, done.stderr
    balances = ("accounts:abalance", "branches:bbalance", "tellers:tbalance", "history:delta")
    columns = [balance.split(":") for balance in balances]
    sums = [f"(select coalesce(sum({name}), 0) from pgbench_{table})" for table, name in columns]
    assert len(set(server.psql(f"select {', '.join(sums)}").split("|"))) == 1


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_protocols(
    version_target: Target, postgres: PostgresServer, bench_tables: None, protocol: str
) -> None:
    """tpcb-like and select-only in one run, by each protocol."""
    scripts = ("-btpcb-like@1", "-bselect-only@1")
    bench(version_target, postgres, f"-M{protocol}", *scripts)


@pytest.mark.parametrize("protocol", ["extended", "prepared"])
def test_pipelines(
    version_target: Target,
    postgres: PostgresServer,
    bench_tables: None,
    protocol: str,
    tmp_path: Path,
) -> None:
    """A transaction in a pipeline, and a pipeline without one."""
    script = tmp_path / "pipeline.sql"
    script.write_text(PIPELINE)
    bench(version_target, postgres, f"-M{protocol}", "-f", script)


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_statement_mode(
    versions_proxy: ProxyProcess, postgres: PostgresServer, bench_tables: None, protocol: str
) -> None:
    """select-only by each protocol."""
    target = target_at(versions_proxy, postgres, "statement")
    bench(target, postgres, f"-M{protocol}", "-bselect-only")


def test_reconnecting(version_target: Target, postgres: PostgresServer, bench_tables: None) -> None:
    """A connection for each transaction."""
    bench(version_target, postgres, "-C", "-Mprepared", transactions=5)
