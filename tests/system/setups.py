"""Roles and configurations for tests of failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from poolproxy.demo.postgres import PostgresServer
from tests.system.watching import backends_of, eventually

PASSWORD = "open sesame"


@contextmanager
def role(server: PostgresServer, name: str, limit: int = -1) -> Iterator[str]:
    """A role with a CONNECTION LIMIT; at the end none of its backends may be left."""
    # A test that has failed, with the server dead perhaps, leaves its role to the next one.
    drop = (
        f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{name}'; "
        f"drop role if exists {name};"
    )
    server.psql(f"{drop} create role {name} login password '{PASSWORD}' connection limit {limit}")
    yield name
    eventually(lambda: not backends_of(server, name), 10, f"the backends of {name} end")
    server.psql(drop)


def config(
    server: PostgresServer, name: str = "limited", *, host: str = "127.0.0.1", **proxy: object
) -> dict[str, Any]:
    """Everyone is trusted as the role ``name``; one database, "db"."""
    defaults = {"auth_type": "trust", "pool_mode": "transaction", "workers": 2}
    return {
        "poolproxy": defaults | {"max_client_conn": 500} | proxy,
        "databases": {"db": {"host": host, "port": server.port, "dbname": "postgres"}},
        "users": {name: {"password": PASSWORD}},
    }
