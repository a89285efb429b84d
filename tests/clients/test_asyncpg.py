"""asyncpg with its statement cache on: transactions, prepared statements, cursors, COPY, time-outs,
notifications, types that it looks up, and its pool with its reset in front of ours.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable

import asyncpg
import psycopg
import pytest

from tests.clients.conftest import MakeTable
from tests.clients.target import CLIENTS, EVERY_MODE, SESSION, Target

Meet = Callable[[], Awaitable[object]]


@EVERY_MODE
def test_queries(target: Target) -> None:
    """The cache of prepared statements at its default size, and so small that it overflows."""

    async def work(number: int, meet: Meet) -> None:
        connection = await asyncpg.connect(
            target.url, statement_cache_size=100 if number % 2 else 2
        )
        await meet()
        for turn in range(30):
            query = f"select $1::int as number, $2::text as word, {turn % 5} as turn"
            row = await connection.fetchrow(query, number, f"word {turn}")
            assert tuple(row) == (number, f"word {turn}", turn % 5)
        await connection.close()

    target.async_crowd(work)


def test_transactions(target: Target, make_table: MakeTable) -> None:
    """Transactions, savepoints, executemany; errors undo what they should."""
    table = make_table("who int, i int unique")

    async def work(number: int, meet: Meet) -> None:
        connection = await asyncpg.connect(target.url)
        await meet()
        mine = [(number, number * 100 + i) for i in range(50)]
        for _ in range(2):
            with pytest.raises(asyncpg.UniqueViolationError):
                insert = f"insert into {table} values ($1, $2)"
                await connection.executemany(insert, [*mine, mine[0]])
        async with connection.transaction(isolation="repeatable_read"):
            await connection.executemany(f"insert into {table} values ($1, $2)", mine)
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with connection.transaction():
                    await connection.execute(f"delete from {table}")
                    await connection.fetchval("select 1 / $1::int", 0)
        count = f"select count(*) from {table} where who = $1"
        assert await connection.fetchval(count, number) == 50
        await connection.close()

    target.async_crowd(work)


def test_statements_and_cursors(target: Target) -> None:
    """Explicit prepared statements with their descriptions, and cursors on them."""

    async def work(number: int, meet: Meet) -> None:
        connection = await asyncpg.connect(target.url)
        await meet()
        series = await connection.prepare("select $1 + generate_series(1, $2::int) as n")
        assert [a.name for a in series.get_attributes()] == ["n"]
        assert [p.name for p in series.get_parameters()] == ["int4", "int4"]
        for _ in range(3):
            async with connection.transaction():
                rows = [row["n"] async for row in series.cursor(number, 120, prefetch=11)]
                assert rows == [number + i for i in range(1, 121)]
                cursor = await connection.cursor("select generate_series(1, 9)")
                await cursor.forward(3)
                assert [row[0] for row in await cursor.fetch(2)] == [4, 5]
            assert await series.fetchval(number, 1) == number + 1
        await connection.close()

    target.async_crowd(work)


@EVERY_MODE
def test_copy(target: Target, make_table: MakeTable) -> None:
    """copy_records_to_table, copy_from_query, copy_to_table; a failing one leaves nothing."""
    table = make_table("who int, i int check (i < 500)")

    async def work(number: int, meet: Meet) -> None:
        connection = await asyncpg.connect(target.url)
        await meet()
        records = [(number, i) for i in range(500)]
        await connection.copy_records_to_table(table, records=records)
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.copy_records_to_table(table, records=[*records, (number, 500)])
        with pytest.raises(ZeroDivisionError):
            await connection.copy_records_to_table(table, records=((number, 1 // 0) for _ in "x"))
        sink = io.BytesIO()
        query = f"select i from {table} where who = $1 order by i"
        await connection.copy_from_query(query, number, output=sink)
        assert sink.getvalue() == "".join(f"{i}\n" for i in range(500)).encode()
        source = io.BytesIO(f"{number}\t7\n".encode())
        assert await connection.copy_to_table(table, source=source) == "COPY 1"
        await connection.close()

    target.async_crowd(work)


@EVERY_MODE
def test_timeouts(target: Target) -> None:
    """A time-out cancels the query of its client alone, and the connection can be used again."""

    async def work(number: int, meet: Meet) -> None:
        connection = await asyncpg.connect(target.url)
        await meet()
        if number < 2:
            with pytest.raises(TimeoutError):
                await connection.fetchval("select pg_sleep(60)", timeout=0.3)
        for turn in range(10):
            assert await connection.fetchval("select $1::int", number + turn) == number + turn
        await connection.close()

    target.async_crowd(work)


@SESSION
def test_notifications(target: Target) -> None:
    """A listener's callback is called while its connection is idle."""

    async def conversation() -> None:
        listener, speaker = [await asyncpg.connect(target.url) for _ in range(2)]
        heard: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()
        await listener.add_listener("news", lambda *event: heard.put_nowait(event[1:]))
        await speaker.execute("notify news, 'it works'")
        pid = await speaker.fetchval("select pg_backend_pid()")
        assert await asyncio.wait_for(heard.get(), 10) == (pid, "news", "it works")
        await listener.remove_listener("news", print)
        await listener.close()
        await speaker.close()

    asyncio.run(conversation())


def test_types(target: Target, admin: psycopg.Connection) -> None:
    """Types that asyncpg looks up by queries of its own: composites, enums, arrays of them."""
    admin.execute("create type mood as enum ('glad', 'sad')")
    admin.execute("create type person as (name text, moods mood[])")

    async def work(number: int, meet: Meet) -> None:
        connection = await asyncpg.connect(target.url)
        await meet()
        person = (f"client {number}", ["glad", "sad"])
        for _ in range(3):
            assert tuple(await connection.fetchval("select $1::person", person)) == person
        await connection.close()

    try:
        target.async_crowd(work)
    finally:
        admin.execute("drop type person, mood")


def test_statements_after_ddl(target: Target, make_table: MakeTable) -> None:
    """After DDL asyncpg prepares anew by itself, for its own changes at once."""
    table = make_table("i int")

    async def work() -> None:
        connection = await asyncpg.connect(target.url)
        await connection.execute(f"insert into {table} values (1)")
        assert tuple(await connection.fetchrow(f"select * from {table}")) == (1,)
        await connection.execute(f"alter table {table} add w text default 'new'")
        assert tuple(await connection.fetchrow(f"select * from {table}")) == (1, "new")
        await connection.close()

    asyncio.run(work())


def test_pool(target: Target) -> None:
    """asyncpg's pool, larger than ours where servers are shared, with its reset after each use."""

    async def work() -> int:
        size = 3 if target.mode == "session" else CLIENTS
        async with asyncpg.create_pool(target.url, min_size=size, max_size=size) as pool:
            return sum(
                await asyncio.gather(*(pool.fetchval("select $1::int", i) for i in range(200)))
            )

    assert asyncio.run(work()) == sum(range(200))
