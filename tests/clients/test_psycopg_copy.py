"""psycopg 3, COPY: both directions, text and binary, row by row and in blocks, failed and given up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import psycopg
import pytest

from tests.clients.conftest import MakeTable
from tests.clients.target import CLIENTS, EVERY_MODE, Target

Meet = Callable[[], object]
ROWS = 2000


@EVERY_MODE
@pytest.mark.parametrize("format", ["text", "binary"])
def test_both_ways(target: Target, make_table: MakeTable, format: str) -> None:
    """Rows written by each client, and read again by each."""
    table = make_table("who int, i int, word text")

    def work(number: int, meet: Meet) -> None:
        rows = [(number, i, f"word {i}\t\\\n") for i in range(ROWS)]
        mine = f"select * from {table} where who = {number} order by i"
        with psycopg.connect(target.url, autocommit=True) as connection:
            meet()
            cursor = connection.cursor()
            with cursor.copy(f"copy {table} from stdin (format {format})") as copy:
                copy.set_types(["int4", "int4", "text"])
                for row in rows:
                    copy.write_row(row)
            assert cursor.rowcount == ROWS
            with cursor.copy(f"copy ({mine}) to stdout (format {format})") as copy:
                copy.set_types(["int4", "int4", "text"])
                assert list(copy.rows()) == rows

    target.crowd(work)


@EVERY_MODE
def test_large_values(target: Target) -> None:
    """4 MB in one value, out by COPY and in again, arrive as they were."""
    table = f"large_{target.mode}"
    with psycopg.connect(target.url, autocommit=True) as connection:
        connection.execute(f"create unlogged table {table} (v text)")
        try:
            out = "select string_agg(md5(i::text), '') from generate_series(1, 131072) i"
            with connection.cursor().copy(f"copy ({out}) to stdout") as source:
                blocks = [bytes(block) for block in source]
            with connection.cursor().copy(f"copy {table} from stdin") as sink:
                for block in blocks:
                    sink.write(block)
            digest = hashlib.md5(b"".join(blocks).rstrip(b"\n")).hexdigest()
            stored = connection.execute(f"select md5(v), length(v) from {table}").fetchone()
            assert stored == (digest, 1 << 22)
            read = connection.execute(f"select v from {table}", binary=True).fetchone()
            assert read
            assert hashlib.md5(read[0].encode()).hexdigest() == digest
        finally:
            connection.execute(f"drop table {table}")


def test_failures(target: Target, make_table: MakeTable) -> None:
    """COPY that the server refuses late, and COPY that the client breaks off, leave nothing."""
    table = make_table("who int, i int check (i <> 1500)")

    def work(number: int, meet: Meet) -> None:
        with psycopg.connect(target.url, autocommit=True) as connection:
            meet()
            with (
                pytest.raises(psycopg.errors.CheckViolation),
                connection.cursor().copy(f"copy {table} from stdin") as copy,
            ):
                for i in range(ROWS):
                    copy.write_row((number, i))
            with (
                pytest.raises(ZeroDivisionError),
                connection.cursor().copy(f"copy {table} from stdin") as copy,
            ):
                copy.write_row((number, 1))
                raise ZeroDivisionError
            count = f"select count(*), %s::int from {table}"
            assert connection.execute(count, [number]).fetchone() == (0, number)

    target.crowd(work)


@EVERY_MODE
def test_reading_given_up(target: Target) -> None:
    """A client that leaves COPY TO STDOUT early cancels it, and goes on."""

    def work(number: int, meet: Meet) -> None:
        with psycopg.connect(target.url, autocommit=True) as connection:
            meet()
            for size in (10_000, 1_000_000):
                # Each row is more than the server keeps before it sends; the rows take for ever.
                rows = f"select {number}, repeat('x', {size}), pg_sleep(0.01)"
                with (
                    pytest.raises(ZeroDivisionError),
                    connection.cursor().copy(
                        f"copy ({rows} from generate_series(1, 10000)) to stdout"
                    ) as copy,
                ):
                    assert bytes(copy.read()).startswith(f"{number}\txxx".encode())
                    raise ZeroDivisionError
                assert connection.execute("select %s::int", [number]).fetchone() == (number,)

    assert len(target.crowd(work)) == CLIENTS
