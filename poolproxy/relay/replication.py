"""Replication connections: one client and one server, from log-in to end, in every pool mode.

PostgreSQL serves such a connection by a walsender, which is told so in the start-up packet. It can't become
an ordinary server, nor serve a second client. What it sends has no end, so no limit on queries binds it.
https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolproxy.relay.client import Client
from poolproxy.relay.session import SessionClient, SessionServer
from poolproxy.wire.backend import Backend, Violation
from poolproxy.wire.codes import COPY_BOTH_RESPONSE, QUERY

if TYPE_CHECKING:
    from poolproxy.relay.context import Pool

SERVER_LOST = "server conn crashed?"
CLIENT_LEFT = "replication client has left"


class ReplicationBackend(Backend):
    """A walsender's stream. After CopyBothResponse both sides send CopyData until both have sent CopyDone."""

    __slots__ = ()

    @property
    def settled(self) -> bool:
        """Never: what takes whole answers the short way releases the server."""
        return False

    def _unusual(self, code: int, message: bytes) -> None:
        if code != COPY_BOTH_RESPONSE:
            super()._unusual(code, message)
        elif not self.owed or self.owed[0] != QUERY:
            raise Violation("CopyBothResponse that answers nothing")


class ReplicationServer(SessionServer):
    """Ends with its client. ``logical``: it has a database, for logical replication."""

    __slots__ = ("logical",)

    endless = True

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.logical = False
        self.back = ReplicationBackend()

    def rest(self, client: Client, now: float) -> None:
        self.query_since = self.xact_since = 0.0
        client.last_activity = self.last_activity = now

    def _between_queries(self, client: Client, now: float) -> None:
        self.rest(client, now)

    def pass_on(self, now: float) -> None:
        self.end(CLIENT_LEFT)

    def client_left(self, *, certain: bool, terminated: bool = False) -> None:
        self.client = None
        self.end(CLIENT_LEFT)


def close_all(pool: Pool, reason: str) -> None:
    """End the pool's replication connections; a client connects again, to where the pool now leads."""
    for server in [s for s in pool.servers if isinstance(s, ReplicationServer)]:
        server.end(reason)


class ReplicationClient(SessionClient):
    """Its server is no other client's, whether it is used or not."""

    __slots__ = ()

    def begin(self, early: bytes) -> None:
        if self.server is None:
            self.leave(SERVER_LOST)  # while it was welcomed
        else:
            super().begin(early)

    @property
    def unused(self) -> bool:
        return False
