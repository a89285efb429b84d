"""Server connections that go from worker to worker."""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages.parts import CancelKey, Parameter, PoolKey
from poolproxy.ipc.messages.permits import Want
from poolproxy.ipc.messages.registry import MANY, message


@attrs.frozen
class Leftover:
    """Session state that a client has left on a server connection, see ``wire.session_state``."""

    kind: str
    name: bytes
    phrase: str


@attrs.frozen
class SessionPart:
    """What is known besides of a server connection in session mode, see ``relay.session``. ``wish`` and
    ``initial`` are values of parameters as those of its :class:`ServerState`.
    """

    welcome: tuple[Parameter, ...]
    wish: tuple[str | None, ...] | None
    initial: tuple[str | None, ...]


@attrs.frozen
class ServerState:
    """All that is known of a server connection at rest, so that another process can go on with it; its
    descriptor travels beside it. Made and read by ``relay.moving``.

    ``generation``: of the configuration with which it was in use. ``host`` and ``port``: where the
    configuration has it; ``role`` as in :class:`HostSeen`. ``family`` and ``where``: its address, as
    socket.connect takes it. ``tracked``: the names of the parameters whose ``values`` are known, the last
    value being that of the unreported ones. ``prepared``: names of the shared statements that it has, the
    least recently used first, and their ``shapes`` there (``wire.shapes``). ``doomed``: why it is closed when
    it is free, "" if it is not.
    """

    permit: int
    pool: PoolKey
    generation: int
    keep: bool
    name: str
    key: CancelKey
    host: str
    port: int
    role: str
    family: int
    where: tuple[str | int, ...]
    connected_at: float
    idle_since: float
    last_activity: float
    tracked: tuple[str, ...]
    values: tuple[str | None, ...]
    prepared: tuple[bytes, ...]
    shapes: tuple[bytes, ...]
    leftovers: tuple[Leftover, ...]
    was_reset: bool
    doomed: str
    session: SessionPart | None


# -- acceptor -> worker ------------------------------------------------------------------------------


@message(20)
@attrs.frozen
class Yield:
    """Hand ``count`` servers of the pool over (:class:`ServerYielded`) for clients of other workers, the
    oldest of whom waits since ``since``: idle servers at once; then those that are freed while no client of
    its own has waited as long.

    The numbers are absolute: they replace what an earlier one for the pool asked for; 0 withdraws it. What
    can't be moved is closed instead, so that its permit moves.
    """

    pool: PoolKey
    count: int
    since: float


@message(21)
@attrs.frozen
class YieldIdle:
    """Hand an idle server of the pool over now, for a client that logs in with another worker; answered by
    :class:`ServerYielded` with its number, or by :class:`NoneIdle`.
    """

    pool: PoolKey
    client: int


@message(22, fds=MANY)
@attrs.frozen
class ServersCome:
    """Servers that another worker has yielded, one descriptor each. Each is answered by
    :class:`ServerTaken`. ``client``: there is one, in answer to the :class:`LoginWant` of this client, or 0.
    """

    servers: tuple[ServerState, ...]
    client: int


# -- worker -> acceptor ------------------------------------------------------------------------------


@message(80)
@attrs.frozen
class ServerYielded:
    """A server that this worker has let go of; the acceptor's duplicate of its descriptor is all that keeps
    it open. ``want``: the worker's need now, if it differs from what it told last. ``client``: see YieldIdle.
    """

    server: ServerState
    want: Want | None
    client: int = 0


@message(81)
@attrs.frozen
class ServerTaken:
    """A server that has come is in use here; ``want`` as in :class:`ServerYielded`. If it was not ``taken``
    the worker has closed its descriptor, and the acceptor ends the connection.
    """

    permit: int
    taken: bool
    want: Want | None


@message(82)
@attrs.frozen
class NoneIdle:
    """The other answer to :class:`YieldIdle`: there is no idle server."""

    pool: PoolKey
    client: int
