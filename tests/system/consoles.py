"""The admin console in system tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.fixtures.proxy import ProxyProcess

Rows = list[dict[str, Any]]


@contextmanager
def console(
    proxy: ProxyProcess, user: str = "boss", database: str = "pgbouncer", **parameters: Any
) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A connection to the console; users are trusted."""
    with psycopg.connect(
        host=proxy.host,
        port=proxy.port,
        user=user,
        dbname=database,
        autocommit=True,
        row_factory=dict_row,
        **parameters,
    ) as connection:
        yield connection


def give(proxy: ProxyProcess, command: str, user: str = "boss") -> Rows:
    """The rows of one command, on a connection of its own."""
    with console(proxy, user) as connection:
        cursor = connection.execute(command)
        return cursor.fetchall() if cursor.description else []


def one(rows: Rows, **wanted: Any) -> dict[str, Any]:
    """The one row that has these values."""
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    assert len(found) == 1, (wanted, rows)
    return found[0]
