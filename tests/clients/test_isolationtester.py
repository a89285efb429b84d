"""PostgreSQL's isolationtester in session mode: locks, deadlocks, serialization failures, notices.

It finds out by process ids which session is blocked by which, so it works only if each client is told that
of its server process. Each specification prints through the pool what it prints without one.
"""

from __future__ import annotations

import os
import subprocess

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.needs import ISOLATIONTESTER
from tests.fixtures.proxy import StartProxy
from tests.system.support import tables

TABLE = """
setup { create table pair (id int primary key, n int); insert into pair values (1, 10), (2, 20); }
teardown { drop table pair; }
"""
SPECS = {
    "a lock is waited for": """
session one
step begin1 { begin; }
step write1 { update pair set n = n + 1 where id = 1; }
step commit1 { commit; }
session two
step write2 { update pair set n = n * 2 where id = 1; }
step read2 { select * from pair order by id; }
permutation begin1 write1 write2 commit1 read2
permutation write2 begin1 write1 read2 commit1
""",
    "a deadlock": """
session one
setup { begin; set deadlock_timeout = '100ms'; }
step a1 { update pair set n = 0 where id = 1; }
step b1 { update pair set n = 0 where id = 2; }
step c1 { commit; }
session two
setup { begin; set deadlock_timeout = '100s'; }
step b2 { update pair set n = 1 where id = 2; }
step a2 { update pair set n = 1 where id = 1; }
step c2 { commit; }
permutation a1 b2 a2 b1(a2) c1 c2
""",
    "write skew": """
session one
setup { begin isolation level serializable; }
step read1 { select sum(n) from pair; }
step write1 { update pair set n = 0 where id = 1; }
step commit1 { commit; }
session two
setup { begin isolation level serializable; }
step read2 { select sum(n) from pair; }
step write2 { update pair set n = 0 where id = 2; }
step commit2 { commit; }
permutation read1 read2 write1 write2 commit1 commit2
permutation read1 write1 commit1 read2 write2 commit2
""",
    "notices and notifications": """
session one
setup { listen channel; }
step say1 { do $$ begin raise notice 'one says'; end $$; }
step hear1 { select 1 as heard; }
teardown { unlisten *; }
session two
step notify2 { notify channel, 'two says'; }
step lock2 { select pg_advisory_lock(7); }
step unlock2 { select pg_advisory_unlock(7); }
session three
step lock3 { select pg_advisory_lock(7); select pg_advisory_unlock(7); }
permutation say1 notify2 hear1 lock2 lock3 unlock2
permutation lock2 lock3 notify2 hear1 unlock2 say1
""",
}


def run(spec: str, url: str) -> str:
    environment = {**os.environ, "PGAPPNAME": "isolation"}
    done = subprocess.run(
        [ISOLATIONTESTER, url],
        input=spec,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs_isolationtester
@pytest.mark.parametrize("name", SPECS)
def test_isolationtester(start_proxy: StartProxy, postgres: PostgresServer, name: str) -> None:
    """A connection for each session, one that controls them, and no difference in what they print."""
    spec = TABLE + SPECS[name]
    databases = {"postgres": {"pool_mode": "session", "pool_size": 8}}
    proxy = start_proxy(tables(postgres, databases, workers=1))
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("drop table if exists pair")
    wanted = run(spec, postgres.url())
    assert "starting permutation" in wanted
    assert run(spec, proxy.url(user="postgres", password="unused", database="postgres")) == wanted
