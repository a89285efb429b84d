"""Server connections that are opened and end, and where they lead."""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages.parts import CancelKey, Parameter, PoolKey
from poolproxy.ipc.messages.registry import message

# -- acceptor -> worker ------------------------------------------------------------------------------


@message(5)
@attrs.frozen
class Welcome:
    """The parameters with which clients of the pool are welcomed, once a first server has logged in.

    An empty tuple means: forget what was cached.
    """

    pool: PoolKey
    parameters: tuple[Parameter, ...]


@message(6)
@attrs.frozen
class PoolFailing:
    """Log-ins to the pool's server fail and it has no connected server; clients that need one fail fast.

    ``reason`` is the cached error, "" when log-ins work again. With ``kill_waiting`` the clients
    that wait now get ``reason`` and ``sqlstate`` as their error (the server itself has refused).
    """

    pool: PoolKey
    reason: str
    sqlstate: str
    kill_waiting: bool


@message(40)
@attrs.frozen
class Resolved:
    """What a host name stands for now: the answer to :class:`Resolve`, and sent unasked when it changes.
    ``error`` is why there are no ``addresses``.
    """

    name: str
    addresses: tuple[str, ...]
    error: str


# -- worker -> acceptor ------------------------------------------------------------------------------


@message(66, fds=1)
@attrs.frozen
class ServerOpening:
    """Sent before connect(), with a duplicate of the socket: after this worker's death the acceptor
    uses it to end the server connection. ``host`` and ``port`` are where a CancelRequest would go.
    """

    permit: int
    host: str
    port: int


@message(67)
@attrs.frozen
class ServerUp:
    """The server connection has logged in. ``parameters`` are its ParameterStatus values in order.
    ``movable``: it could go to another worker.

    Sent after the Want that no longer counts the client which this server serves, else the ledger
    grants one permit too many.
    """

    permit: int
    key: CancelKey
    connect_seconds: float
    parameters: tuple[Parameter, ...]
    movable: bool = True


@message(68)
@attrs.frozen
class ServerFailed:
    """A server connection could not be made. The permit comes back by its own :class:`ServerClosed`.

    ``from_server``: PostgreSQL answered, with this error (then ``sqlstate`` is its own) or with a
    request that can't be fulfilled. Either way those who wait need not wait for the next attempt.
    ``reason`` is "" if it was the fault of one client's start-up parameters: this says nothing of the pool.
    """

    permit: int
    reason: str
    sqlstate: str
    from_server: bool


@message(69)
@attrs.frozen
class ServerClosed:
    """The permit is no longer used. ``clean``: PostgreSQL has closed its end (or never had one);
    else server_close_timeout has passed without that.
    """

    permit: int
    clean: bool


@message(100)
@attrs.frozen
class HostSeen:
    """What became of trying one host for a server of the pool, or what a server there has shown to be.

    ``failure``: why it could not be reached, "" if it could. ``role``: what it is (pool.hosts.Role), "" if
    not known. ``serves``: the pool has a new server there.
    """

    pool: PoolKey
    host: str
    port: int
    failure: str
    role: str
    serves: bool


@message(101)
@attrs.frozen
class Resolve:
    """Which addresses does this host name have? Answered by :class:`Resolved`."""

    name: str
