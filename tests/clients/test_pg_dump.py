"""pg_dump and pg_restore in session mode: plain, custom and directory format, and in parallel with
synchronized snapshots. What was restored through the pool has the same content.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.clients.conftest import target_at
from tests.clients.target import RESTORED, SERVERS, Target, run_program
from tests.fixtures.proxy import ProxyProcess

SCHEMA = "matrix_dumped"
# The leader has a connection besides those of its jobs.
JOBS = f"-j{SERVERS - 1}"
CONTENT = r"""
create schema matrix_dumped;
set search_path = matrix_dumped;
create type mood as enum ('glad', 'sad');
create domain positive as int check (value > 0);
create table person (id serial primary key, name text not null unique, mood mood, size positive);
comment on table person is 'People, and how they "are"';
insert into person (name, mood, size)
  select E'name\t' || i, case i % 3 when 0 then null when 1 then 'glad' else 'sad' end::mood, i
  from generate_series(1, 3000) i;
create table visit (who int references person, at timestamptz, note bytea) partition by range (at);
create table visit_old partition of visit for values from (minvalue) to ('2020-01-01');
create table visit_new partition of visit for values from ('2020-01-01') to (maxvalue);
insert into visit select i, timestamptz '2015-01-01 UTC' + i * interval '1 day', int4send(i)
  from generate_series(1, 3000) i;
create index on visit (at);
create view glad as select name from person where mood = 'glad';
create materialized view sums as select mood, sum(size) from person group by mood;
create function twice(i int) returns int language sql as 'select 2 * i';
create function stamp() returns trigger language plpgsql as $$ begin new.size := 7; return new; end $$;
create trigger stamped before update on person for each row execute function stamp();
select lo_from_bytea(4712, 'a large object');
"""


@pytest.fixture(scope="module")
def session(versions_proxy: ProxyProcess, postgres: PostgresServer) -> Iterator[Target]:
    """Session mode; in the database there is something of many kinds."""
    postgres.psql(CONTENT)
    yield target_at(versions_proxy, postgres, "session")
    postgres.psql(f"drop schema {SCHEMA} cascade; select lo_unlink(4712)")


@pytest.fixture
def restored(versions_proxy: ProxyProcess, postgres: PostgresServer) -> Iterator[Target]:
    """An empty database."""
    postgres.psql(f"create database {RESTORED}")
    yield target_at(versions_proxy, postgres, RESTORED)
    postgres.psql(f"drop database {RESTORED} with (force)")


def dump(target: Target, server: PostgresServer, *options: str | Path) -> str:
    """Dump the schema and large objects; the output."""
    tool = server.binaries.tool("pg_dump")
    return run_program(target, [tool, "-n", SCHEMA, "-b", *options]).stdout


def content(server: PostgresServer, database: str) -> list[str]:
    """What a direct pg_dump prints, without the key that is another each time."""
    lines = dump(target_at(server, server, database), server).splitlines()
    return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))]


def test_plain(session: Target, restored: Target, postgres: PostgresServer) -> None:
    """A script of pg_dump, run by psql in one transaction."""
    script = dump(session, postgres)
    psql = [postgres.binaries.tool("psql"), "-XqAt1", "-v", "ON_ERROR_STOP=1"]
    run_program(restored, psql, text=script)
    assert content(postgres, RESTORED) == content(postgres, "postgres")


def test_custom(
    session: Target, restored: Target, postgres: PostgresServer, tmp_path: Path
) -> None:
    """The custom format, as INSERTs, restored twice: the second time over the first."""
    dump(session, postgres, "-Fc", "--rows-per-insert=500", "-f", tmp_path / "dump")
    restore = [postgres.binaries.tool("pg_restore"), "-e", "-d", RESTORED]
    run_program(restored, [*restore, tmp_path / "dump"])
    run_program(restored, [*restore, "--clean", "--if-exists", tmp_path / "dump"])
    assert content(postgres, RESTORED) == content(postgres, "postgres")


def test_parallel(
    session: Target, restored: Target, postgres: PostgresServer, tmp_path: Path
) -> None:
    """Jobs that share a snapshot dump, and jobs restore."""
    dump(session, postgres, "-Fd", JOBS, "-f", tmp_path / "dump")
    tool = postgres.binaries.tool("pg_restore")
    run_program(restored, [tool, "-e", JOBS, "-d", RESTORED, tmp_path / "dump"])
    assert content(postgres, RESTORED) == content(postgres, "postgres")
