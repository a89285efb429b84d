"""Permits: who wants a server connection, who may open one, who has to give one back."""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages.parts import PoolKey
from poolproxy.ipc.messages.registry import message


@attrs.frozen
class Candidate:
    """A host that an attempt may try. ``suspect``: it has failed before, so it gets little time."""

    host: str
    port: int
    suspect: bool


# -- acceptor -> worker ------------------------------------------------------------------------------


@message(3)
@attrs.frozen
class Permit:
    """The right to hold one server connection. ``keep``: not to be closed for idleness (min_pool_size).

    ``client``: the permit answers the :class:`LoginWant` of this client; 0: it is for whoever waits.
    ``hosts``: which hosts to try, in this order; none: the configuration has no choice.
    """

    permit: int
    pool: PoolKey
    keep: bool
    client: int = 0
    hosts: tuple[Candidate, ...] = ()


@message(11)
@attrs.frozen
class NoServer:
    """The other answer to :class:`LoginWant`: the client logs in without a server connection."""

    client: int


@message(4)
@attrs.frozen
class Reclaim:
    """Give ``count`` permits of the pool back: idle servers at once, others as they are freed.

    The number is absolute: it replaces what an earlier Reclaim for the pool asked for; 0 withdraws it.
    """

    pool: PoolKey
    count: int


@message(12)
@attrs.frozen
class Blocked:
    """Clients of a session pool wait, and a limit is what keeps them waiting (``blocked``), or is no more.

    A worker closes then what stands in its own clients' way: servers that logged-in clients have not used
    yet, and those that were opened with other clients' start-up parameters.
    """

    pool: PoolKey
    blocked: bool


@message(13)
@attrs.frozen
class WaitReason:
    """The answer to :class:`WhyWait`. ``limit`` names the setting that allows no further server connection,
    ``size`` is its value; "" if none does. ``failing``: why the last log-in to the server failed, "" if a
    next one may be tried. ``waiting``: clients over all workers, as far as they have told.
    """

    pool: PoolKey
    limit: str
    size: int
    failing: str
    waiting: int


# -- worker -> acceptor ------------------------------------------------------------------------------


@message(65)
@attrs.frozen
class Want:
    """The worker's need for servers of a pool; replaces its earlier one.

    ``waiting`` clients have no server, the oldest since ``since``; 0 withdraws the want. ``login``
    is true if one of them waits for its log-in because no welcome is cached. ``probe``: nobody waits,
    but a client has just failed fast; try to log in if server_login_retry allows.

    A grant does not use a want up: it stands until the worker replaces it. While clients wait it is
    told again when its numbers have changed, at most every 0.1 s (the ledger reckons with that age).
    """

    pool: PoolKey
    waiting: int
    since: float
    login: bool
    probe: bool


@message(77)
@attrs.frozen
class LoginWant:
    """A client of a session pool logs in and would like a server connection from the start, if nobody
    waits and a permit can be had. Answered by a :class:`Permit` for it, or by :class:`NoServer`. If it is
    gone before, a second message says that it is not ``wanted``.
    """

    client: int
    pool: PoolKey
    wanted: bool = True


@message(78)
@attrs.frozen
class WhyWait:
    """Clients of the pool have waited for query_wait_notify: what for? Answered by :class:`WaitReason`."""

    pool: PoolKey
