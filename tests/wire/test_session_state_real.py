"""What SessionState believes of a session, against what PostgreSQL says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poolproxy.demo.postgres import PostgresServer
from poolproxy.wire.effects import CURSOR, GROUPS, LISTEN, PREPARE, SET, TEMP
from poolproxy.wire.session_state import SessionState
from tests.system.protocol_client import SYNC, RawClient, Reply, query, run
from tests.wire.prepared_traffic import direct_connections

STATEMENTS = (
    "begin",
    "commit",
    "rollback",
    "savepoint a",
    "savepoint b",
    "rollback to a",
    "rollback to savepoint b",
    "release a",
    "set lock_timeout = '7s'",
    "set session seq_page_cost to 2",
    "set local lock_timeout = 5",
    "set lock_timeout to default",
    "set transaction isolation level serializable",
    "set session characteristics as transaction isolation level serializable",
    "SET Application_Name = 'tracked'",
    "/* ; */ set my.thing = ';'",
    "reset lock_timeout",
    "reset all",
    "listen one",
    'listen "Two"',
    "unlisten one",
    "unlisten *",
    "prepare p as select 1",
    'prepare "P 2" (int) as select $1',
    "deallocate p",
    "deallocate all",
    "declare c cursor with hold for select 1",
    "declare d cursor for select 1",
    "close c",
    "close all",
    "create temp table t (n int)",
    "create temporary table u on commit drop as select 1",
    "create temp table v as select 1 as n",
    "select 1 as n into temp w",
    "create temp view x as select 1",
    "drop table t",
    "discard temp",
    "discard all",
    "select 1",
    "select 1/0",
    "",
)
PROBES = {
    SET: "select name from pg_settings where source = 'session' and setting is distinct from reset_val"
    " and name not in "
    "('application_name', 'transaction_isolation', 'transaction_read_only', 'transaction_deferrable')"
    " union all select 'my.thing' where current_setting('my.thing', true) <> ''",
    LISTEN: "select pg_listening_channels()",
    PREPARE: "select name from pg_prepared_statements where from_sql",
    CURSOR: "select name from pg_cursors where is_holdable",
    TEMP: "select relname from pg_class where relpersistence = 't' and relkind in ('r', 'v')"
    " and pg_table_is_visible(oid) and relnamespace = pg_my_temp_schema()",
}
TAG = re.compile(rb"[A-Z ]*[A-Z]")


class Session:
    """A connection to PostgreSQL and what is believed of it."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.state = SessionState({b"application_name"})
        self.errors = 0

    def run(self, flight: bytes, ends: int = 1) -> None:
        """Send messages with so many ReadyForQuery in answer."""
        self.client.send(flight)
        while ends:
            reply = self.client.read()
            ends -= reply.code == "Z"
            self.hear(reply, flight)

    def hear(self, reply: Reply, said: bytes) -> None:
        if reply.code == "E":
            self.errors += 1
        elif reply.code == "C":
            tag = TAG.match(reply.body)
            assert tag
            if tag[0] in self.state.watched or (tag[0] == b"SELECT" and tag[0] in GROUPS):
                self.state.answered(tag[0], said, self.errors, None)
        elif reply.code == "Z":
            self.state.ready(reply.body[0], self.errors)

    def real(self) -> set[tuple[str, bytes]]:
        """What PostgreSQL has, by kinds and names."""
        return {
            (kind, (name or "").lower().encode() if kind == SET else (name or "").encode())
            for kind, probe in PROBES.items()
            for (name,) in self.client.query(probe)
        }


@pytest.fixture(scope="module")
def connection(postgres: PostgresServer) -> Iterator[RawClient]:
    """A client on the socket of a connection that psycopg has logged in."""
    with (
        direct_connections(postgres) as connect,
        RawClient((postgres.host, postgres.port), log_in=False) as client,
    ):
        client.close()
        client.sock = connect()
        yield client


def begin(connection: RawClient) -> Session:
    connection.query("rollback")
    connection.query("discard all")
    return Session(connection)


def believed(session: Session) -> set[tuple[str, bytes]]:
    return set(session.state.dirt)


def end(session: Session) -> None:
    """End the transaction, and take away what there is."""
    session.run(query("commit"))
    real = session.real()
    known = believed(session)
    assert all(key in known or (key[0], b"") in known for key in real)
    cleaning = session.state.cleaning()
    if cleaning:
        session.client.query(cleaning)
    assert not session.real()


@given(texts=st.lists(st.sampled_from(STATEMENTS), max_size=12))
@example(
    texts=[
        "begin",
        "set lock_timeout = '7s'",
        "savepoint a",
        "listen one",
        "rollback to a",
        "commit",
    ]
)
@example(texts=["begin", "savepoint a", "listen one", "rollback to a", "commit"])
@example(texts=["begin", "prepare p as select 1", "rollback"])
@example(texts=["listen one", "begin", "unlisten *", "rollback"])
@example(texts=["create temp table v as select 1 as n", "begin", "discard temp", "rollback"])
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_statement_after_the_other_is_known_exactly(
    texts: list[str], connection: RawClient
) -> None:
    """After each transaction: all that is there, by its name, and nothing else."""
    session = begin(connection)
    for text in texts:
        session.run(query(text))
        if session.client.status == "I" and "discard" not in text:
            assert session.real() == believed(session)
    end(session)


def _joined(parts: Sequence[Sequence[str]], extended: bool) -> tuple[bytes, int]:
    if not extended:
        return b"".join(query("; ".join(part)) for part in parts), len(parts)
    return b"".join(b"".join(map(run, part)) + SYNC for part in parts), len(parts)


@given(
    flights=st.lists(
        st.tuples(
            st.lists(
                st.lists(st.sampled_from(STATEMENTS), min_size=1, max_size=4),
                min_size=1,
                max_size=3,
            ),
            st.booleans(),
        ),
        max_size=5,
    )
)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(flights=[([["prepare p as select 1", "discard all"], ["discard all"]], False)])
@example(
    flights=[
        ([["rollback to a"], ["create temp table t (n int)"], ["drop table t", "rollback"]], False)
    ]
)
@example(flights=[([["prepare p as select 1", "deallocate p", "deallocate p"]], False)])
@example(flights=[([["reset all", "set seq_page_cost to 2", "reset lock_timeout"]], False)])
def test_many_statements_at_once_leave_nothing_unknown(
    flights: list[tuple[list[list[str]], bool]], connection: RawClient
) -> None:
    """Texts of many statements and pipelines, errors in the middle: what is there is believed to be
    there, and the cleaning takes all of it away.
    """
    session = begin(connection)
    for parts, extended in flights:
        session.run(*_joined(parts, extended))
        if session.client.status == "I":
            known = believed(session)
            real = session.real()
            assert all(key in known or (key[0], b"") in known for key in real), (real, known)
    end(session)
