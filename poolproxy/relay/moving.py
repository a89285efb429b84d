"""Server connections that go from one worker process to another.

What PostgreSQL knows of a connection goes with its descriptor; what we know goes in a ``ServerState``. That
is the whole of it only while the connection is *quiet*: nothing is owed, no message is half way in either
direction, no query of ours runs and no cancel request is on its way there. What an encrypted connection
knows is in OpenSSL's memory and can't be sent.

A server that arrives under another configuration than it left is doomed: it serves the client that it has,
if any, and is closed when it is free.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, cast

from poolproxy.ipc.messages import Leftover, ServerState, SessionPart
from poolproxy.log.party import Party
from poolproxy.pool.hosts import Role
from poolproxy.relay.context import Context, Pool
from poolproxy.relay.replication import ReplicationServer
from poolproxy.relay.server import Address, Server
from poolproxy.relay.session import SessionServer
from poolproxy.relay.tls import TlsConnection
from poolproxy.settings.hosts import Host
from poolproxy.wire.parameters import Values
from poolproxy.wire.prepared import PreparedBackend

CHANGED = "database configuration changed"


def may_move(server: Server) -> bool:
    """Whether connections of this kind can go to another process at all."""
    return not isinstance(server, (TlsConnection, ReplicationServer))


def is_quiet(server: Server) -> bool:
    """Whether it can go now, with its client if it has one: that must be quiet, too."""
    back = server.back
    busy = server.closed or server.task is not None or server.cancels or server.out
    linked = server.client is not None and server.xact_since
    return may_move(server) and back.at_rest and not (busy or linked or back.tainted)


def server_state(server: Server, generation: int) -> ServerState:
    """What is to be sent of a server that is quiet; nothing is changed."""
    back, (family, where) = server.back, server.address
    session = None
    if isinstance(server, SessionServer):
        session = SessionPart(server.welcome, server.wish, server.initial)
    prepared = back.prepared if isinstance(back, PreparedBackend) else {}
    return ServerState(
        permit=server.permit,
        pool=server.pool.key,
        generation=generation,
        keep=server.keep,
        name=str(server.name),
        key=server.key,
        host=server.host.name,
        port=server.host.port,
        role=server.role.value if server.role is not None else "",
        family=family,
        where=tuple(where) if isinstance(where, tuple) else (where,),
        connected_at=server.connected_at,
        idle_since=server.idle_since,
        last_activity=server.last_activity,
        tracked=server.context.tracker.names,
        values=server.values,
        prepared=tuple(statement.name for statement in prepared),
        shapes=tuple(prepared.values()),
        leftovers=tuple(Leftover(*key, phrase) for key, phrase in back.state.dirt.items()),
        was_reset=back.state.was_reset,
        doomed=server.doomed,
        session=session,
    )


def server_of(
    state: ServerState, sock: socket.socket, context: Context, pool: Pool, generation: int
) -> Server:
    """The server that has come as ``state`` and ``sock``, for ``pool``, which has its key.

    It is neither watched nor in any list of the pool yet.
    """
    tracker, key, host = context.tracker, state.pool, Host(state.host, state.port)

    def own(values: Values) -> Values:
        same = state.tracked == tracker.names
        return values if same else tracker.translated(values, state.tracked)

    session = state.session
    kind: type[Server] = Server
    special: dict[str, Any] = {}
    if session is not None:
        kind = SessionServer
        wish = own(session.wish) if session.wish is not None else None
        special = {"welcome": session.welcome, "wish": wish}
    server = kind(
        context,
        sock,
        permit=state.permit,
        keep=state.keep,
        pool=pool,
        key=state.key,
        address=_address(state.family, state.where),
        host=host,
        role=Role(state.role) if state.role else None,
        values=own(state.values),
        name=Party(f"S-{state.permit}", key.database, key.user, f"{host} pid={state.key.pid}"),
        connected_at=state.connected_at,
        **special,
    )
    server.values = own(state.values)
    if isinstance(server, SessionServer) and session is not None:
        server.initial = own(session.initial)
    server.idle_since = state.idle_since
    server.last_activity = state.last_activity
    server.doomed = state.doomed
    if not state.doomed and (state.generation != generation or state.tracked != tracker.names):
        server.doomed = CHANGED
    _go_on(server, state)
    return server


def _go_on(server: Server, state: ServerState) -> None:
    """Know of the conversation what the other process knew."""
    back = server.back
    dirt = {(left.kind, left.name): left.phrase for left in state.leftovers}
    back.state.take_over(dirt, was_reset=state.was_reset)
    if isinstance(back, PreparedBackend):
        for name, shape in zip(state.prepared, state.shapes, strict=True):
            back.prepared[back.pool.named(name)] = shape
        back.awake = bool(back.prepared)


def _address(family: int, where: Sequence[str | int]) -> Address:
    unix = family == socket.AF_UNIX
    return family, where[0] if unix else cast("Any", tuple(where))
