"""Fixtures of the system tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.system.roles import authentication_roles


class MakeRoles(Protocol):
    """What the fixture ``make_roles`` gives."""

    def __call__(self, *names: str) -> None: ...


@pytest.fixture(scope="session")
def admin(postgres: PostgresServer) -> Iterator[psycopg.Connection]:
    """A direct connection as superuser, in autocommit, to look at the server and change it."""
    with psycopg.connect(postgres.url(), autocommit=True, application_name="admin") as connection:
        yield connection


@pytest.fixture(scope="module")
def make_roles(admin: psycopg.Connection, postgres: PostgresServer) -> Iterator[MakeRoles]:
    """Create roles that log in with the superuser's password; dropped at the module's end."""
    made: list[str] = []

    def make(*names: str) -> None:
        for name in names:
            admin.execute(f"create role \"{name}\" login password '{postgres.password}'")
            made.append(name)

    yield make
    for name in made:
        admin.execute(f'drop role "{name}"')


@pytest.fixture(scope="module")
def roles(one_postgres: PostgresServer) -> Iterator[None]:
    """Those of the tests of authentication."""
    with authentication_roles(one_postgres):
        yield
