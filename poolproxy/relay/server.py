"""A logged-in server connection.

It is in one of these states, and ``Server.state`` tells which:

========  ==================================================================================
active    linked to a client
testing   runs a query of ours (a :class:`Task`); its answers reach nobody
idle      in the pool's list; any message but NotificationResponse makes it unusable
========  ==================================================================================

A server that is not certainly at rest is never given to another client: it is ended.
"""

from __future__ import annotations

import logging
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import CancelKey
from poolproxy.pool.hosts import Role
from poolproxy.relay import turned
from poolproxy.relay.abandoned import abandon
from poolproxy.relay.connection import Connection
from poolproxy.relay.context import Context
from poolproxy.relay.counting import count_query, count_transaction
from poolproxy.relay.engine import SHORT
from poolproxy.relay.guard import clean, keeps, tracked_names
from poolproxy.relay.refusals import NO_BLOCKS, VIOLATION, server_lost
from poolproxy.relay.task import Task, reset
from poolproxy.settings.hosts import Host
from poolproxy.wire.answering import may_come_unasked, only_notifications
from poolproxy.wire.backend import (
    MALFORMED,
    REFUSED_WRITE,
    UNASKED,
    Backend,
    Violation,
)
from poolproxy.wire.build import query
from poolproxy.wire.codes import (
    IDLE,
    IN_FAILED_TRANSACTION,
    IN_TRANSACTION,
    QUERY,
)
from poolproxy.wire.parameters import Values
from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.read import parameter_status
from poolproxy.wire.whole import answers

if TYPE_CHECKING:
    from poolproxy.relay.client import Client
    from poolproxy.relay.context import Pool

# Family and socket address, as socket.connect takes it.
Address: TypeAlias = tuple[int, Any]

log = logging.getLogger(__name__)

MOVED = "host name leads elsewhere"

_IN_BLOCK = (IN_TRANSACTION, IN_FAILED_TRANSACTION)


class Server(Connection):
    """``permit`` is the ledger's number; ``doomed`` says why it is closed when it is free, "" if not.

    ``cancels``: cancel requests on their way to it; it must not be reused before they have arrived.
    ``keep``: not to be closed for idleness. ``host``: which one of the configuration's it is on, and
    ``address`` where that was: there a CancelRequest for it goes. ``role``: what it is, None if not known.
    ``query_since`` and ``xact_since`` are 0 when none runs. ``endless``: no limit binds how long that takes.
    """

    endless = False

    __slots__ = (
        "address",
        "back",
        "cancels",
        "client",
        "connected_at",
        "context",
        "doomed",
        "expires_at",
        "host",
        "idle_since",
        "keep",
        "key",
        "last_activity",
        "name",
        "permit",
        "pool",
        "query_since",
        "role",
        "task",
        "values",
        "xact_since",
    )

    def __init__(
        self,
        context: Context,
        sock: socket.socket,
        *,
        permit: int,
        keep: bool,
        pool: Pool,
        key: CancelKey,
        address: Address,
        host: Host,
        role: Role | None,
        values: Values,
        name: str,
        connected_at: float,
    ) -> None:
        super().__init__(context.engine, sock)
        self.context = context
        self.permit = permit
        self.keep = keep
        self.pool = pool
        self.key = key
        self.address = address
        self.host = host
        self.role = role
        self.values = values
        self.name = name
        self.connected_at = connected_at
        self.expires_at = connected_at + pool.settings.server_lifetime
        self.idle_since = connected_at
        self.last_activity = connected_at
        self.doomed = ""
        self.cancels = 0
        self.query_since = 0.0
        self.xact_since = 0.0
        statements = pool.statements
        self.back: Backend = (
            PreparedBackend(statements, pool.max_prepared) if statements is not None else Backend()
        )
        self.back.state.tracked = tracked_names(context.tracker, values)
        self.client: Client | None = None
        self.task: Task | None = None

    @property
    def state(self) -> str:
        if self.client is not None:
            return "active"
        if self.task is not None:
            return "testing"
        return "being_canceled" if self.cancels else "idle"

    # -- bytes from the server --------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        client, back = self.client, self.back
        whole = back.whole
        if whole is not None:
            status = answers(data, whole)
            if status and client is not None:
                back.whole = None
                self._answered(client, data, status)
                return
        if not data:
            self.lost("server conn crashed?")
            return
        if len(data) >= SHORT:
            self.engine.widen()
        if client is None:
            self._unlinked(data)
            return
        try:
            # The way through a PreparedBackend costs more, so it is spared until one is in use.
            data, at_rest = back.feed(data) if back.awake else Backend.feed(back, data)
            if back.reports:
                self._take_reports(client)
        except Violation as error:
            self._violated(error)
            return
        if back.stale:
            data = client.refused(self, data, at_rest=at_rest)
            if not data:
                return
        self.pool.stats.bytes_sent += len(data)
        client.write(data)
        if client.out:
            self.pause()
        if client.raw:
            client.forward_raw()
            if self.client is not client:
                return
            at_rest = back.at_rest
        if at_rest:
            self.rest(client, monotonic())
        elif not back.owed:
            self._between_queries(client, monotonic())

    def _answered(self, client: Client, data: bytes, status: int) -> None:
        """``data`` is the whole answer to a whole request: what ``received`` and ``rest`` do, in short.

        The client has no unsent bytes, as it was read.
        """
        pool = self.pool
        pool.stats.bytes_sent += len(data)
        post = self.engine.post
        post((client.quick, data, client))
        back = self.back
        now = monotonic()
        if status != IDLE:
            back.status = status
            self._between_queries(client, now)
            return
        if (
            not (pool.brisk or pool.goes_on)
            or back.status != IDLE
            or self.doomed
            or self.cancels
            or now >= self.expires_at
        ):
            back.status = IDLE
            self.engine.flush()  # the client may be given away now
            self.rest(client, now)
            return
        pool.singles.append(now - self.xact_since)
        client.last_activity = self.idle_since = now
        self.client = client.server = None
        client.fresh = True
        if pool.waiting:
            client = pool.waiting.popleft()
            if client.values == self.values:
                client.start(self, now)
            else:
                client.serve(self, now)
        else:
            pool.idle.append(self)

    def _take_reports(self, client: Client | None) -> None:
        """ParameterStatus: what the server has now, and so the client that it serves."""
        tracker = self.context.tracker
        for body in self.back.reports:
            if body == REFUSED_WRITE:
                turned.refused_write(self)
                continue
            name, value = parameter_status(body)
            if name == turned.ROLE_PARAMETER:
                turned.reported(self, value)
            self.values = tracker.updated(self.values, name, value)
            if client is not None:
                client.values = tracker.updated(client.values, name, value)
        if client is not None and client.names is not None:
            client.names.place = tracker.place(client.values)
        self.back.reports.clear()

    def _between_queries(self, client: Client, now: float) -> None:
        if self.query_since:
            count_query(self, now)
        self.last_activity = now
        if self.pool.statement_mode and self.back.status in _IN_BLOCK and not self.back.left:
            client.fail(NO_BLOCKS)

    # -- release ----------------------------------------------------------------------------------

    def rest(self, client: Client, now: float) -> None:
        """The conversation is at rest: count, and release the server unless the session keeps it."""
        if client.front.left:
            return  # what it now reads would be taken for the rest of a late CopyData
        pool = self.pool
        since = self.xact_since
        if since:
            took = now - since
            if self.query_since == since:
                # The usual case, one statement: its time is the transaction's, see WorkerPool.singles.
                pool.singles.append(took)
            else:
                count_transaction(self, took, now)
        client.last_activity = now
        if self.back.block:
            self.back.block = False
            if pool.statement_mode:
                client.fail(
                    NO_BLOCKS
                )  # as if each request of the pipeline had waited for the last one
                return
        left_behind = self.back.state.marked
        if pool.session_mode or (left_behind and keeps(self, client)):
            self.query_since = self.xact_since = 0.0
            if pool.draining or self.doomed:
                self.context.host.between_transactions(client)
            return
        self.client = client.server = None
        client.fresh = not (client.front.head or client.raw)
        if client.out:
            client.pause()  # it gets no further answer before it has read this one
            self.resume()
        elif self.out:
            client.resume()  # it was stopped for what this server does not take, and now never will
        if pool.reset_always or left_behind:
            self.release(now)
        else:
            self.pass_on(now)
        if pool.draining:
            self.context.host.between_transactions(client)

    def pass_on(self, now: float) -> None:
        """Give the server to the first waiter, or park it, or end it."""
        pool = self.pool
        if self.cancels:
            return  # see cancel_done
        if self.out or self.back.tainted:
            self.end("unsafe to reuse")
            return
        self.idle_since = now
        if self.doomed or pool.reclaim or now >= self.expires_at:
            reason = pool.why_close(self, now)
            if reason:
                self.end(reason)
                return
        if pool.called and pool.yields:
            self.context.host.hand_over(self)
        elif pool.waiting:
            pool.next_client().serve(self, now)
        else:
            pool.park(self, now)

    def doom(self, reason: str) -> None:
        """Close the server when it is free, which may be now."""
        self.doomed = self.doomed or reason
        if self in self.pool.resting():
            self.end(self.doomed)

    def cancel_done(self) -> None:
        """A cancel request for this server has arrived there, or never will."""
        self.cancels -= 1
        if self.cancels or self.closed or self.client is not None:
            return
        if self.task is not None:
            if not self.back.owed:
                self.task.go_on(self)
        elif self not in self.pool.idle:
            self.pass_on(monotonic())

    def client_left(self, *, certain: bool, terminated: bool = False) -> None:
        """The linked client is gone; ``certain``: all that it was said to have sent is forwarded whole.
        ``terminated``: it has said so, behind that.
        """
        self.client = None
        self.query_since = self.xact_since = 0.0
        if certain and self.back.at_rest and not self.out:
            self.resume()
            self.release(monotonic())
        else:
            abandon(self, certain=certain, terminated=terminated)

    def release(self, now: float) -> None:
        """The server is at rest and its client gone: reset it where that is asked for, pass it on."""
        self.back.block = (
            False  # that was the client's, whom nobody can be disconnected for any more
        )
        if self.pool.session_mode or self.pool.reset_always:
            reset(self, now)
        elif self.back.state.marked:
            clean(self, now)
        else:
            self.pass_on(now)

    # -- our own queries --------------------------------------------------------------------------

    def run(self, task: Task) -> None:
        """Begin a task, now or when no cancel is on its way any more; its ``then`` is called when the
        server is at rest again.
        """
        self.task = task
        self.back.names = None
        if not self.cancels:
            task.go_on(self)

    def ask(self, sql: str) -> None:
        """Send a query of our task."""
        back, message = self.back, query(sql)
        back.errors = 0
        back.said = message
        back.owe((QUERY,))
        self.write(message)

    def _unlinked(self, data: bytes) -> None:
        task = self.task
        if task is None:
            data = self.with_more(data)
            if not only_notifications(data):
                if not may_come_unasked(data):
                    self._violation(UNASKED, f"{data[:5].hex()} while idle")
                self.end("idle server got dirty")
            return
        try:
            _, at_rest = self.back.feed(data)
            task.hear(data)
            if self.back.reports:
                self._take_reports(None)
        except (Violation, PoolerError) as error:
            self._violated(error)
            return
        task.answered(self, at_rest=at_rest)

    # -- the end ----------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Another process has the connection from now on; here it is as if it had been closed.

        Nothing is posted for it, as it is at rest.
        """
        self.closed = True
        self.fd = self.quick = -1
        self.pool.remove(self)
        self.engine.close_later(self.sock)

    def lost(self, reason: str) -> None:
        """PostgreSQL has closed the connection."""
        self.end(reason, ended=True)

    def _violated(self, error: Exception | str) -> None:
        """The server has sent what it did not owe, or what is no message: it is never used again."""
        kind = error.kind if isinstance(error, Violation) else MALFORMED
        self._violation(kind, str(error))
        self.end(VIOLATION.message, error=VIOLATION)

    def _violation(self, kind: str, text: str) -> None:
        log.error("%s: protocol violation by the server: %s", self.name, text)
        violations = self.pool.stats.violations
        violations[kind] = violations.get(kind, 0) + 1

    def end(self, reason: str, *, ended: bool = False, error: PoolerError | None = None) -> None:
        """Nobody gets this server any more; its client, if any, is told ``error``, which without one
        has ``reason`` as its text. Idempotent.
        """
        if self.closed:
            return
        self.closed = True
        self.fd = self.quick = -1
        self.pool.remove(self)
        client, self.client = self.client, None
        task, self.task = self.task, None
        busy = bool(self.back.owed)
        half_way = bool(self.back.left)
        self.context.host.end_server(self, reason, busy=busy, ended=ended)
        if client is not None:
            client.server = None
            if half_way:
                client.leave(reason)  # an error amid a message would be read as its data
            else:
                client.fail(error or server_lost(reason))
        if task is not None:
            task.ended(self)

    def retry_elsewhere(self, client: Client) -> None:
        # The server failed before it had seen anything of this client, so nothing is lost.
        now = monotonic()
        spare = self.pool.idle.pop() if self.pool.idle else None
        if spare is not None:
            client.serve(spare, now)
        else:
            self.pool.requeue(client)
            self.context.host.want(self.pool)

    def clogged(self) -> None:
        self.back.unfold()  # the short way asks no more for what is unsent
        if self.client is not None:
            self.client.pause()

    def drained(self) -> None:
        """The server has taken what its client had sent."""
        if self.client is not None:
            self.client.resume()

    def hung_up(self) -> None:
        self.lost("server conn crashed?")

    def crashed(self, error: Exception) -> None:
        self.end(f"error in the pooler: {type(error).__name__}")
