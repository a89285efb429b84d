"""What the relay's connections share, and what they ask of the process around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

from poolproxy.pool.hosts import Role
from poolproxy.pool.pool import WorkerPool
from poolproxy.relay.engine import Engine
from poolproxy.wire.parameters import Tracker

if TYPE_CHECKING:
    from poolproxy.relay.client import Client
    from poolproxy.relay.server import Server

Pool: TypeAlias = "WorkerPool[Client, Server]"


class Host(Protocol):
    """The worker around the relay. None of these may block."""

    def want(self, pool: Pool, *, probe: bool = False) -> None:
        """A client of ``pool`` waits; ``probe``: one has failed fast, a log-in may be tried."""

    def client_fails(self, client: Client, message: str) -> None:
        """The client is about to be told why it is closed, by an error of ours."""

    def client_closed(self, client: Client, reason: str, *, error: bool) -> None:
        """The client's socket is closed; ``error``: it was told why."""

    def between_transactions(self, client: Client) -> None:
        """A transaction of a client has ended whose pool is being drained, or whose server is doomed."""

    def end_server(self, server: Server, reason: str, *, busy: bool, ended: bool) -> None:
        """Nobody uses the server any more: bring its connection to an end.

        ``busy``: it may be working on something that should be cancelled first. ``ended``: PostgreSQL
        has closed its end already.
        """

    def server_turned(self, server: Server, role: Role) -> None:
        """The server is no longer what it was at its log-in."""

    def hand_over(self, server: Server) -> None:
        """``server`` is free, and for another worker's client."""

    def cancel_abandoned(self, server: Server, runs: Callable[[], bool]) -> None:
        """Send CancelRequests to the server for as long as ``runs()``."""


@attrs.define
class Context:
    """The limits that bind all connections of a worker; replaced fields take effect at once."""

    engine: Engine
    host: Host
    tracker: Tracker
    max_packet_size: int
