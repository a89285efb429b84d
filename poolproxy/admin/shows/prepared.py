"""SHOW PREPARED_STATEMENTS. Not in PgBouncer."""

from __future__ import annotations

import attrs

from poolproxy.admin.column import Type, column, columns_of
from poolproxy.admin.command import Show

LONGEST = 1024  # characters that are shown of a statement's text


@attrs.frozen
class Prepared:
    """A prepared statement that clients of a pool share, in one worker."""

    worker: int = column(Type.INT, "The worker.")
    database: str = column(Type.TEXT, "The database.")
    user: str = column(Type.TEXT, "The user that the pool's servers log in as.")
    name: str = column(Type.TEXT, "What it is called on servers.")
    clients: int = column(Type.INT, "Names that clients have for it.")
    servers: int = column(Type.INT, "Servers that have it now.")
    query: str = column(Type.TEXT, f"Its text, up to {LONGEST} characters.")


PREPARED_STATEMENTS = Show(
    "PREPARED_STATEMENTS",
    columns_of(Prepared),
    "The named prepared statements of transaction and statement mode, for each worker and pool.",
)
