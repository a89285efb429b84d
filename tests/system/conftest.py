"""Fixtures of the system tests."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer


@pytest.fixture(scope="session")
def admin(postgres: PostgresServer) -> Iterator[psycopg.Connection]:
    """A direct connection as superuser, in autocommit, to look at the server and change it."""
    with psycopg.connect(postgres.url(), autocommit=True, application_name="admin") as connection:
        yield connection
