"""psycopg2: transactions, named cursors, copy_expert, callproc, encodings, autocommit, notifications,
large objects by function calls of the protocol, cancelling, two-phase commit.
"""

from __future__ import annotations

import contextlib
import io
import select
import threading
from collections.abc import Callable, Iterator

import psycopg
import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras
import pytest

from tests.clients.conftest import MakeTable
from tests.clients.target import CLIENTS, EVERY_MODE, SESSION, Target
from tests.system.support import eventually

Meet = Callable[[], object]
Connection = psycopg2.extensions.connection


@contextlib.contextmanager
def connected(target: Target, *, autocommit: bool = False) -> Iterator[Connection]:
    """A connection; psycopg2's own context manager would end the transaction alone."""
    with contextlib.closing(psycopg2.connect(target.url)) as connection:
        connection.autocommit = autocommit
        yield connection


@EVERY_MODE
def test_autocommit(target: Target) -> None:
    """Statements one by one, callproc, notices; each client gets its own rows."""

    def work(number: int, meet: Meet) -> None:
        with connected(target, autocommit=True) as connection, connection.cursor() as cursor:
            meet()
            for turn in range(20):
                cursor.execute("select %s, %s, %s", (number, turn, "word"))
                assert cursor.fetchall() == [(number, turn, "word")]
                cursor.callproc("int4mul", (number, turn))
                assert cursor.fetchall() == [(number * turn,)]
            cursor.execute(f"do $$ begin raise notice 'from {number}'; end $$")
            assert connection.notices == [f"NOTICE:  from {number}\n"]
            # Many statements in one query are one transaction, also for the pool.
            cursor.execute("select 1; select pg_backend_pid(); select %s", (number,))
            assert cursor.fetchall() == [(number,)]

    target.crowd(work)


def test_transactions(target: Target, make_table: MakeTable) -> None:
    """Commit, rollback and savepoints; execute_values; the isolation level of set_session."""
    table = make_table("who int, i int")

    def work(number: int, meet: Meet) -> None:
        with connected(target) as connection, connection.cursor() as cursor:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=False)
            meet()
            rows = [(number, i) for i in range(300)]
            psycopg2.extras.execute_values(cursor, f"insert into {table} values %s", rows)
            connection.commit()
            cursor.execute("show transaction_isolation")
            assert cursor.fetchone() == ("repeatable read",)
            cursor.execute("savepoint one")
            with pytest.raises(psycopg2.errors.DivisionByZero):
                cursor.execute(f"delete from {table}; select 1/0")
            with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
                cursor.execute("select 1")
            cursor.execute("rollback to one")
            cursor.execute(f"delete from {table} where who = %s and i >= 100", (number,))
            connection.rollback()
            cursor.execute(f"select count(*) from {table} where who = %s", (number,))
            assert cursor.fetchone() == (300,)

    target.crowd(work)


def test_named_cursors(target: Target) -> None:
    """Server-side cursors are read in batches and scrolled inside of their transaction."""

    def work(number: int, meet: Meet) -> None:
        with connected(target) as connection:
            meet()
            with connection.cursor("numbers", scrollable=True) as cursor:
                cursor.itersize = 9
                cursor.execute("select %s + generate_series(1, 100)", (number,))
                assert [row[0] for row in cursor] == [number + i for i in range(1, 101)]
                cursor.scroll(4, mode="absolute")
                assert cursor.fetchmany(2) == [(number + 5,), (number + 6,)]
            connection.commit()

    target.crowd(work)


@SESSION
def test_cursors_with_hold(target: Target) -> None:
    """A cursor WITH HOLD outlives its transaction."""
    with connected(target) as connection, connection.cursor("held", withhold=True) as cursor:
        cursor.execute("select generate_series(1, 10)")
        connection.commit()
        assert len(cursor.fetchall()) == 10


@EVERY_MODE
def test_copy(target: Target, make_table: MakeTable) -> None:
    """copy_expert and copy_from in both directions; what is refused leaves nothing."""
    table = make_table("who int, i int check (i >= 0)")

    def work(number: int, meet: Meet) -> None:
        text = "".join(f"{number}\t{i}\n" for i in range(1000))
        with connected(target, autocommit=True) as connection, connection.cursor() as cursor:
            meet()
            cursor.copy_expert(f"copy {table} from stdin", io.StringIO(text))
            with pytest.raises(psycopg2.errors.CheckViolation):
                cursor.copy_from(io.StringIO(f"{text}{number}\t-1\n"), table)
            sink = io.StringIO()
            mine = f"select * from {table} where who = {number} order by i"
            cursor.copy_expert(f"copy ({mine}) to stdout", sink)
            assert sink.getvalue() == text

    target.crowd(work)


@EVERY_MODE
def test_encodings(target: Target) -> None:
    """Clients with different encodings share the servers, and each reads what it wrote."""
    words = {"UTF8": "zażółć €", "LATIN1": "Größe", "WIN1251": "слово", "EUC_JP": "日本"}

    def work(number: int, meet: Meet) -> None:
        encoding, word = list(words.items())[number % len(words)]
        with connected(target, autocommit=True) as connection, connection.cursor() as cursor:
            connection.set_client_encoding(encoding)
            meet()
            for _ in range(10):
                cursor.execute("select %s::text, length(%s::text), upper(%s)", (word, word, "x"))
                assert cursor.fetchone() == (word, len(word), "X")
                cursor.execute("show client_encoding")
                assert cursor.fetchone() == (encoding,)

    target.crowd(work)


@SESSION
def test_notifications(target: Target) -> None:
    """poll() finds the notification of another client, with its PID."""
    with (
        connected(target, autocommit=True) as listener,
        connected(target, autocommit=True) as speaker,
    ):
        listener.cursor().execute("listen news")
        speaker.cursor().execute("notify news, 'it works'")
        assert select.select([listener], [], [], 10)[0]
        listener.poll()
        (heard,) = listener.notifies
        assert (heard.channel, heard.payload) == ("news", "it works")
        with speaker.cursor() as cursor:
            cursor.execute("select pg_backend_pid()")
            assert cursor.fetchone() == (heard.pid,)


def test_large_objects(target: Target) -> None:
    """lobject() writes, seeks and reads in a transaction, by function calls of the protocol."""

    def work(number: int, meet: Meet) -> None:
        content = bytes([65 + number]) * 100_000
        with connected(target) as connection:
            meet()
            large = connection.lobject(0, "wb")
            large.write(content)
            large.close()
            connection.commit()
            again = connection.lobject(large.oid, "rb")
            again.seek(10)
            assert again.read(5) == content[:5]
            again.seek(0)
            assert again.read() == content
            again.unlink()
            connection.commit()

    target.crowd(work)


@EVERY_MODE
def test_cancel(target: Target, admin: psycopg.Connection) -> None:
    """cancel() from another thread ends the query; the connection can be used again."""
    tag = f"psycopg2 sleeps in {target.mode} mode"

    def cancel(connection: Connection) -> None:
        running = "select from pg_stat_activity where state = 'active' and strpos(query, %s) = 9"
        eventually(lambda: admin.execute(running, [tag]).fetchone() is not None, "it runs")
        connection.cancel()

    with connected(target, autocommit=True) as connection, connection.cursor() as cursor:
        canceller = threading.Thread(target=cancel, args=(connection,))
        canceller.start()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            cursor.execute(f"select '{tag}', pg_sleep(60)")
        canceller.join()
        cursor.execute("select 1")
        assert cursor.fetchone() == (1,)


def test_two_phase_commit(target: Target, make_table: MakeTable) -> None:
    """tpc_begin() to tpc_commit() and tpc_rollback(), and recovery by another connection."""
    table = make_table("who int")

    def work(number: int, meet: Meet) -> None:
        with connected(target) as connection:
            meet()
            for name in ("commit", "rollback", "recover"):
                connection.tpc_begin(connection.xid(2, f"{target.mode} {number}", name))
                connection.cursor().execute(f"insert into {table} values (%s)", (number,))
                connection.tpc_prepare()
                if name != "recover":
                    getattr(connection, f"tpc_{name}")()
                    connection.commit() if name == "rollback" else None
        with connected(target) as connection:
            (left,) = [x for x in connection.tpc_recover() if x.gtrid == f"{target.mode} {number}"]
            connection.rollback()
            connection.tpc_commit(left)

    target.crowd(work)
    with connected(target) as connection, connection.cursor() as cursor:
        cursor.execute(f"select count(*) from {table}")
        assert cursor.fetchone() == (2 * CLIENTS,)
