"""psycopg 3, synchronous: prepared statements from the first execution on, transactions, pipelines,
server-side cursors, notices, LISTEN and NOTIFY, cancelling, two-phase commit, large objects.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from tests.clients.conftest import MakeTable
from tests.clients.target import CLIENTS, EVERY_MODE, SESSION, TRANSACTION, Target
from tests.system.support import eventually

Meet = Callable[[], object]


@EVERY_MODE
def test_prepared_statements(target: Target) -> None:
    """Everything is prepared at its first execution, and each client gets its own rows only."""

    def work(number: int, meet: Meet) -> None:
        with psycopg.connect(target.url, autocommit=True, prepare_threshold=0) as connection:
            meet()
            for turn in range(20):
                tag = f"{number}:{turn}"
                for binary in (False, True):
                    query = "select %s::text, %s::int[], %s::jsonb, %s::bytea"
                    values = [tag, [number, turn], f'"{tag}"', tag.encode()]
                    cursor = connection.execute(query, values, binary=binary)
                    assert cursor.fetchall() == [(tag, [number, turn], tag, tag.encode())]
                own = f"select %s::int + {number} as sum{number}, {turn % 3} as turn"
                row = connection.cursor(row_factory=dict_row).execute(own, [turn]).fetchone()
                assert row == {f"sum{number}": turn + number, "turn": turn % 3}

    target.crowd(work)


@EVERY_MODE
def test_statements_make_way(target: Target) -> None:
    """With prepared_max = 2 psycopg deallocates one statement for nearly each that it prepares."""

    def work(number: int, meet: Meet) -> None:
        with psycopg.connect(target.url, autocommit=True, prepare_threshold=0) as connection:
            connection.prepared_max = 2
            meet()
            for turn in range(30):
                query = f"select %s::int, {turn % 5}"
                assert connection.execute(query, [number]).fetchone() == (number, turn % 5)

    target.crowd(work)


def test_statements_after_ddl(target: Target, make_table: MakeTable) -> None:
    """A failed transaction and DEALLOCATE ALL, by which psycopg forgets its statements after DDL."""
    table = make_table("i int")
    with psycopg.connect(target.url, prepare_threshold=0) as connection:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute(f"select i, %s::int, nothing from {table}", [1])
        connection.rollback()
        connection.execute(f"select i, %s::int from {table}", [1])
        connection.execute(f"alter table {table} add w text")
        connection.execute(f"insert into {table} values (%s, %s)", [1, "one"])
        connection.rollback()
        connection.execute("deallocate all")
        connection.commit()
        assert connection.execute(f"select i, %s::int from {table}", [1]).fetchall() == []


def test_transactions(target: Target, make_table: MakeTable) -> None:
    """Commit, rollback, savepoints: concurrent increments add up to the last one."""
    table = make_table("n int")
    with psycopg.connect(target.url) as connection:
        connection.execute(f"insert into {table} values (0)")

    def work(number: int, meet: Meet) -> None:
        with psycopg.connect(target.url, prepare_threshold=0) as connection:
            meet()
            for _ in range(10):
                with connection.transaction():
                    connection.execute(f"update {table} set n = n + %s", [number])
                    with connection.transaction() as inner:
                        connection.execute(f"update {table} set n = n + 1000000")
                        raise psycopg.Rollback(inner)
            with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
                connection.execute(f"update {table} set n = n + 1000000")
                connection.execute("select 1/0")

    target.crowd(work)
    with psycopg.connect(target.url) as connection:
        assert connection.execute(f"select n from {table}").fetchone() == (
            10 * sum(range(CLIENTS)),
        )


def test_isolation_levels(target: Target) -> None:
    """The connection's isolation level, read-only and deferrable are those of its transactions."""
    for level in psycopg.IsolationLevel:
        with psycopg.connect(target.url) as connection:
            connection.isolation_level = level
            connection.read_only = connection.deferrable = True
            show = "select current_setting('transaction_isolation'), current_setting('{}_{}')"
            row = connection.execute(show.format("transaction", "read_only")).fetchone()
            assert row == (level.name.lower().replace("_", " "), "on")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("create table never ()")


@EVERY_MODE
def test_pipeline(target: Target) -> None:
    """Pipelines of prepared statements, with an error in the middle that skips to the next sync."""

    def work(number: int, meet: Meet) -> None:
        with psycopg.connect(target.url, autocommit=True, prepare_threshold=0) as connection:
            meet()
            with connection.pipeline():
                cursors = [connection.execute("select %s::int", [number * i]) for i in range(50)]
            assert [cursor.fetchone() for cursor in cursors] == [(number * i,) for i in range(50)]
            # The error comes from whatever call is the first to see it.
            with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline() as pipeline:
                good = connection.execute("select %s::text", [f"good {number}"])
                pipeline.sync()
                connection.execute("select 1 / %s::int", [0])
                connection.execute("select %s::text", ["skipped"])
            assert good.fetchone() == (f"good {number}",)
            assert connection.execute("select %s::int", [number]).fetchone() == (number,)

    target.crowd(work)


def test_pipelined_transactions(target: Target, make_table: MakeTable) -> None:
    """executemany() with its results, and transactions inside of a pipeline."""
    table = make_table("who int, i int unique")

    def work(number: int, meet: Meet) -> None:
        mine = range(number * 100, number * 100 + 50)
        with psycopg.connect(target.url, prepare_threshold=0) as connection:
            meet()
            cursor = connection.cursor()
            insert = f"insert into {table} values (%s, %s) returning i"
            cursor.executemany(insert, [(number, i) for i in mine], returning=True)
            assert [r.fetchone() for r in cursor.results()] == [(i,) for i in mine]
            connection.commit()
            with connection.pipeline():
                with connection.transaction():
                    connection.execute(f"delete from {table} where i = %s", [mine[0]])
                with (
                    pytest.raises(psycopg.errors.UniqueViolation),
                    connection.transaction(),
                ):
                    connection.execute(f"delete from {table} where who = %s", [number])
                    connection.execute(f"insert into {table} values (%s, %s)", [-1, 1])
                    connection.execute(f"insert into {table} values (%s, %s)", [-1, 1])
            count = f"select count(*), min(i) from {table} where who = %s"
            assert connection.execute(count, [number]).fetchone() == (49, mine[1])

    target.crowd(work)


def test_server_side_cursors(target: Target) -> None:
    """Named cursors, scrolled and iterated in batches, each inside of its transaction."""

    def work(number: int, meet: Meet) -> None:
        with psycopg.connect(target.url, prepare_threshold=0) as connection:
            meet()
            with connection.cursor("numbers", scrollable=True) as cursor:
                cursor.itersize = 7
                cursor.execute("select %s * generate_series(1, 100)", [number])
                assert [row[0] for row in cursor] == [number * i for i in range(1, 101)]
                cursor.scroll(9, mode="absolute")
                assert cursor.fetchmany(2) == [(number * 10,), (number * 11,)]
            connection.commit()
            # By a portal with a row limit, and all at once by single-row mode.
            rows = connection.cursor().stream("select %s + generate_series(1, 300)", [number])
            assert [row[0] for row in rows] == [number + i for i in range(1, 301)]

    target.crowd(work)


@SESSION
def test_cursors_with_hold(target: Target) -> None:
    """A cursor WITH HOLD outlives its transaction."""
    with (
        psycopg.connect(target.url) as connection,
        connection.cursor("held", withhold=True) as cursor,
    ):
        cursor.execute("select generate_series(1, 10)")
        assert cursor.fetchone() == (1,)
        connection.commit()
        assert cursor.fetchall() == [(i,) for i in range(2, 11)]


@EVERY_MODE
def test_notices(target: Target) -> None:
    """Notices reach the client whose statement raised them, all of them, in their order."""

    def work(number: int, meet: Meet) -> None:
        heard: list[str] = []
        with psycopg.connect(target.url, autocommit=True) as connection:
            connection.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
            meet()
            loop = f"for i in 1..20 loop raise notice '{number}:%', i; end loop"
            for _ in range(3):
                connection.execute(f"do $$ begin {loop}; end $$")
        assert heard == [f"{number}:{i}" for i in range(1, 21)] * 3

    target.crowd(work)


@SESSION
def test_notifications(target: Target) -> None:
    """LISTEN hears NOTIFY of another client, with its PID, also while nothing is asked."""
    with (
        psycopg.connect(target.url, autocommit=True) as listener,
        psycopg.connect(target.url, autocommit=True) as speaker,
    ):
        listener.execute("listen news")
        pid = speaker.execute("select pg_backend_pid()").fetchone()
        for i in range(5):
            speaker.execute("select pg_notify('news', %s)", [f"headline {i}"])
        heard = list(listener.notifies(timeout=10, stop_after=5))
        assert [n.payload for n in heard] == [f"headline {i}" for i in range(5)]
        assert {(n.pid,) for n in heard} == {pid}


@EVERY_MODE
def test_notify(target: Target, admin: psycopg.Connection) -> None:
    """NOTIFY from each mode reaches those who listen without a pooler."""
    admin.execute("listen news")
    with psycopg.connect(target.url, autocommit=True) as speaker:
        speaker.execute("notify news, 'it works'")
    (heard,) = admin.notifies(timeout=10, stop_after=1)
    admin.execute("unlisten news")
    assert heard.payload == "it works"


@EVERY_MODE
def test_cancel(target: Target, admin: psycopg.Connection) -> None:
    """cancel_safe() ends the query of its own connection and no other; the connection goes on."""

    def work(number: int, meet: Meet) -> None:
        with psycopg.connect(target.url, autocommit=True) as connection:
            meet()
            tag = f"sleeper {number}"
            if number:
                slow = f"select '{tag}', pg_sleep(0.2)"
                assert connection.execute(slow).fetchone() == (tag, "")
                return
            canceller = threading.Thread(target=cancel_when_running, args=(connection, tag))
            canceller.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(f"select '{tag}', pg_sleep(60)")
            canceller.join()
            assert connection.execute("select %s", [tag]).fetchone() == (tag,)

    def cancel_when_running(connection: psycopg.Connection, tag: str) -> None:
        running = "select from pg_stat_activity where state = 'active' and strpos(query, %s) = 9"
        eventually(lambda: admin.execute(running, [tag]).fetchone() is not None, "it runs")
        connection.cancel_safe(timeout=10)

    target.crowd(work)


def test_two_phase_commit(target: Target, make_table: MakeTable) -> None:
    """Prepared transactions are committed, rolled back and recovered."""
    table = make_table("who int")

    def work(number: int, meet: Meet) -> None:
        with psycopg.connect(target.url) as connection:
            meet()
            for commit in (True, False):
                connection.tpc_begin(connection.xid(1, f"{target.mode} {number}", f"{commit}"))
                connection.execute(f"insert into {table} values (%s)", [number])
                connection.tpc_prepare()
                connection.tpc_commit() if commit else connection.tpc_rollback()

    target.crowd(work)
    with contextlib.closing(psycopg.connect(target.url)) as connection:
        connection.tpc_begin(f"left behind in {target.mode} mode")
        connection.execute(f"insert into {table} values (100)")
        connection.tpc_prepare()
    with psycopg.connect(target.url) as connection:
        (left,) = [x for x in connection.tpc_recover() if x.gtrid.startswith("left behind")]
        connection.tpc_commit(left)
        rows = connection.execute(f"select who from {table} order by who").fetchall()
        assert rows == [*((i,) for i in range(CLIENTS)), (100,)]


def test_large_objects(target: Target) -> None:
    """Large objects by SQL functions, in one transaction."""

    def work(number: int, meet: Meet) -> None:
        content = bytes([number]) * 300_000
        with psycopg.connect(target.url, prepare_threshold=0) as connection:
            meet()
            row = connection.execute("select lo_from_bytea(0, %b)", [content]).fetchone()
            assert row
            connection.execute("select lo_put(%s, 10, 'hello')", row)
            opened = connection.execute("select lo_open(%s, 262144)", row).fetchone()
            read = connection.execute("select loread(%s, 20)", opened, binary=True).fetchone()
            assert read == (content[:10] + b"hello" + content[:5],)
            whole = connection.execute("select lo_get(%s)", row, binary=True).fetchone()
            assert whole == (content[:10] + b"hello" + content[15:],)
            connection.execute("select lo_unlink(%s)", row)

    target.crowd(work)


@TRANSACTION
def test_parameters_follow_the_client(target: Target) -> None:
    """Clients with different encodings, time zones and names share servers without a mix-up."""

    def work(number: int, meet: Meet) -> None:
        name, zone = f"client {number}", f"Etc/GMT+{number}"
        encoding = "latin1" if number % 2 else "utf8"
        with psycopg.connect(
            target.url, autocommit=True, application_name=name, client_encoding=encoding
        ) as connection:
            connection.execute(sql.SQL("set time zone {}").format(zone))
            meet()
            for _ in range(10):
                show = (
                    "select current_setting('application_name'), current_setting('timezone'), 'é'"
                )
                assert connection.execute(show).fetchone() == (name, zone, "é")
            assert connection.info.timezone.key == zone

    target.crowd(work)
