"""SHOW SESSION_STATE. Not in PgBouncer."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import CONSOLE, View
from poolproxy.metrics.schema import STATE_KINDS, PoolMetrics


@attrs.frozen
class State:
    """One kind of session state in one pool of transaction or statement mode."""

    database: str = column(Type.TEXT, "The database.")
    user: str = column(Type.TEXT, "The user that the pool's servers log in as.")
    session_state: str = column(Type.TEXT, "What the setting says is done about it.")
    kind: str = column(Type.TEXT, f"The kind of state: {', '.join(STATE_KINDS)}.")
    changes: int = column(Type.BIGINT, "Transactions that have left a server with it.")
    pinned: int = column(Type.INT, "Clients that keep their server for it.")
    resets: int = column(Type.BIGINT, "Times a server of this pool was cleaned, for whatever kind.")


def _rows(view: View) -> Iterator[Row]:
    for pool in sorted(view.pools, key=lambda pool: (pool.database, pool.user)):
        if pool.database != CONSOLE:
            yield from _kinds(view, pool)


def _kinds(view: View, pool: PoolMetrics) -> Iterator[Row]:
    settings = view.config.pool_of((pool.database, pool.user))
    policy = (settings or view.config.settings).session_state.value
    for kind in STATE_KINDS:
        row = State(
            database=pool.database,
            user=pool.user,
            session_state=policy,
            kind=kind,
            changes=pool.state_changes.get(kind, 0),
            pinned=pool.pinned.get(kind, 0),
            resets=pool.state_resets,
        )
        yield values_of(row)


SESSION_STATE = Show(
    "SESSION_STATE",
    columns_of(State),
    "Session state that clients of transaction and statement mode have left on servers.",
    _rows,
)
