"""A logged-in client.

A client is *linked* to a server from the assignment until the server is released (after the
transaction, the statement or the session). Unlinked, it is idle or waits in its pool's queue; what
it has sent by then is ``held``, at most HOLD bytes: a client that sends more is not read until it
has a server.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import CancelKey, Relayed
from poolproxy.log.party import Party
from poolproxy.relay.cancelling import TO_SYNC, drop_to_sync
from poolproxy.relay.connection import Connection
from poolproxy.relay.context import Context
from poolproxy.relay.engine import CHUNK, SHORT
from poolproxy.relay.lane import THINKS, lateness
from poolproxy.relay.refusals import login_failing
from poolproxy.relay.task import prepare
from poolproxy.settings.config import ClientSettings
from poolproxy.wire.backend import UNSYNCED
from poolproxy.wire.build import error_response
from poolproxy.wire.frontend import HEADER, UNANSWERED, Frontend, expected_size, skip_unanswered
from poolproxy.wire.parameters import Values
from poolproxy.wire.said import joined
from poolproxy.wire.statements import Names
from poolproxy.wire.whole import Whole, whole_request

if TYPE_CHECKING:
    from poolproxy.relay.context import Pool
    from poolproxy.relay.server import Server

log = logging.getLogger(__name__)

# Bytes kept of a client that has no server. A message up to this size gets a server only when it is
# complete, so that a slow sender holds none meanwhile.
HOLD = 65_536
MOST_PROCESSES = 64  # that relay clients of a pool, of which it is remembered when they did last

# Reasons of errors for which a client is closed because of what it has sent.
FAULTS = frozenset(("protocol", "prepared_statements"))


class Client(Connection):
    """``id`` is the acceptor's; ``user`` the one it logged in as; ``peer`` and ``port`` where from.

    ``wait_since``: when it began to need a server, 0 when it needs none. ``fresh``: it is idle, and of what
    it has sent nothing is kept, so that its next byte begins a message. ``whole``: what ``held`` is.
    ``own_since``: ``Server.xact_since`` of the transaction in which the unnamed statement became its own.
    ``parting``: the error that it is told instead of having its next request served. ``relayed``: another
    worker has its connection.
    """

    # What is not forwarded as it is; always empty here, see PreparingClient.
    raw = b""

    __slots__ = (
        "connected_at",
        "context",
        "drop",
        "fresh",
        "front",
        "held",
        "held_types",
        "id",
        "key",
        "last_activity",
        "names",
        "notified",
        "own_since",
        "parting",
        "peer",
        "pool",
        "port",
        "relayed",
        "server",
        "settings",
        "user",
        "values",
        "wait_since",
        "whole",
    )

    def __init__(
        self,
        context: Context,
        sock: socket.socket,
        *,
        id: int,
        pool: Pool,
        user: str,
        key: CancelKey,
        values: Values,
        settings: ClientSettings,
        peer: str,
        port: int,
        connected_at: float,
    ) -> None:
        super().__init__(context.engine, sock)
        self.context = context
        self.id = id
        self.pool = pool
        self.user = user
        self.key = key
        self.values = values
        self.settings = settings
        self.peer = peer
        self.port = port
        self.connected_at = connected_at
        self.last_activity = connected_at
        self.wait_since = 0.0
        self.notified = 0.0
        self.relayed: Relayed | None = None
        self.own_since = 0.0
        self.parting: PoolerError | None = None
        self.server: Server | None = None
        self.front = Frontend()
        self.names: Names | None = None
        self.held = b""
        self.held_types: Sequence[int] = ()
        self.drop = 0
        self.fresh = False
        self.whole: Whole | None = None

    @property
    def name(self) -> Party:
        """For the log, as PgBouncer writes it."""
        address = f"{self.peer}:{self.port}"
        return Party(f"C-{self.id}", self.pool.key.database, self.user, address)

    def begin(self, early: bytes) -> None:
        """Start watching. ``early``: what the client has sent before it was welcomed."""
        self.watch()
        self.fresh = not early
        if early:
            self.take_early(early)

    def take_early(self, data: bytes) -> None:
        """Bytes of this client, which is not linked, that have come before; they begin a message, or go
        on with one that is to be dropped.
        """
        self.front.head = data
        try:
            self._request_more(b"")
        except PoolerError as error:
            self.fail(error)

    def drop_held(self) -> None:
        """Forget what was sent and has not been forwarded; the next byte begins a message."""
        self.held, self.held_types, self.whole = b"", (), None
        self.front.left = 0
        self.front.head = b""

    # -- bytes from the client --------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        if not data:
            self.leave("client unexpected eof")
            return
        if self.fresh:
            self.fresh = False
            if self.names is not None and self.executes(data):
                self.whole, self.held_types = None, ()
                self._serve_or_queue()
                return
            self.whole = whole = whole_request(data)
            if whole is not None and (self.names is None or not self.sweeps(data)):
                self.held = data
                self._serve_or_queue()
                return
        if len(data) >= SHORT:
            self.engine.widen()
        try:
            if self.server is not None:
                self._forward(self.server, data)
            elif self.held or self.drop or self.raw or self.front.head or data[0] in UNANSWERED:
                self._request_more(data)
            else:
                self._request(*self.feed(data))
        except PoolerError as error:
            self.fail(error)

    def sweeps(self, data: bytes) -> bool:
        """Whether ``data`` may deallocate statements of this client by SQL."""
        return False

    def executes(self, data: bytes) -> bool:
        """Whether ``data`` only executes a prepared statement; it is then kept for a server."""
        return False

    def refused(self, server: Server, data: bytes, *, at_rest: bool) -> bytes:
        """What is to be shown now of ``data``, by which ``server`` refuses a plan as stale."""
        server.back.stale = False
        return data

    def feed(self, data: bytes) -> tuple[bytes, Sequence[int]]:
        """(bytes to forward as they are, the types of the messages that begin in them)."""
        data, types, _ = self.front.feed(data, self.context.max_packet_size)
        return data, types

    def forward_raw(self) -> None:
        """Forward what is in ``raw``, as far as it goes."""

    def _forward(self, server: Server, data: bytes) -> None:
        back = server.back
        whole = None
        may_be = back.settled and not back.state.marked  # rest() and ready() must be asked then
        if may_be and self.front.between_messages and not (self.raw or self.out):
            whole = whole_request(data)
            if whole is not None and self.names is not None and self.sweeps(data):
                whole = None
        if whole is not None:
            types: Sequence[int] = whole.types
            self.own_since = server.xact_since
        else:
            data, types = self.feed(data)
        more = back.owed or back.status == UNSYNCED
        back.said = joined(back.said, data) if more else data
        if types:
            if whole is not None:
                back.whole = whole
            else:
                back.owe(types)
            if not server.query_since:
                server.query_since = monotonic()
                if self.relayed is not None:
                    self.pool.engaged_at = server.query_since
                if not server.xact_since:
                    server.xact_since = server.query_since
        if data:
            self.pool.stats.bytes_received += len(data)
            if whole is not None:
                self.engine.post((server.quick, data, server))
                return
            server.write(data)
            if server.out:
                self.pause()
        if self.raw:
            self.forward_raw()
        elif self.front.terminated:
            self.leave("client close request")
        elif not back.owed and back.at_rest:
            server.rest(self, monotonic())  # the end of a COPY that had failed

    def _request_more(self, data: bytes) -> None:
        """Bytes from an unlinked client that has sent some already, or ends a failed COPY."""
        if self.drop == TO_SYNC:
            data = drop_to_sync(self, data)
            if self.drop:
                return
        elif not self.held and not self.raw:
            data = self._without_copy(data)
        data, types = self.feed(data)
        if self.held:
            data = self.held + data
            types = [*(self.whole.types if self.whole else self.held_types), *types]
        if not self.wait_since:
            self._request(data, types)
        elif self.front.terminated:
            self.leave("client close request")
        else:
            self._hold(data, types)

    def _request(self, data: bytes, types: Sequence[int]) -> None:
        """All that an unlinked client has sent: get it a server."""
        front = self.front
        if not types:
            if front.terminated and not self.raw:
                self.leave("client close request")
            if len(self.raw) < HOLD and len(self.raw) < (expected_size(self.raw) or HEADER):
                return  # nothing there, or a message that is still coming: no server for it yet
        if self.parting is not None:
            raise self.parting
        if front.left and len(types) == 1 and front.left <= HOLD - len(data):
            self._hold(data, types)
            return
        self._hold(data, types)
        self._serve_or_queue()

    def _serve_or_queue(self) -> None:
        pool = self.pool
        self.wait_since = now = monotonic()
        if pool.idle:
            server = pool.idle.pop()
            if server.values == self.values and now - server.idle_since < pool.check_delay:
                self.start(server, now)  # as serve does it, without the call
            else:
                prepare(server, self, now)
            return
        if pool.failing and not pool.servers:
            self.context.host.want(pool, probe=True)
            self.fail(login_failing(pool.failing))
            return
        if self.relayed is None:
            pool.waiting.append(self)
        else:
            pool.enter(self, self._lateness(self.relayed.process, now))
        if not pool.want_stands:
            self.context.host.want(pool)

    def _lateness(self, process: int, now: float) -> float:
        """As in ``lane``: nobody is late while transactions of several statements go on, nor if the pool
        has one server.
        """
        pool = self.pool
        since = now - pool.relayed_at.get(process, 0.0)
        if len(pool.relayed_at) >= MOST_PROCESSES:
            pool.relayed_at.clear()  # most have ended long since
        pool.relayed_at[process] = now
        if pool.lone or now < pool.engaged_at + THINKS:
            return 0.0
        return lateness(pool.longest_wait(now), since)

    def _hold(self, data: bytes, types: Sequence[int]) -> None:
        self.held, self.held_types, self.whole = data, types, None
        if len(data) >= HOLD:
            self.pause()

    def _without_copy(self, data: bytes) -> bytes:
        """``data`` without the rest of a COPY that the server has already given up.

        An unlinked client that has nothing held is between two messages, but for a header's beginning.
        """
        data = self.front.head + data
        self.front.head = b""
        end = self.drop
        if end < len(data):
            end += skip_unanswered(data[end:])
        self.drop = max(0, end - len(data))
        return data[end:]

    # -- servers ----------------------------------------------------------------------------------

    def serve(self, server: Server, now: float) -> None:
        """This client is the first in line and ``server`` is free."""
        if server.values == self.values and now - server.idle_since < self.pool.check_delay:
            self.start(server, now)
        else:
            prepare(server, self, now)

    def start(self, server: Server, now: float) -> None:
        """Link with a server that is ready for this client, and send it what was held."""
        data = self.held
        self.held = b""
        pool = self.pool
        pool.stats.bytes_received += len(data)
        pool.waits.append(now - self.wait_since)
        self.wait_since = 0.0
        self.server = server
        server.client = self
        server.query_since = server.xact_since = now
        back = server.back
        back.names = self.names
        back.said = data
        back.whole = whole = self.whole
        if whole is not None:
            post = self.engine.post
            post((server.quick, data, server))
            return
        if data:
            back.owe(self.held_types)
            server.write(data)
        if server.out:
            self.pause()
        elif not self.reading:
            self.resume()
        if self.raw:
            self.forward_raw()
        elif self.front.terminated:
            self.leave("client close request")

    def clogged(self) -> None:
        # Nor does it get a further answer before it has read this one.
        (self.server or self).pause()

    def drained(self) -> None:
        """The client has taken what was kept for it."""
        if self.server is None:
            self.resume()
        else:
            self.server.resume()

    def part(self, error: PoolerError) -> None:
        """Let go of the server, which is at rest; the next request gets this error and is not executed."""
        self.parting = error
        self.fresh = False
        server, self.server = self.server, None
        if server is not None:
            server.client_left(certain=True)

    # -- the end ----------------------------------------------------------------------------------

    def leave(self, reason: str) -> None:
        """The client is gone or goes without a word from us."""
        self._end(reason, error=False)

    def fail(self, error: PoolerError) -> None:
        """Close the client with an ErrorResponse, where its stream is between two messages."""
        server = self.server
        if self.closed:
            return
        self.engine.flush()
        # First the log: who sees the error may look there for more.
        self.context.host.client_fails(self, error.message)
        if not self.out and (server is None or not server.back.left):
            try:
                self.sock.send(error_response(error))
            except OSError:
                pass
        self.pool.stats.errors[error.reason] = self.pool.stats.errors.get(error.reason, 0) + 1
        # What was wrong with its bytes was found amid forwarding them: the server may lack some.
        self._end(error.message, error=True, certain=error.reason not in FAULTS)

    def _end(self, reason: str, *, error: bool, certain: bool = True) -> None:
        if self.closed:
            return
        self._drain_socket()
        self.close()
        if self.wait_since:
            self.pool.give_up(self)  # which looks through all who wait
        server, self.server = self.server, None
        if server is not None:
            server.client_left(
                certain=certain and not self.front.left, terminated=self.front.terminated
            )
        self.context.host.client_closed(self, reason, error=error)

    def _drain_socket(self) -> None:
        # Closing with unread bytes sends a reset, and the client may lose the error before it.
        try:
            self.sock.recv(CHUNK)
        except OSError:
            pass

    def hung_up(self) -> None:
        self.leave("client unexpected eof")

    def crashed(self, error: Exception) -> None:
        self._end(f"error in the pooler: {type(error).__name__}", error=False, certain=False)
