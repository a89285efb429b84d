"""Session mode as on a connection of one's own.

A client gets its server when it logs in, if one can be had and nobody waits: then it is told the true
process id, and the server was opened with the client's own start-up parameters, so that RESET goes back to
them. PostgreSQL has no way to change afterwards what RESET goes back to. For the parameters that PostgreSQL
reports this is only a flaw: a server that was opened with others is brought to a client's values and serves
it. The rest can't be known once somebody has reset it, so a server that was opened with such parameters
serves only clients with the same ones; while it is idle it is kept ``aside``.

A client that has not used its server yet loses it when others wait. The server is then closed, never given to
another client: it has the process id that the first one was told.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Parameter
from poolproxy.relay.client import Client
from poolproxy.relay.server import Server
from poolproxy.relay.task import (
    MAX_ANSWER,
    TEST_FAILED,
    Task,
    preparation,
    refused_parameter,
)
from poolproxy.wire import unreported
from poolproxy.wire.parameters import Values
from poolproxy.wire.read import MessageReader

if TYPE_CHECKING:
    from poolproxy.relay.context import Pool

UNUSED = "taken at log-in and not used"
UNSUITABLE = "opened with other start-up parameters"


class SessionServer(Server):
    """``welcome``: what it reported at its log-in. ``initial``: the values to which a reset goes back.

    ``wish``: the values of the client that it was opened for, None if it has the pool's parameters.
    """

    __slots__ = ("initial", "welcome", "wish")

    def __init__(
        self, *args: Any, welcome: tuple[Parameter, ...], wish: Values | None, **rest: Any
    ) -> None:
        super().__init__(*args, **rest)
        self.welcome = welcome
        self.wish = wish
        if wish is not None:
            self.values = (*self.values[:-1], unreported.lasting(wish[-1]))
        self.initial = self.values

    def equals(self, wish: Values) -> bool:
        """Whether a server that is opened for a client with this wish would be like this one."""
        if self.wish == wish:
            return True
        tracked = zip(self.initial[:-1], wish[:-1], strict=True)
        same = all((ours or "").lower() == (theirs or "").lower() for ours, theirs in tracked)
        return same and self.initial[-1] == unreported.lasting(wish[-1])

    def suits(self, values: Values) -> bool:
        """Whether it can be brought to these values."""
        return self.initial[-1] in (None, unreported.lasting(values[-1]))

    def client_left(self, *, certain: bool, terminated: bool = False) -> None:
        client = self.client
        if isinstance(client, SessionClient) and client.never_used(self) and not self.out:
            self.client = None
            self.pass_on(monotonic())  # all that was done here is what we know of: nothing to reset
        else:
            super().client_left(certain=certain, terminated=terminated)

    def pass_on(self, now: float) -> None:
        special = self.initial[-1]
        if special is None:
            super().pass_on(now)
            return
        if self.values[-1] is None:
            self.values = (*self.values[:-1], special)  # it has been reset
        waiting = self.pool.waiting
        if waiting and not self.cancels and not self.suits(waiting[0].values):
            self.end(UNSUITABLE)
            return
        super().pass_on(now)
        self.pool.set_aside(self)


class SessionClient(Client):
    """``taken_at``: its last activity when it began with the server that it was told of."""

    __slots__ = ("taken_at",)

    def have(self, server: Server) -> None:
        """Have ``server`` from the start; it is ready for this client."""
        self.server = server
        server.client = self
        server.back.names = None
        self.pool.waits.append(0.0)

    def begin(self, early: bytes) -> None:
        self.taken_at = self.last_activity
        server = self.server
        if server is None:
            super().begin(early)
            return
        self.watch()
        if early:
            try:
                self._forward(server, early)
            except PoolerError as error:
                self.fail(error)

    @property
    def unused(self) -> bool:
        """Whether it has a server and has not sent a byte yet."""
        return self.server is not None and self.never_used(self.server)

    def never_used(self, server: Server) -> bool:
        """Whether nothing of this client has ever reached ``server``, which it has, or had until now.

        One that was told why its server goes has to go, too.
        """
        if server.xact_since or server.back.tainted or self.taken_at != self.last_activity:
            return False
        return not (self.front.left or self.front.head)

    def let_go(self) -> None:
        """Close the server, which is unused. What the client was told of it is true no more."""
        server, self.server = self.server, None
        if server is not None:
            server.client = None
            server.end(UNUSED)


def is_unused(client: Client) -> bool:
    """Whether this client has a server only because it has logged in."""
    return isinstance(client, SessionClient) and client.unused


def let_go(pool: Pool, count: int) -> int:
    """Close up to ``count`` servers that their clients don't use yet; returns how many it were."""
    clients = [server.client for server in pool.servers]
    unused = [c for c in clients if isinstance(c, SessionClient) and c.unused]
    unused.sort(key=lambda client: client.taken_at)
    for client in unused[:count]:
        client.let_go()
    return len(unused[:count])


def make_room(pool: Pool, count: int) -> None:
    """Up to ``count`` who wait are served by servers that suit few, or get the room of servers that suit none
    of them, or that nobody uses.
    """
    for server in list(pool.aside)[:count]:
        pool.aside.remove(server)
        if pool.waiting:
            server.pass_on(monotonic())  # to the first waiter, if it suits that one, else it ends
        else:
            server.end(UNSUITABLE)
        count -= 1
    let_go(pool, count)


# Whether the server is ready; if not, the client's error if PostgreSQL has refused a parameter of it.
Told: TypeAlias = Callable[[bool, PoolerError | None], None]


def ready(server: Server, values: Values, now: float, told: Told) -> None:
    """Check a server that was idle for long, and bring it to ``values``; ``told`` may be called at once.

    A server that is not ready then has been ended or passed on.
    """
    check, statement = preparation(server, values, now)
    queries = [sql for sql in (check, statement) if sql is not None]
    if not queries:
        told(True, None)
        return

    def then(errors: int) -> None:
        server.idle_since = now
        if not errors:
            server.values = server.context.tracker.given(server.values, values)
            told(True, None)
        elif task.error is None or (check is not None and statement in task.queries):
            server.end(TEST_FAILED)
            told(False, None)
        else:
            server.pass_on(now)
            told(False, refused_parameter(task.error))

    task = Readying(queries, then, now, reader=MessageReader(MAX_ANSWER), told=told)
    server.run(task)


@attrs.define
class Readying(Task):
    """The task of :func:`ready`."""

    told: Told = attrs.field(kw_only=True)

    def ended(self, server: Server) -> None:
        self.told(False, None)
