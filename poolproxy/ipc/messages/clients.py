"""Clients: how they come, may stay, and go."""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages.parts import CancelKey, PoolKey
from poolproxy.ipc.messages.registry import MANY, message


@attrs.frozen
class Accepted:
    """One accepted client socket. ``local`` is the address it came in on ("unix" or host). The peer of
    a Unix socket is "unix", with its process id as ``port``.
    """

    id: int
    peer: str
    port: int
    local: str
    local_port: int
    accepted_at: float
    surplus: bool  # over max_client_conn when it came: it does not count, and asks to, see FindRoom


# -- acceptor -> worker ------------------------------------------------------------------------------


@message(2, fds=MANY)
@attrs.frozen
class Handoff:
    """Accepted client sockets, one descriptor each, in the order of ``clients``."""

    clients: tuple[Accepted, ...]


@message(7)
@attrs.frozen
class Admit:
    """The answer to :class:`Login` and :class:`FindRoom`: ``limit`` names the setting that is exceeded, "" if
    none is.
    """

    client: int
    limit: str


@message(35)
@attrs.frozen
class Drain:
    """Send the clients of a database away (57P01), each when it is between two transactions, spread over the
    time until ``until``, and at ``deadline``, if it is not 0, those that are left; let no others in.
    ``until`` 0: let clients in again.

    ``database`` "" is all databases; letting nobody in is then for the acceptor.
    """

    database: str
    until: float
    deadline: float = 0.0


# -- worker -> acceptor ------------------------------------------------------------------------------


@message(70)
@attrs.frozen
class Login:
    """A client has authenticated and wants in; sent only where a client limit is configured for its
    database or user. Answered by :class:`Admit`. Admission lasts until :class:`ClientsGone`.
    """

    client: int
    database: str
    user: str


@message(79)
@attrs.frozen
class FindRoom:
    """A client that came when max_client_conn was reached wants in: others may have left since. Answered by
    :class:`Admit`. ``last``: it is refused if there is no room now.
    """

    client: int
    last: bool


@message(71)
@attrs.frozen
class ClientUp:
    """A client has logged in: its cancel key, its pool, and the user it logged in as."""

    client: int
    key: CancelKey
    pool: PoolKey
    user: str


@message(72)
@attrs.frozen
class ClientsGone:
    """These accepted sockets are closed, logged in or not."""

    clients: tuple[int, ...]
