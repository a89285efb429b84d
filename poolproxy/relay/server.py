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
from bisect import bisect_left
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import CancelKey
from poolproxy.metrics.registry import BOUNDS
from poolproxy.relay.connection import CHUNK, Connection
from poolproxy.relay.context import Context
from poolproxy.relay.task import Task, reset
from poolproxy.wire.backend import Backend, Violation, only_notifications
from poolproxy.wire.build import query
from poolproxy.wire.codes import (
    IN_FAILED_TRANSACTION,
    IN_TRANSACTION,
    QUERY,
)
from poolproxy.wire.parameters import Values
from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.read import parameter_status

if TYPE_CHECKING:
    from poolproxy.relay.client import Client
    from poolproxy.relay.context import Pool

# Family and socket address, as socket.connect takes it.
Address: TypeAlias = tuple[int, Any]

log = logging.getLogger(__name__)

_IN_BLOCK = (IN_TRANSACTION, IN_FAILED_TRANSACTION)


class Server(Connection):
    """``permit`` is the ledger's number; ``doomed`` says why it is closed when it is free, "" if not.

    ``cancels``: cancel requests on their way to it; it must not be reused before they have arrived.
    ``keep``: not to be closed for idleness. ``address``: where a CancelRequest for it goes.
    ``query_since`` and ``xact_since`` are 0 when none runs.
    """

    __slots__ = (
        "address",
        "back",
        "cancels",
        "client",
        "connected_at",
        "context",
        "doomed",
        "expires_at",
        "idle_since",
        "keep",
        "key",
        "last_activity",
        "name",
        "permit",
        "pool",
        "query_since",
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
        self.client: Client | None = None
        self.task: Task | None = None

    @property
    def state(self) -> str:
        if self.client is not None:
            return "active"
        return "testing" if self.task is not None or self.cancels else "idle"

    # -- bytes from the server --------------------------------------------------------------------

    def readable(self) -> None:
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client, back = self.client, self.back
        if not data:
            self.lost("server conn crashed?")
            return
        if client is None:
            self._unlinked(data)
            return
        try:
            # The way through a PreparedBackend costs more, so it is spared until one is in use.
            data, at_rest = back.feed(data) if back.awake else Backend.feed(back, data)
            if back.reports:
                self._take_reports(client)
        except (Violation, PoolerError) as error:
            self._violated(str(error))
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

    def _take_reports(self, client: Client | None) -> None:
        """ParameterStatus: what the server has now, and so the client that it serves."""
        tracker = self.context.tracker
        for body in self.back.reports:
            name, value = parameter_status(body)
            self.values = tracker.updated(self.values, name, value)
            if client is not None:
                client.values = tracker.updated(client.values, name, value)
        self.back.reports.clear()

    def _between_queries(self, client: Client, now: float) -> None:
        if self.query_since:
            self._count_query(now)
        self.last_activity = now
        if self.pool.statement_mode and self.back.status in _IN_BLOCK and not self.back.left:
            error = PoolerError(
                "transaction blocks not allowed in statement pooling mode",
                hint="Set pool_mode = transaction or session for this database or user.",
                reason="statement_mode",
            )
            client.fail(error)

    def _count_query(self, now: float) -> None:
        took = now - self.query_since
        self.query_since = 0.0
        stats = self.pool.stats
        stats.query_count += 1
        stats.query_time += took
        stats.query_hist[bisect_left(BOUNDS, took)] += 1

    def _count_transaction(self, took: float, now: float) -> None:
        if self.query_since:
            self._count_query(now)
        stats = self.pool.stats
        stats.xact_count += 1
        stats.xact_time += took
        stats.xact_hist[bisect_left(BOUNDS, took)] += 1

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
                pool.singles_time += took
                pool.singles[bisect_left(BOUNDS, took)] += 1
            else:
                self._count_transaction(took, now)
        client.last_activity = now
        if pool.session_mode:
            self.query_since = self.xact_since = 0.0
            return
        self.client = client.server = None
        if client.out:
            client.pause()  # it gets no further answer before it has read this one
            self.resume()
        if pool.reset_always:
            reset(self, now)
        else:
            self.pass_on(now)

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
        if pool.waiting:
            pool.next_client().serve(self, now)
        else:
            pool.park(self, now)

    def cancel_done(self) -> None:
        """A cancel request for this server has arrived there, or never will."""
        self.cancels -= 1
        free = self.client is None and self.task is None and not self.closed
        if free and not self.cancels and self not in self.pool.idle:
            self.pass_on(monotonic())

    def client_left(self, *, half_way: bool) -> None:
        """The linked client is gone; ``half_way``: in the middle of a message."""
        self.client = None
        self.query_since = self.xact_since = 0.0
        if half_way or not self.back.at_rest or self.out:
            self.end("client disconnect while server was not ready")
            return
        self.resume()
        if self.pool.session_mode or self.pool.reset_always:
            reset(self, monotonic())
        else:
            self.pass_on(monotonic())

    # -- our own queries --------------------------------------------------------------------------

    def run(self, task: Task) -> None:
        """Begin a task; its ``then`` is called when the server is at rest again."""
        self.task = task
        self.back.names = None
        self._next_query(task)

    def _next_query(self, task: Task) -> None:
        if not task.queries or task.errors:
            self.task = None
            task.then(task.errors)
            return
        sql = task.queries.pop(0)
        self.back.errors = 0
        self.back.owe((QUERY,))
        self.write(query(sql))

    def _unlinked(self, data: bytes) -> None:
        task = self.task
        if task is None:
            if not only_notifications(data):
                self.end("idle server got dirty")
            return
        try:
            _, at_rest = self.back.feed(data)
            if self.back.reports:
                self._take_reports(None)
        except (Violation, PoolerError) as error:
            self._violated(str(error))
            return
        if at_rest:
            task.errors += self.back.errors
            self._next_query(task)
        elif not self.back.owed:
            # server_reset_query or the like has left a transaction open
            self.end("reset query failed")

    # -- the end ----------------------------------------------------------------------------------

    def lost(self, reason: str) -> None:
        """PostgreSQL has closed the connection."""
        self.end(reason, ended=True)

    def _violated(self, text: str) -> None:
        log.error("%s: protocol violation by the server: %s", self.name, text)
        self.end("unknown pkt")

    def end(self, reason: str, *, ended: bool = False) -> None:
        """Nobody gets this server any more; its client, if any, is told ``reason``. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.pool.remove(self)
        client, self.client = self.client, None
        task, self.task = self.task, None
        busy = bool(self.back.owed)
        half_way = bool(self.back.left or self.back.head)
        self.context.host.end_server(self, reason, busy=busy, ended=ended)
        if client is not None:
            client.server = None
            if half_way:
                client.leave(reason)  # an error amid a message would be read as its data
            else:
                client.fail(_server_error(reason))
        if task is not None and task.client is not None and not task.client.closed:
            self.retry_elsewhere(task.client)

    def retry_elsewhere(self, client: Client) -> None:
        # The server failed before it had seen anything of this client, so nothing is lost.
        now = monotonic()
        spare = self.pool.idle.pop() if self.pool.idle else None
        if spare is not None:
            client.serve(spare, now)
        else:
            self.pool.requeue(client)
            self.context.host.want(self.pool)

    def drained(self) -> None:
        """The server has taken what its client had sent."""
        if self.client is not None:
            self.client.resume()

    def hung_up(self) -> None:
        self.lost("server conn crashed?")

    def crashed(self, error: Exception) -> None:
        self.end(f"error in the pooler: {type(error).__name__}")


def _server_error(reason: str) -> PoolerError:
    return PoolerError(
        reason,
        sqlstate="08006",
        hint="The connection to the database server has ended; the transaction may or may not have"
        " been committed.",
        reason="server_lost",
    )
