"""Clients that go from worker to worker."""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages.parts import CancelKey, Parameter, PoolKey
from poolproxy.ipc.messages.registry import MANY, message
from poolproxy.ipc.messages.server_moves import ServerState


@attrs.frozen
class NamedStatement:
    """A prepared statement that a client has: its own ``name`` of it, the name that ``servers`` know it by,
    and the ``tail`` of its Parse message (``wire.statements``). ``told``: the shape (``wire.shapes``) that it
    knows, b"" if it has not asked.
    """

    name: bytes
    servers: bytes
    tail: bytes
    told: bytes


@attrs.frozen
class ClientNames:
    """The prepared statements of a client; ``unnamed`` and ``passed`` as in ``wire.statements.Names``."""

    statements: tuple[NamedStatement, ...]
    unnamed: bool
    passed: bool


@attrs.frozen
class ClientSecrets:
    """With what another worker can log in to PostgreSQL for a client's pool, as far as a file does not tell:
    the SCRAM keys of a client's log-in, the ``password`` of one by pam or ldap, and what auth_query has said
    of the pool's user, ``found_at`` then (0: it was not asked). ``secret`` None: there is no such user.
    """

    client_key: bytes = attrs.field(repr=False)
    server_key: bytes = attrs.field(repr=False)
    password: bytes | None = attrs.field(repr=False)
    secret: bytes | None = attrs.field(repr=False)
    found_at: float


@attrs.frozen
class Relayed:
    """A client's connection that stays with the worker that has it: because that has the keys of TLS, or
    because clients are not to be moved. ``tls`` for people, "" in the clear, and the addresses of both its
    ends, unless it is a ``unix`` socket; ``process``: that worker's. The descriptor that goes is one end of a
    socket pair.
    """

    tls: str
    process: int
    addr: str = ""
    port: int = 0
    local_addr: str = ""
    local_port: int = 0
    unix: bool = False


@attrs.frozen
class ClientState:
    """A quiet client, all that its next worker has to know. ``user``: the one it has logged in as; the
    database that it has asked for is the pool's. ``session``: it has logged in to a pool in session mode;
    ``taken_at`` as in ``relay.session``. ``extended``: it may send no simple queries.

    ``values``: the tracked parameters, ``unreported`` the other ones of its start-up packet
    (``wire.unreported``). ``relayed``: what it has instead of a connection of its own.
    """

    id: int
    pool: PoolKey
    user: str
    session: bool
    extended: bool
    key: CancelKey
    values: tuple[Parameter, ...]
    unreported: str | None
    peer: str
    port: int
    connected_at: float
    last_activity: float
    taken_at: float
    names: ClientNames | None
    secrets: ClientSecrets
    relayed: Relayed | None = None


# -- acceptor -> worker ------------------------------------------------------------------------------


@message(27)
@attrs.frozen
class Shed:
    """Move clients that make up ``share`` (0 to 1) of this worker's work, at most ``most`` of them, to the
    worker with the number ``target``. It replaces an earlier one for the same target.
    """

    target: int
    share: float
    most: int


@message(37)
@attrs.frozen
class Gather:
    """The clients of a pool are to be with the worker with the number ``home``, which is this one if
    ``here``: there they stay. Else they go there: those that log in, those that are quiet now, and the others
    as their transactions end. ``home`` below 0: they may stay where they are. Those whose connection
    can't go (the encrypted ones, and without ``client_moves`` all) are relayed; without ``relay`` they stay.
    Where only some workers' clients go the others are not told. ``lone``: the pool has no second server.
    """

    pool: PoolKey
    home: int
    here: bool
    relay: bool = True
    lone: bool = False


@message(25, fds=MANY)
@attrs.frozen
class ClientArrival:
    """A quiet client of another worker, in session mode with its server; answered by :class:`ClientArrived`.

    ``sockets`` has an item for each descriptor: the client's id, and the server's permit. One that was lost
    on the way is a reason to refuse the client.
    """

    sockets: tuple[int, ...]
    state: ClientState
    server: ServerState | None


@message(26)
@attrs.frozen
class ClientMoved:
    """The answer to :class:`ClientMove`. ``refused`` "": another worker has the client, forget it. Else it
    stays here, and that is why; if it is ``lost`` the other worker may have read of it before it died: close
    it.
    """

    client: int
    refused: str
    lost: bool = False


# -- worker -> acceptor ------------------------------------------------------------------------------


@message(85, fds=MANY)
@attrs.frozen
class ClientMove:
    """A quiet client is to go to another worker: the one with the number ``target``, 0 for whichever has most
    room. This one reads it no more, and keeps its own descriptors until :class:`ClientMoved`. ``sockets`` as
    in :class:`ClientArrival`.
    """

    sockets: tuple[int, ...]
    target: int
    state: ClientState
    server: ServerState | None


@message(86)
@attrs.frozen
class ClientArrived:
    """The answer to :class:`ClientArrival`. ``refused``: why this worker does not take the client, "" if it
    does. It reads nothing of the client before this is sent.
    """

    client: int
    refused: str


# -- both ways ---------------------------------------------------------------------------------------


@message(89)
@attrs.frozen
class RelayEnds:
    """A worker that is replaced will relay these clients no longer; passed on to those that serve them, which
    tell them why and close them.
    """

    clients: tuple[int, ...]


@message(95)
@attrs.frozen
class Unrelay:
    """A worker wants these clients back, whose connections it has; passed on to those that serve them, which
    send them there as each is quiet. ``target``: that worker's number, which the acceptor knows.
    """

    clients: tuple[int, ...]
    target: int = 0
