"""Queries of our own on a server: checking it, giving it a client's parameters, resetting it.

Their answers reach nobody. A server that fails one is ended, and a client that was to get it loses
nothing: the server has seen nothing of it yet. The one exception is a parameter of the client's that
PostgreSQL refuses: then it is the client that ends, and the server is as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import attrs

from poolproxy.errors import PoolerError
from poolproxy.wire.codes import ERROR_RESPONSE
from poolproxy.wire.parameters import Values
from poolproxy.wire.read import ErrorFields, MessageReader, error_fields

if TYPE_CHECKING:
    from poolproxy.relay.client import Client
    from poolproxy.relay.server import Server

TEST_FAILED = "test query failed"
RESET_FAILED = "reset query failed"
TASK_TIMEOUT = 15.0  # seconds for a query of our own, as server_connect_timeout's default
MAX_ANSWER = 1 << 20  # bytes of one message in the answer to a query of ours whose error matters


@attrs.define
class Task:
    """Queries, one after the other, then ``then(errors)``, errors being their number.

    An error ends it: ``queries`` then has those that were not sent. ``client`` waits for the end.
    It is None when it cancels its wait. ``reader``: reads the answers, if their ``error`` is to be known.
    A task of more than ``limit`` seconds costs the server, for the reason ``failure``.
    """

    queries: list[str]
    then: Callable[[int], None]
    since: float
    client: Client | None = None
    reader: MessageReader | None = None
    errors: int = 0
    error: ErrorFields | None = None
    limit: float = TASK_TIMEOUT
    failure: str = TEST_FAILED

    @property
    def awaited(self) -> bool:
        """Whether a client still waits for the end."""
        return self.client is not None and not self.client.closed

    def go_on(self, server: Server) -> None:
        """Send the next query, or end; no cancel may be on its way, as it could hit what is sent."""
        if self.queries and not self.errors:
            server.ask(self.queries.pop(0))
            return
        server.task = None
        self.then(self.errors)

    def answered(self, server: Server, *, at_rest: bool) -> None:
        """The server has sent something."""
        if at_rest:
            self.errors += server.back.errors
            self.go_on(server)
        elif not server.back.owed:
            # server_reset_query or the like has left a transaction open
            server.end(RESET_FAILED)

    def late(self, server: Server, now: float) -> None:
        """It has taken longer than ``limit``."""
        server.end(self.failure)

    def ended(self, server: Server) -> None:
        """The server is lost, before it had seen anything of ``client``."""
        if self.client is not None and not self.client.closed:
            server.retry_elsewhere(self.client)

    def hear(self, data: bytes) -> None:
        """The server's answers, in any pieces; raises PoolerError for what is none."""
        if self.reader is None:
            return
        self.reader.feed(data)
        while (message := self.reader.next_message()) is not None:
            if message[0] == ERROR_RESPONSE:
                self.error = error_fields(message[1])


def preparation(server: Server, values: Values, now: float) -> tuple[str | None, str | None]:
    """(the check of a server that was idle for long, the SQL that brings it to ``values``)."""
    pool = server.pool
    check = pool.check_query if now - server.idle_since >= pool.check_delay else None
    return check, server.context.tracker.set_statement(server.values, values) or None


def prepare(server: Server, client: Client, now: float) -> None:
    """Check ``server`` if it was idle for long, give it the client's parameters, then link them."""
    check, statement = preparation(server, client.values, now)
    queries = [sql for sql in (check, statement) if sql is not None]
    after_first = len(queries) - 1

    def then(errors: int) -> None:
        failed_check = errors > 0 and check is not None and len(task.queries) == after_first
        error = None if failed_check else task.error
        _prepared(server, client, error, failed_check=failed_check, awaited=task.awaited)

    task = Task(queries, then, now, client, MessageReader(MAX_ANSWER) if statement else None)
    server.run(task)


def _prepared(
    server: Server,
    client: Client,
    error: ErrorFields | None,
    *,
    failed_check: bool,
    awaited: bool,
) -> None:
    now = monotonic()
    server.idle_since = now
    tracker = server.context.tracker
    if failed_check:
        server.end(TEST_FAILED)
        if awaited:
            server.retry_elsewhere(client)
        return
    if error is None:
        server.values = tracker.given(server.values, client.values)
    elif awaited and tracker.others(server.values):
        # What is left of another client may be to blame, such as a short statement_timeout.
        _reset_others(server, client, now)
        return
    if not awaited:
        server.pass_on(now)
    elif error is None:
        client.values = tracker.canonical(client.values, server.values)
        client.start(server, now)
    else:
        client.fail(refused_parameter(error))
        server.pass_on(now)


def _reset_others(server: Server, client: Client, now: float) -> None:
    """Take away what another client has left, then serve ``client`` all the same."""
    tracker = server.context.tracker
    default = tracker.default(server.values)

    def then(errors: int) -> None:
        if errors:
            server.end(RESET_FAILED)
            if task.awaited:
                server.retry_elsewhere(client)
            return
        server.values = tracker.default(server.values)
        if task.awaited:
            prepare(server, client, now)
        else:
            server.pass_on(monotonic())

    task = Task([tracker.set_statement(server.values, default)], then, now, client)
    server.run(task)


def refused_parameter(fields: ErrorFields) -> PoolerError:
    """PostgreSQL's own error for a parameter that a client has asked for."""
    return PoolerError(
        fields.message,
        sqlstate=fields.sqlstate,
        hint="PostgreSQL refused a parameter of the client's start-up packet. Correct it at the client,"
        " or name it in ignore_startup_parameters.",
        reason="invalid_parameter",
    )


def reset(server: Server, now: float) -> None:
    """Run server_reset_query, then pass the server on."""
    sql = server.pool.reset_query
    if not sql or server.doomed:
        server.pass_on(now)
        return
    tracker = server.context.tracker
    queries = [sql]
    if not _resets_all(sql):
        # It may reset what is remembered of the server, or not: so nothing shall be left of that.
        others = tracker.set_statement(server.values, tracker.default(server.values))
        queries = [others, sql] if others else queries

    def then(errors: int) -> None:
        if errors:
            server.end(RESET_FAILED)
        else:
            server.values = tracker.default(server.values)
            server.back.state.forget()
            server.pass_on(monotonic())

    server.run(Task(queries, then, now, failure=RESET_FAILED))


def _resets_all(sql: str) -> bool:
    return sql.replace(";", " ").lower().split() == ["discard", "all"]
