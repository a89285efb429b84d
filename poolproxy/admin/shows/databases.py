"""SHOW DATABASES."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import CONSOLE, View
from poolproxy.settings.config import TEMPLATE, PoolSettings


@attrs.frozen
class Database:
    """One database, of the configuration or made of its * entry."""

    name: str = column(Type.TEXT, "The name that clients ask for.")
    host: str | None = column(
        Type.TEXT,
        "Where PostgreSQL is, with commas; NULL if nothing is said: the socket in unix_socket_dir.",
    )
    port: int = column(Type.INT, "Its port; that of the first host.")
    database: str = column(Type.TEXT, "The database's name there.")
    force_user: str | None = column(Type.TEXT, "The user of all its servers; NULL: the client's.")
    pool_size: int = column(Type.INT, "Servers that each of its pools may have.")
    min_pool_size: int = column(Type.INT, "Servers that are kept open.")
    reserve_pool_size: int = column(
        Type.INT, "Servers more that a pool may have when clients wait long."
    )
    server_lifetime: int = column(Type.INT, "Seconds after which an idle server is replaced.")
    pool_mode: str | None = column(Type.TEXT, "The database's pool mode; NULL: the general one.")
    load_balance_hosts: str | None = column(
        Type.TEXT, "How servers are spread over the hosts; NULL with one host.", default=None
    )
    max_connections: int = column(Type.INT, "Servers that all its pools may have; 0: no limit.")
    current_connections: int = column(Type.INT, "Servers that they have.")
    max_client_connections: int = column(Type.INT, "Clients that it may have; 0: no limit.")
    current_client_connections: int = column(Type.INT, "Clients that it has.")
    paused: bool = column(Type.INT, "1 if it is paused.")
    disabled: bool = column(Type.INT, "1 if new clients are refused.")


def _rows(view: View) -> Iterator[Row]:
    made = {pool.database for pool in view.standing} | {pool.pool.database for pool in view.ledger}
    for name in sorted(
        {*view.config.databases, *made, *view.holds.databases, CONSOLE} - {TEMPLATE}
    ):
        row = _console(view) if name == CONSOLE else _database(view, name)
        if row is not None:
            yield values_of(row)


def _database(view: View, name: str) -> Database | None:
    entry, ours = view.config.database(name), view.config.settings
    if entry is None:
        return None  # it was removed, and is counted still
    # What holds for a user without settings of its own; "" is nobody's name.
    pool = view.config.pool(name, "")
    assert pool is not None
    return Database(
        name=name,
        host=",".join(host.name for host in pool.hosts) if entry.host else None,
        port=pool.hosts[0].port,
        database=pool.dbname,
        force_user=entry.user,
        pool_size=pool.pool_size,
        min_pool_size=pool.min_pool_size,
        reserve_pool_size=pool.reserve_pool_size,
        server_lifetime=int(pool.server_lifetime),
        pool_mode=entry.pool_mode.value if entry.pool_mode is not None else None,
        load_balance_hosts=balance_of(pool),
        max_connections=pool.max_db_connections,
        current_connections=view.connections(database=name),
        max_client_connections=entry.max_db_client_connections or ours.max_db_client_connections,
        current_client_connections=view.database_clients.get(name, 0),
        paused=view.holds.paused or name in view.holds.databases,
        disabled=name in view.holds.disabled,
    )


def balance_of(pool: PoolSettings) -> str | None:
    """As PgBouncer has it: only a list is spread."""
    return pool.load_balance_hosts.value if len(pool.hosts) > 1 else None


def _console(view: View) -> Database:
    return Database(
        name=CONSOLE,
        host=None,
        port=view.config.settings.listen_port,
        database=CONSOLE,
        force_user=CONSOLE,
        pool_size=2,
        min_pool_size=0,
        reserve_pool_size=0,
        server_lifetime=int(view.config.settings.server_lifetime),
        pool_mode="statement",
        max_connections=0,
        current_connections=0,
        max_client_connections=0,
        current_client_connections=sum(view.consoles.values()),
        paused=False,
        disabled=False,
    )


DATABASES = Show("DATABASES", columns_of(Database), "The databases and their limits.", _rows)
