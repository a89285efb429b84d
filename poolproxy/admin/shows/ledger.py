"""SHOW LEDGER. Not in PgBouncer."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import View


@attrs.frozen
class Account:
    """One pool as the ledger has it, over all workers."""

    database: str = column(Type.TEXT, "The database, as clients call it.")
    user: str = column(Type.TEXT, "The user that the pool's servers log in as.")
    permits: int = column(Type.INT, "Server connections that are granted now.")
    opening: int = column(Type.INT, "Those of them that are being opened.")
    up: int = column(
        Type.INT, "Those that are logged in, those on their way between workers among them."
    )
    closing: int = column(Type.INT, "Those that PostgreSQL has not closed yet.")
    pool_size: int = column(Type.INT, "How many the pool may have; 0: no limit.")
    reserve_pool_size: int = column(Type.INT, "How many more when clients wait long.")
    clients: int = column(Type.INT, "Logged-in clients.")
    waiting: int = column(Type.INT, "Clients that workers have asked a server connection for.")
    oldest_ms: int = column(
        Type.BIGINT, "How long the one waits that waits longest, in milliseconds."
    )
    asked: int = column(Type.INT, "Server connections that workers were asked to give back.")
    failing: str = column(Type.TEXT, "Why servers can't be logged in to; empty if they can.")


def _rows(view: View) -> Iterator[Row]:
    for pool in sorted(view.ledger, key=lambda pool: (pool.pool.database, pool.pool.user)):
        row = Account(
            database=pool.pool.database,
            user=pool.pool.user,
            permits=pool.opening + pool.up + pool.moving + pool.closing,
            opening=pool.opening,
            up=pool.up + pool.moving,
            closing=pool.closing,
            pool_size=pool.limits.pool_size,
            reserve_pool_size=pool.limits.reserve_pool_size,
            clients=pool.clients,
            waiting=pool.waiting,
            oldest_ms=round(1000 * (view.now - pool.oldest)) if pool.oldest is not None else 0,
            asked=pool.asked,
            failing=pool.failing,
        )
        yield values_of(row)


LEDGER = Show(
    "LEDGER",
    columns_of(Account),
    "Who holds how many server connections, and who waits for one.",
    _rows,
)
