"""psycopg 3 with asyncio: transactions, pipelines, cursors, COPY, notifications, cancelled tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from tests.clients.conftest import MakeTable
from tests.clients.target import EVERY_MODE, SESSION, Target

Meet = Callable[[], Awaitable[object]]


async def connect(target: Target, *, autocommit: bool = False) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(
        target.url, autocommit=autocommit, prepare_threshold=0
    )


@EVERY_MODE
def test_queries_and_pipelines(target: Target) -> None:
    """Prepared statements one by one and in pipelines, with an error in one."""

    async def work(number: int, meet: Meet) -> None:
        async with await connect(target, autocommit=True) as connection:
            await meet()
            for turn in range(20):
                cursor = await connection.execute("select %s::int, %s::int", [number, turn])
                assert await cursor.fetchall() == [(number, turn)]
            async with connection.pipeline() as pipeline:
                cursors = [
                    await connection.execute("select %s::int, %s::int", [number, turn])
                    for turn in range(30)
                ]
                await pipeline.sync()
                # Raised by whatever call is the first to see it.
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await connection.execute("select 1 / %s::int", [0])
                    await pipeline.sync()
            rows = [await cursor.fetchone() for cursor in cursors]
            assert rows == [(number, turn) for turn in range(30)]

    target.async_crowd(work)


def test_transactions_cursors_and_copy(target: Target, make_table: MakeTable) -> None:
    """COPY in, a server-side cursor and COPY out, in a transaction that is rolled back in part."""
    table = make_table("who int, i int")
    mine = f"select i from {table} where who"

    async def work(number: int, meet: Meet) -> None:
        async with await connect(target) as connection:
            await meet()
            async with connection.transaction():
                async with connection.cursor().copy(f"copy {table} from stdin") as copy:
                    for i in range(200):
                        await copy.write_row((number, i))
                async with connection.transaction(force_rollback=True):
                    await connection.execute(f"delete from {table}")
                async with connection.cursor("rows") as cursor:
                    cursor.itersize = 30
                    await cursor.execute(f"{mine} = %s order by i", [number])
                    assert [row[0] async for row in cursor] == list(range(200))
            out = f"copy ({mine} = {number} order by i) to stdout"
            async with connection.cursor().copy(out) as copy:
                assert [int(row[0]) async for row in copy.rows()] == list(range(200))

    target.async_crowd(work)


@SESSION
def test_notifications(target: Target) -> None:
    """A task that waits for notifications hears them as they come."""

    async def conversation() -> None:
        async with (
            await connect(target, autocommit=True) as listener,
            await connect(target, autocommit=True) as speaker,
        ):
            await listener.execute("listen news")
            heard = listener.notifies(timeout=10)
            for i in range(3):
                await speaker.execute("select pg_notify('news', %s)", [str(i)])
                assert (await anext(heard)).payload == str(i)
            await heard.aclose()

    asyncio.run(conversation())


@EVERY_MODE
def test_cancelled_tasks(target: Target) -> None:
    """A task that is cancelled by a time-out cancels its query; its connection can be used again."""

    async def work(number: int, meet: Meet) -> None:
        async with await connect(target, autocommit=True) as connection:
            await meet()
            if number < 2:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await connection.execute("select pg_sleep(60)")
            for turn in range(10):
                cursor = await connection.execute("select %s::int", [number * 100 + turn])
                assert await cursor.fetchone() == (number * 100 + turn,)

    target.async_crowd(work)
