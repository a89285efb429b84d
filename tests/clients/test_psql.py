r"""psql scripts: variables, \gset, \gexec, \gdesc, \bind, \watch, \crosstabview, \copy, FETCH_COUNT,
many statements in one query, errors with ON_ERROR_STOP and ON_ERROR_ROLLBACK, pipelines.

Each script prints through the pool what it prints without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.clients.conftest import target_at
from tests.clients.target import Target, run_program
from tests.fixtures.proxy import ProxyProcess

NEWER = {"bind": 16, "pipelines": 18}  # the psql that knows the commands of a script
SCRIPTS = {
    "variables": r"""
\set word 'it''s'
select :'word' as "a b" \gset got_
\echo :got_
select :who as "who", 'x' || :who as x \gset
select :'x' as :"x";
select format('select %s + %L::int', i, :'who') from generate_series(1, 3) i \gexec
select 1 as one, 'two'::text as two, null::numeric(5, 2) as three \gdesc
\if :{?missing}
select 'never';
\else
select 'other' \; select :who \; select 'branch';
\endif
select i, j, i * j + :who from generate_series(1, 3) i, generate_series(1, 3) j \crosstabview
select 'one line' as a \gx
\set FETCH_COUNT 7
select :who + i from generate_series(1, 40) i;
""",
    "copying": r"""
begin;
create table :"table" (i int check (i > 0), w text);
commit;
copy :table from stdin;
1	one
2	t\two
\.
\set out '\\copy (select * from ' :table ' order by i) to pstdout'
:out
copy (select i from :table order by i) to stdout \; copy (select w from :table order by i) to stdout;
copy :table from stdin;
3	three
-1	refused
\.
select count(*) from :table;
copy :table from stdin with (format csv);
4,"a ""b"", c"
\.
select * from :table order by i;
\d :table
drop table :table;
""",
    "errors": r"""
\set VERBOSITY verbose
select 1/0;
select :who \; select nothing \; select 'never';
select :who;
\errverbose
begin;
\set ON_ERROR_ROLLBACK on
select 'kept' as k \gset
select 1/0;
select :'k', :who;
commit;
\set ON_ERROR_ROLLBACK off
begin;
select 1/0;
select 'refused';
commit;
do $$ begin raise notice 'a notice'; raise warning 'a warning' using hint = 'a hint'; end $$;
\set n 0
begin;
create temp sequence turns on commit drop;
select 12 / (4 - nextval('turns')) \watch 0.01
rollback;
select :who;
\set ON_ERROR_STOP on
select nothing_at_all;
select 'never';
""",
    "bind": r"""
select $1::int + $2::int, $3 \bind :who 2 'text' \g
select $1 || 'x' \bind word \gset
select 1 / $1::int \bind 0 \g
\parse named
\bind :who \g
begin;
select $1::text as t, :who as w \bind one \gx
commit;
""",
    "pipelines": r"""
\startpipeline
select $1::int as a \bind :who \sendpipeline
select $1::text as b \bind two \sendpipeline
\syncpipeline
select 1 / $1::int \bind 0 \sendpipeline
select 'skipped' \bind \sendpipeline
\syncpipeline
select $1::int as c \bind :who \sendpipeline
\flushrequest
\getresults
\endpipeline
begin;
select $1::int as named \parse s
\bind_named s :who \g
\close_prepared s
commit;
select $1::int as named \parse s
\bind_named s :who \g
\bind_named s 2 \g
\close_prepared s
\bind_named s 3 \g
select 'the end';
""",
}
STOPPED = 3  # psql's status after an error with ON_ERROR_STOP


def run(target: Target, server: PostgresServer, name: str, who: int) -> tuple[str, str]:
    """(stdout, stderr) of a script, by a client with this number."""
    psql = [server.binaries.tool("psql"), "-X", "-v", f"who={who}", "-v", f"table=psql_{who}"]
    status = STOPPED if name == "errors" else 0
    done = run_program(target, psql, text=SCRIPTS[name], status=status)
    return done.stdout, done.stderr


def watched(text: str) -> list[str]:
    r"""The lines, without the times that \watch prints."""
    return [line for line in text.splitlines() if "(every 0.01s)" not in line]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(
    version_target: Target, direct_target: Target, postgres: PostgresServer, name: str
) -> None:
    """Each script prints the same through the pool, run by many at once."""
    if postgres.version < NEWER.get(name, 0):
        # This psql has no such commands, so it is told nothing but errors of its own.
        assert "invalid command" in run(direct_target, postgres, name, 0)[1]

    def work(number: int, meet: object) -> tuple[str, str]:
        return run(version_target, postgres, name, number)

    for number, (out, errors) in enumerate(version_target.crowd(work)):
        direct_out, direct_errors = run(direct_target, postgres, name, number)
        assert watched(out) == watched(direct_out)
        assert errors == direct_errors


def test_copy_commands(
    version_target: Target, direct_target: Target, postgres: PostgresServer, tmp_path: Path
) -> None:
    r"""\copy from a file, and to another through a program."""
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.write_text("".join(f"{i}\tline {i}\n" for i in range(3000)))
    script = f"""
create table psql_copied (i int, w text);
\\copy psql_copied from '{source}'
\\copy (select * from psql_copied order by i) to program 'cat > {sink}'
select count(*), sum(i) from psql_copied;
drop table psql_copied;
"""
    psql: Sequence[str | Path] = [postgres.binaries.tool("psql"), "-XAt"]
    out = run_program(version_target, psql, text=script).stdout
    assert out == run_program(direct_target, psql, text=script).stdout
    assert sink.read_text() == source.read_text()


def test_statement_mode(
    versions_proxy: ProxyProcess, direct_target: Target, postgres: PostgresServer
) -> None:
    """The script with variables needs no transaction, but for FETCH_COUNT."""
    target = target_at(versions_proxy, postgres, "statement")
    psql = [postgres.binaries.tool("psql"), "-X", "-v", "who=7"]
    script = SCRIPTS["variables"].replace("\\set FETCH_COUNT 7\n", "")
    out = run_program(target, psql, text=script).stdout
    assert out == run_program(direct_target, psql, text=script).stdout
