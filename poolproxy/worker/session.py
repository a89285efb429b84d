"""A server for a client of session mode from its log-in on; see ``relay.session``.

An idle server like the one that would be opened for it comes first, then one that is opened for it, then any
idle server that can be brought to its parameters. Where none can be had the client logs in without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeGuard

import attrs
import trio

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import LoginWant
from poolproxy.relay.context import Pool
from poolproxy.relay.server import Server
from poolproxy.relay.session import SessionClient, SessionServer, make_room, ready
from poolproxy.relay.task import refused_parameter
from poolproxy.wire.parameters import Tracker, Values
from poolproxy.wire.read import ErrorFields
from poolproxy.wire.unreported import ROLE
from poolproxy.worker.options import Wishes
from poolproxy.worker.worker import Worker

APPLICATION_NAME = "application_name"
# Values, names, privileges for them; parameters that can't be set now (cant_change_runtime_param).
BAD_PARAMETER = ("22", "42", "55P02")


@attrs.frozen
class Own:
    """The server that a client would have without a pooler: its start-up ``parameters``, and its values
    then (``opened``). ``values``: those that the client is to have.
    """

    parameters: dict[str, str]
    opened: Values
    values: Values

    @classmethod
    def of(cls, wanted: Wishes, tracker: Tracker, defaults: Values, *, named_by_us: bool) -> Own:
        """``named_by_us``: the application's name has the client's address in it. A server that was opened
        with that would be like no other.
        """
        parameters = {
            name: value
            for name, value in wanted.parameters.items()
            if not (named_by_us and name.lower() == APPLICATION_NAME)
        }
        values = tracker.wished(wanted.parameters, defaults)
        opened = tracker.wished(parameters, defaults)
        lasting = {name: value for name, value in parameters.items() if name.lower() != ROLE}
        return cls(lasting, opened, values)


class Claim:
    """A client that logs in has asked for a server, of this ``kind``. ``settled``: there is one, or there
    will be none.
    """

    kind: type[SessionServer] = SessionServer

    def __init__(self, own: Own) -> None:
        self.own = own
        self.server: SessionServer | None = None
        self.error: PoolerError | None = None
        self.settled = trio.Event()
        self.over = False

    def blames(self, sqlstate: str, from_server: bool) -> bool:
        """Whether it was this client's parameters that made PostgreSQL refuse a server with this error."""
        return bool(self.own.parameters) and from_server and sqlstate.startswith(BAD_PARAMETER)

    def refusal(self, fields: ErrorFields) -> PoolerError:
        """What the client is told then."""
        return refused_parameter(fields)

    def deliver(self, server: Server, now: float) -> None:
        """The server that was opened for it, or an idle one of another worker; if nobody waits for a server
        more urgently, and if it can be brought to the client's parameters: that worker did not know these.
        """
        if self.over or server.pool.waiting or not self._suits(server):
            server.pass_on(now)
        else:
            self.server = server
        self.settled.set()

    def _suits(self, server: Server) -> TypeGuard[SessionServer]:
        if not isinstance(server, SessionServer):
            return False
        return server.equals(self.own.opened) or server.suits(self.own.values)

    def refuse(self, error: PoolerError | None = None) -> None:
        """There will be none; ``error``: PostgreSQL has refused the client's parameters."""
        self.error = self.error or error
        self.settled.set()

    def give_up(self) -> None:
        """The client is gone."""
        self.over = True
        if self.server is not None:
            self.server.pass_on(monotonic())


def unblock(worker: Worker, pool: Pool) -> None:
    """Where a limit keeps clients waiting, let go of servers that are in their way; see ``Blocked``."""
    waiting = len(pool.waiting) + len(pool.demands)
    if pool.blocked and waiting:
        coming = pool.opening + sum(key == pool.key for key in worker.closings.values())
        make_room(pool, max(0, waiting - coming))


@contextmanager
def held(server: SessionServer | None) -> Iterator[None]:
    """Pass the server on if the log-in that has it fails."""
    try:
        yield
    except BaseException:
        if server is not None and not server.closed and server.client is None:
            server.pass_on(monotonic())
        raise


def catch_up(client: SessionClient) -> None:
    """The client has its server and has not used it: obey what was ordered amid the log-in, when that server
    was neither idle nor anybody's.
    """
    server, pool = client.server, client.pool
    if server is None:
        return
    if server.doomed:
        client.let_go()
    elif pool.reclaim:
        pool.reclaims(pool.reclaim - 1)
        client.let_go()
    elif pool.called and not pool.waiting:
        pool.call(pool.called - 1, pool.called_since)
        client.let_go()


async def take(worker: Worker, pool: Pool, client: int, own: Own) -> SessionServer | None:
    """A server that nobody else has, ready for this client; None if none can be had now.

    Raises PoolerError if PostgreSQL refuses the client's parameters.
    """
    taken = await _first_ready(pool, own, lambda server: server.equals(own.opened))
    how = "equal"
    if taken is None:
        taken = await _opened(worker, pool, client, own)
        how = "opened"
    if taken is None:
        taken = await _first_ready(pool, own, lambda server: server.suits(own.values))
        how = "adapted"
    counts = pool.stats.session_logins
    how = how if taken is not None else "later"
    counts[how] = counts.get(how, 0) + 1
    return taken


async def _first_ready(
    pool: Pool, own: Own, fits: Callable[[SessionServer], bool]
) -> SessionServer | None:
    while (server := _idle(pool, fits)) is not None:
        if await _ready(server, own):
            return server
    return None


def _idle(pool: Pool, fits: Callable[[SessionServer], bool]) -> SessionServer | None:
    if pool.waiting or pool.reclaim:
        return None
    for servers in (pool.aside, pool.idle):
        for server in reversed(servers):
            if isinstance(server, SessionServer) and fits(server):
                servers.remove(server)
                return server
    return None


async def _opened(worker: Worker, pool: Pool, client: int, own: Own) -> SessionServer | None:
    """Ask the acceptor for a permit, and wait until the server is there."""
    if pool.waiting or pool.failing:
        return None
    claim = worker.claims[client] = Claim(own)
    worker.channel.post(LoginWant(client, pool.key))
    worker.hurried -= 1  # others hurry for it now: the acceptor, and the task that opens the server
    try:
        await claim.settled.wait()
    except trio.Cancelled:
        worker.channel.post(LoginWant(client, pool.key, wanted=False))
        claim.give_up()
        raise
    finally:
        worker.hurried += 1
        del worker.claims[client]
    if claim.error is not None:
        raise claim.error
    server = claim.server
    return server if server is not None and await _ready(server, own) else None


async def _ready(server: SessionServer, own: Own) -> bool:
    """Whether the server could be made ready; if not it is nobody's any more. Raises PoolerError."""
    if server.closed:
        return False
    told: list[tuple[bool, PoolerError | None]] = []
    done = trio.Event()
    over = False

    def tell(is_ready: bool, error: PoolerError | None) -> None:
        told.append((is_ready, error))
        done.set()
        if over and is_ready:
            server.pass_on(monotonic())

    # What a server that was opened for it has already counts as the client's, however it is written.
    *tracked, _ = (
        value if value != opened else initial
        for value, opened, initial in zip(own.values, own.opened, server.initial, strict=True)
    )
    like_it = server.equals(own.opened)
    values = (*tracked, own.values[-1]) if like_it else own.values
    ready(server, values, monotonic(), tell)
    try:
        await done.wait()
    except trio.Cancelled:
        over = True
        if told and told[0][0]:
            server.pass_on(monotonic())
        raise
    is_ready, error = told[0]
    if error is not None:
        raise error
    return is_ready and not server.closed
