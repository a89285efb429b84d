"""Fixtures of the client matrix."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.clients.target import RESTORED, SERVERS, Target
from tests.fixtures.proxy import ProxyProcess, started_proxies
from tests.system.support import tables

# Names are not used again: what a failed test could not drop is not in the way of the next.
NUMBERS = itertools.count()


class MakeTable(Protocol):
    """What the fixture ``make_table`` gives."""

    def __call__(self, columns: str) -> str: ...


@contextmanager
def running_proxy(server: PostgresServer) -> Iterator[ProxyProcess]:
    """Two workers, and few servers in each mode; clients and servers log in by SCRAM."""
    modes = ("session", "transaction", "statement")
    databases: dict[str, dict[str, object]] = {mode: {"pool_mode": mode} for mode in modes}
    databases[RESTORED] = {"pool_mode": "session", "dbname": RESTORED}
    sized = {name: {"pool_size": SERVERS, **entry} for name, entry in databases.items()}
    with started_proxies() as start:
        yield start(tables(server, sized, workers=2, auth_type="scram-sha-256"))


@pytest.fixture(scope="package")
def proxy(one_postgres: PostgresServer) -> Iterator[ProxyProcess]:
    """The proxy before one version of PostgreSQL: to drivers the versions are much the same."""
    with running_proxy(one_postgres) as proxy:
        yield proxy


@pytest.fixture(params=["session", "transaction"])
def target(
    request: pytest.FixtureRequest, proxy: ProxyProcess, one_postgres: PostgresServer
) -> Target:
    """The database of each mode in which drivers are used."""
    return target_at(proxy, one_postgres, request.param)


@pytest.fixture(scope="package")
def versions_proxy(postgres: PostgresServer) -> Iterator[ProxyProcess]:
    """The proxy before each version of PostgreSQL, for the programs that come with it."""
    with running_proxy(postgres) as proxy:
        yield proxy


@pytest.fixture(params=["session", "transaction"])
def version_target(
    request: pytest.FixtureRequest, versions_proxy: ProxyProcess, postgres: PostgresServer
) -> Target:
    """The database of each mode, with each version of PostgreSQL."""
    return target_at(versions_proxy, postgres, request.param)


@pytest.fixture
def direct_target(postgres: PostgresServer) -> Target:
    """PostgreSQL without a pooler, to compare with."""
    return target_at(postgres, postgres, "postgres")


def target_at(place: ProxyProcess | PostgresServer, server: PostgresServer, name: str) -> Target:
    """The target for a database by its name at the proxy, or at the server itself."""
    return Target(place.host, place.port, server.user, server.password, name)


@pytest.fixture(scope="package")
def admin(one_postgres: PostgresServer) -> Iterator[psycopg.Connection]:
    """A direct connection as superuser to the drivers' server, in autocommit."""
    url = one_postgres.url()
    with psycopg.connect(url, autocommit=True, application_name="admin") as connection:
        # A test that has failed may have left a lock: its table's end is no reason to wait for ever.
        connection.execute("set lock_timeout = '3s'")
        yield connection


@pytest.fixture
def make_table(admin: psycopg.Connection, request: pytest.FixtureRequest) -> Iterator[MakeTable]:
    """Create empty tables by their columns; dropped at the test's end."""
    made: list[str] = []

    def make(columns: str) -> str:
        name = f"matrix_{next(NUMBERS)}"
        admin.execute(f"create table {name} ({columns})")
        made.append(name)
        return name

    yield make
    for name in made:
        admin.execute(f"drop table {name}")
