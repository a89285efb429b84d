"""What a client is told that gets no server connection, or whose own ends."""

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
    """For who has a server connection that ends."""
    return PoolerError(
        reason,
        sqlstate="08006",
        hint="The connection to the database server has ended; the transaction may or may not have"
        " been committed.",
        reason="server_lost",
    )


def login_failing(why: str) -> PoolerError:
    """For who would wait for a pool whose log-ins fail."""
    return PoolerError(
        f"server login has been failing, cached error: {why} (server_login_retry)",
        sqlstate="08006",
        hint="The database server can't be reached or refuses the log-in; the next attempt is"
        " made after server_login_retry.",
        reason="server_login_failing",
    )
