"""SHOW USERS."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import CONSOLE, View
from poolproxy.settings.entries import UserSettings

_NOBODY = UserSettings()


@attrs.frozen
class User:
    """One user of the configuration, of auth_file, or with a pool; and that of the console's pool."""

    name: str = column(Type.TEXT, "The user's name.")
    pool_size: str = column(Type.TEXT, "The user's own pool_size, right-aligned; empty if not set.")
    reserve_pool_size: str = column(Type.TEXT, "The same of reserve_pool_size.")
    pool_mode: str | None = column(Type.TEXT, "The user's own pool mode; NULL if not set.")
    max_user_connections: int = column(Type.INT, "Servers that its pools may have; 0: no limit.")
    current_connections: int = column(Type.INT, "Servers that they have.")
    max_user_client_connections: int = column(
        Type.INT, "Clients that may log in as it; 0: no limit."
    )
    current_client_connections: int = column(Type.INT, "Clients that have, and consoles.")


def _rows(view: View) -> Iterator[Row]:
    pooled = {pool.pool.user for pool in view.ledger}
    ours = view.config.settings
    known = {*view.config.users, *view.userlist, *pooled, *view.user_clients, *view.consoles}
    for name in sorted(known | {CONSOLE}):
        user = view.config.users.get(name, _NOBODY)
        row = User(
            name=name,
            pool_size=_aligned(user.pool_size),
            reserve_pool_size=_aligned(user.reserve_pool_size),
            pool_mode=user.pool_mode.value if user.pool_mode is not None else None,
            max_user_connections=user.max_user_connections or ours.max_user_connections,
            current_connections=view.connections(user=name),
            max_user_client_connections=(
                user.max_user_client_connections or ours.max_user_client_connections
            ),
            current_client_connections=view.user_clients.get(name, 0) + view.consoles.get(name, 0),
        )
        yield values_of(row)


def _aligned(number: int | None) -> str:
    return "" if number is None else f"{number:9d}"


USERS = Show("USERS", columns_of(User), "The users and their limits.", _rows)
