"""A worker with a pool in session mode."""

from __future__ import annotations

import socket
from time import monotonic

from poolproxy.ipc.messages import (
    CancelKey,
    Configure,
    Parameter,
    PoolKey,
    ServerUp,
)
from poolproxy.relay.session import SessionClient, SessionServer
from poolproxy.settings.hosts import Host
from poolproxy.wire.parameters import Values
from poolproxy.worker.options import Wishes
from poolproxy.worker.reload import reload
from poolproxy.worker.session import Claim, Own
from tests.fixtures.toml import to_toml
from tests.worker.house import DATABASE, PROXY, House

POOL = PoolKey("db", "ann")
REPORTED = {"DateStyle": "ISO, MDY", "application_name": ""}
NONE: dict[str, str] = {}


class SessionHouse(House):
    """A worker with a pool in session mode. PostgreSQL reports what ``REPORTED`` has."""

    def __init__(self, **database: object) -> None:
        super().__init__({"auth_type": "any"}, {"pool_mode": "session", "pool_size": 5, **database})
        self.pool.welcomed(tuple(Parameter(*item) for item in REPORTED.items()))

    @property
    def defaults(self) -> Values:
        return self.worker.context.tracker.values(REPORTED)

    def own(self, parameters: dict[str, str] = NONE, *, named_by_us: bool = False) -> Own:
        wanted = Wishes("db", "ann", parameters)
        tracker = self.worker.context.tracker
        return Own.of(wanted, tracker, self.defaults, named_by_us=named_by_us)

    def session_server(
        self, parameters: dict[str, str] = NONE, claim: Claim | None = None
    ) -> tuple[SessionServer, socket.socket]:
        """A server that has logged in, opened with these start-up parameters."""
        ours, theirs = self._pair()
        number = next(self._numbers)
        server = SessionServer(
            self.worker.context,
            ours,
            permit=number,
            keep=False,
            pool=self.pool,
            key=CancelKey(number, b"5678"),
            address=(socket.AF_UNIX, "/nowhere"),
            host=Host("127.0.0.1", 5432),
            role=None,
            values=self.worker.context.tracker.values(REPORTED | parameters),
            name=f"S-{number}",
            connected_at=monotonic(),
            welcome=self.pool.welcome,
            wish=self.own(parameters).opened if parameters else None,
        )
        self.pool.opening += 1
        self.worker.server_up(server, ServerUp(number, server.key, 0.01, ()), claim)
        return server, theirs

    def idler(self) -> SessionClient:
        """A client that has had a server since its log-in and does not use it."""
        server, _ = self.session_server()
        self.pool.idle.remove(server)
        ours, _ = self._pair()
        client = self.new_client(SessionClient, ours, self.defaults)
        client.have(server)
        self.worker.client_up(client, b"")
        return client

    def reload(self, **database: object) -> None:
        """Configure the database anew."""
        tables = {"poolproxy": PROXY, "databases": {"db": {**DATABASE, **database}}}
        reload(self.worker, Configure(2, "test.toml", to_toml(tables), "", bytes(32)))

    def logins(self) -> dict[str, int]:
        return self.pool.stats.session_logins
