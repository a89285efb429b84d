"""A client that goes to another worker: whether it can now, what goes with its socket, and its arrival.

Only what is *quiet* moves: nothing of the client is in this process but what is written down here. What it
sends meanwhile stays in the kernel's buffer, which goes with the descriptor. A client of session mode takes
its server along (``relay.moving``).
"""

from __future__ import annotations

import os
import socket
import ssl
import sys

from poolproxy.ipc.messages import (
    ClientNames,
    ClientSecrets,
    ClientState,
    NamedStatement,
    Parameter,
    Relayed,
)
from poolproxy.relay import moving
from poolproxy.relay.client import Client
from poolproxy.relay.context import Context, Pool
from poolproxy.relay.extended import ExtendedClient, extended_only
from poolproxy.relay.guard import GuardedClient, client_class
from poolproxy.relay.preparing import PreparingClient
from poolproxy.relay.replication import ReplicationClient
from poolproxy.relay.server import Server
from poolproxy.relay.session import SessionClient
from poolproxy.relay.tls import TlsConnection, over_tls
from poolproxy.settings.config import ClientSettings
from poolproxy.wire.parameters import Values
from poolproxy.wire.statements import Names, Statements


def can_ever_move(client: Client) -> bool:
    """Not the keys of TLS, which are in this process, nor a walsender's stream, which never rests."""
    return not isinstance(client, (TlsConnection, ReplicationClient))


def is_quiet(client: Client) -> bool:
    """Whether the client can go now."""
    return can_ever_move(client) and _has_nothing_here(client)


def can_be_relayed(client: Client) -> bool:
    """Whether a client can be served elsewhere from now on while its connection stays (``relay.pump``). One
    of session mode stays with its server.
    """
    if isinstance(client, (SessionClient, ReplicationClient)) or client.relayed is not None:
        return False
    settled = not isinstance(client, TlsConnection) or client.is_settled
    return settled and _has_nothing_here(client)


def _has_nothing_here(client: Client) -> bool:
    """Whether nothing is owed to the client, kept for it, or half read from it; nor from its server, which
    only a client of session mode may have.
    """
    front, names = client.front, client.names
    return not (
        (client.server is not None and not _is_at_rest(client, client.server))
        or client.wait_since
        or client.closed
        or client.parting is not None
        or client.out
        or client.held
        or client.raw
        or client.drop
        or front.left
        or front.head
        or front.terminated
        or (names is not None and names.unsettled)
        or (isinstance(client, GuardedClient) and not client.door.between_messages)
    )


def _is_at_rest(client: Client, server: Server) -> bool:
    return isinstance(client, SessionClient) and moving.is_quiet(server)


def state_of(client: Client, secrets: ClientSecrets, *, relayed: bool) -> ClientState:
    """What goes with the socket of a quiet client, or with the end of the pipe by which it is ``relayed``."""
    values = client.values
    return ClientState(
        id=client.id,
        pool=client.pool.key,
        user=client.user,
        session=isinstance(client, SessionClient),
        extended=isinstance(client, ExtendedClient),
        key=client.key,
        values=tuple(Parameter(n, v) for n, v in client.context.tracker.items(values)),
        unreported=values[-1],
        peer=client.peer,
        port=client.port,
        connected_at=client.connected_at,
        last_activity=client.last_activity,
        taken_at=client.taken_at if isinstance(client, SessionClient) else 0.0,
        names=_told(client.names),
        secrets=secrets,
        relayed=_relayed(client) if relayed else client.relayed,
    )


def _relayed(client: Client) -> Relayed:
    tls = client.tls if isinstance(client, TlsConnection) else ""
    if client.sock.family == socket.AF_UNIX:
        return Relayed(tls, os.getpid(), unix=True)
    try:
        here, there = client.sock.getsockname(), client.sock.getpeername()
    except OSError:
        here = there = ("", 0)  # it has just been cut
    return Relayed(tls, os.getpid(), there[0], there[1], here[0], here[1])


def _told(names: Names | None) -> ClientNames | None:
    if names is None:
        return None
    statements = tuple(
        NamedStatement(name, statement.name, statement.tail, names.told.get(name, b""))
        for name, statement in names.statements.items()
    )
    return ClientNames(statements, names.unnamed, names.passed)


def values_of(context: Context, state: ClientState) -> Values:
    """The client's parameters, as this worker keeps them."""
    tracker = context.tracker
    tracked = tracker.values({p.name: p.value for p in state.values})
    return (*tracked[:-1], state.unreported)


def arrived(
    context: Context,
    sock: socket.socket,
    state: ClientState,
    *,
    pool: Pool,
    values: Values,
    settings: ClientSettings,
) -> Client:
    """The client that ``state`` tells of; nothing reads ``sock`` yet."""
    kind: type[Client] = SessionClient if state.session else client_class(pool)
    if state.extended:
        kind = extended_only(kind)
    if isinstance(sock, ssl.SSLSocket):
        kind = over_tls(kind)
    client = kind(
        context,
        sock,
        id=state.id,
        pool=pool,
        user=sys.intern(state.user),
        key=state.key,
        values=values,
        settings=settings,
        peer=sys.intern(state.peer),
        port=state.port,
        connected_at=state.connected_at,
    )
    client.last_activity = state.last_activity
    client.relayed = state.relayed
    if isinstance(client, SessionClient):
        client.taken_at = state.taken_at
    if state.names is not None and isinstance(client, PreparingClient):
        client.names = _remembered(state.names, pool.shared, context.tracker.place(values))
    return client


def _remembered(told: ClientNames, shared: Statements, place: str) -> Names:
    names = Names(place)
    for one in told.statements:
        names.put(one.name, shared.known(one.servers, one.tail, place))
        if one.told:
            names.told[one.name] = one.told
    names.unnamed, names.passed = told.unnamed, told.passed
    return names
