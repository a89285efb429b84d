"""What the system tests have in common: configurations, waiting, looking at PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import wait_for
from tests.fixtures.proxy import ProxyProcess
from tests.system.protocol_client import RawClient

PATIENCE = 15.0  # seconds until a condition that must come true counts as failed

Tables = dict[str, Any]


def tables(
    server: PostgresServer,
    databases: Mapping[str, Mapping[str, object]],
    users: Mapping[str, Mapping[str, object]] | None = None,
    **proxy: object,
) -> Tables:
    """A configuration whose databases are the server's ``postgres`` by another name.

    Clients are trusted; the superuser and ``users`` log in to the server with the superuser's password.
    """
    target = {"host": server.host, "port": server.port, "dbname": "postgres"}
    everybody = {server.user: {}, **(users or {})}
    return {
        "poolproxy": {"auth_type": "trust", "max_client_conn": 500, **proxy},
        "databases": {name: {**target, **entry} for name, entry in databases.items()},
        "users": {
            name: {"password": server.password, **entry} for name, entry in everybody.items()
        },
    }


def client(
    proxy: ProxyProcess, database: str, user: str = "postgres", **parameters: str
) -> RawClient:
    """A client that is logged in to the proxy."""
    return RawClient((proxy.host, proxy.port), database, user, **parameters)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; fail in its name if it does not."""
    assert wait_for(lambda: bool(condition()), PATIENCE), f"this did not come to be: {what}"


def is_running(admin: psycopg.Connection, pid: int) -> bool:
    """Whether PostgreSQL still has this backend."""
    rows = admin.execute("select from pg_stat_activity where pid = %s", [pid]).fetchall()
    return bool(rows)


def last_query(admin: psycopg.Connection, pid: int) -> tuple[str, str]:
    """(state, text) of what this backend runs or has run last; ("gone", "") if there is none."""
    sql = "select state, query from pg_stat_activity where pid = %s"
    return admin.execute(sql, [pid]).fetchone() or ("gone", "")


def sample(proxy: ProxyProcess, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    total = 0.0
    for line in proxy.metrics().splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name and all(label in series for label in wanted):
            total += float(value)
    return total
