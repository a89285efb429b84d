"""Servers that are no longer what they were at their log-in: after a failover a primary may be a standby.

Two signs. PostgreSQL 14 and later reports a changed in_hot_standby. And a write is refused with 25006; but
that may be the client's own doing, in a transaction that it has begun READ ONLY. Closing a server in vain
costs a log-in, and a client that does such things in a loop would cost one for each: so a server that has
reported to be a primary, or from which nobody has asked to take writes, is closed for a refused write only
when it is not young.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from poolproxy.pool.hosts import Role
from poolproxy.settings.enums import TargetSession

if TYPE_CHECKING:
    from poolproxy.relay.server import Server

ROLE_PARAMETER = "in_hot_standby"
READ_ONLY = "server is read-only"
OTHER_ROLE = "server has changed its role"
YOUNG = 15.0  # seconds
_WRITERS = (TargetSession.READ_WRITE, TargetSession.PRIMARY)


def reported(server: Server, value: str) -> None:
    """The server has reported its in_hot_standby."""
    role = Role.STANDBY if value == "on" else Role.PRIMARY
    if server.role is None or (server.role is Role.STANDBY) == (role is Role.STANDBY):
        return
    server.role = role
    server.context.host.server_turned(server, role)
    server.doom(OTHER_ROLE)


def refused_write(server: Server) -> None:
    """The server has refused a write because its transaction is read-only."""
    wanted = server.pool.settings.target_session_attrs
    if wanted not in (TargetSession.ANY, *_WRITERS) or server.doomed:
        return
    certain = wanted in _WRITERS and server.role is not Role.PRIMARY
    if certain or monotonic() - server.connected_at >= YOUNG:
        server.doom(READ_ONLY)
