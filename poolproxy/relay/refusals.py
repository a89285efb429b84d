"""What a client is told whose server connection ends, or is refused to it for what it does."""

from __future__ import annotations

from poolproxy.errors import PoolerError

VIOLATION = PoolerError(
    "unknown pkt",
    sqlstate="08006",
    hint="The database server has sent something that breaks the protocol, or that answers nothing. Its"
    " connection is closed; the transaction may or may not have been committed. The log says more.",
    reason="server_violation",
)

NO_BLOCKS = PoolerError(
    "transaction blocks not allowed in statement pooling mode",
    hint="Set pool_mode = transaction or session for this database or user.",
    reason="statement_mode",
)


def server_lost(reason: str) -> PoolerError:
    return PoolerError(
        reason,
        sqlstate="08006",
        hint="The connection to the database server has ended; the transaction may or may not have"
        " been committed.",
        reason="server_lost",
    )
