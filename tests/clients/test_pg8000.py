"""pg8000, by DB-API and natively: named and unnamed statements, transactions, COPY, notices,
notifications, two-phase commit.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator

import pg8000.dbapi
import pg8000.native
import pytest

from tests.clients.conftest import MakeTable
from tests.clients.target import CLIENTS, EVERY_MODE, SESSION, Target
from tests.system.support import eventually

Meet = Callable[[], object]


@contextlib.contextmanager
def native(target: Target) -> Iterator[pg8000.native.Connection]:
    connection = pg8000.native.Connection(**parameters(target))
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def dbapi(target: Target) -> Iterator[pg8000.dbapi.Connection]:
    with contextlib.closing(pg8000.dbapi.connect(**parameters(target))) as connection:
        yield connection


def parameters(target: Target) -> dict[str, str | int]:
    return {
        "user": target.user,
        "password": target.password,
        "host": target.host,
        "port": target.port,
        "database": target.database,
    }


@EVERY_MODE
def test_native_statements(target: Target) -> None:
    """Unnamed statements by run(), named ones by prepare(), notices."""

    def work(number: int, meet: Meet) -> None:
        with native(target) as connection:
            meet()
            statement = connection.prepare("select cast(:n as int) + cast(:m as int)")
            for turn in range(20):
                assert statement.run(n=number, m=turn) == [[number + turn]]
                query = "select :word || :number"
                assert connection.run(query, word="word", number=str(number)) == [[f"word{number}"]]
            statement.close()
            with pytest.raises(pg8000.native.DatabaseError, match="division by zero"):
                connection.run("select 1 / cast(:zero as int)", zero=0)
            connection.run(f"do $$ begin raise notice 'from {number}'; end $$")
            assert connection.notices[-1][b"M"] == f"from {number}".encode()

    target.crowd(work)


def test_transactions(target: Target, make_table: MakeTable) -> None:
    """DB-API with its implicit transactions: commit, rollback, executemany."""
    table = make_table("who int, i int")

    def work(number: int, meet: Meet) -> None:
        with dbapi(target) as connection:
            meet()
            cursor = connection.cursor()
            cursor.executemany(
                f"insert into {table} values (%s, %s)", [(number, i) for i in range(30)]
            )
            connection.commit()
            cursor.execute(f"delete from {table} where who = %s", (number,))
            connection.rollback()
            cursor.execute(f"select i from {table} where who = %s order by i", (number,))
            assert list(cursor.fetchall()) == [[i] for i in range(30)]
            connection.commit()

    target.crowd(work)


@EVERY_MODE
def test_copy(target: Target, make_table: MakeTable) -> None:
    """COPY from and to streams."""
    table = make_table("who int, i int")

    def work(number: int, meet: Meet) -> None:
        text = "".join(f"{number}\t{i}\n" for i in range(500)).encode()
        with native(target) as connection:
            meet()
            connection.run(f"copy {table} from stdin", stream=io.BytesIO(text))
            sink = io.BytesIO()
            mine = f"select * from {table} where who = {number} order by i"
            connection.run(f"copy ({mine}) to stdout", stream=sink)
            assert sink.getvalue() == text

    target.crowd(work)


@SESSION
def test_notifications(target: Target) -> None:
    """A notification arrives with the next answer."""
    with native(target) as listener, native(target) as speaker:
        listener.run("listen news")
        speaker.run("notify news, 'it works'")
        (pid,) = speaker.run("select pg_backend_pid()")[0]
        eventually(lambda: listener.run("select 1") and listener.notifications, "it is heard")
        assert list(listener.notifications) == [(pid, "news", "it works")]


def test_two_phase_commit(target: Target, make_table: MakeTable) -> None:
    """tpc_begin() to tpc_commit()."""
    table = make_table("who int")

    def work(number: int, meet: Meet) -> None:
        with dbapi(target) as connection:
            meet()
            connection.tpc_begin(connection.xid(0, f"pg8000 {target.mode} {number}", ""))
            connection.cursor().execute(f"insert into {table} values (%s)", (number,))
            connection.tpc_prepare()
            connection.tpc_commit()

    target.crowd(work)
    with native(target) as connection:
        assert connection.run(f"select count(*) from {table}") == [[CLIENTS]]
