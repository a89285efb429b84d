"""Who a line of the log is about."""

from __future__ import annotations


class Party(str):
    """The name of a connection as PgBouncer writes it, and its parts for structured logs.

    A text, so that any message can begin with it: ``log.info("%s closing because: %s", party, reason)``.
    """

    __slots__ = ("address", "connection", "database", "user")

    connection: str
    database: str
    user: str
    address: str

    def __new__(cls, connection: str, database: str, user: str, address: str) -> Party:
        self = super().__new__(cls, f"{connection}: {database}/{user}@{address}")
        self.connection, self.database = connection, database
        self.user, self.address = user, address
        return self
