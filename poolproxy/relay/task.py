"""Queries of our own on a server: checking it, giving it a client's parameters, resetting it.

Their answers reach nobody. A server that fails one is ended, and a client that was to get it loses
nothing: the server has seen nothing of it yet.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import attrs

from poolproxy.errors import PoolerError

if TYPE_CHECKING:
    from poolproxy.relay.client import Client
    from poolproxy.relay.server import Server

TEST_FAILED = "test query failed"
RESET_FAILED = "reset query failed"

INVALID_PARAMETER = PoolerError(
    "invalid server parameter",
    sqlstate="22023",
    hint="The server refused a parameter that the client had set, such as TimeZone.",
    reason="invalid_parameter",
)


@attrs.define
class Task:
    """Queries, one after the other, then ``then(errors)``, errors being their number.

    An error ends it: ``queries`` then has those that were not sent. ``client`` waits for the end.
    """

    queries: list[str]
    then: Callable[[int], None]
    since: float
    client: Client | None = None
    errors: int = 0


def prepare(server: Server, client: Client, now: float) -> None:
    """Check ``server`` if it was idle for long, give it the client's parameters, then link them."""
    pool = server.pool
    check = pool.check_query if now - server.idle_since >= pool.check_delay else None
    queries = [] if check is None else [check]
    statement = server.context.tracker.set_statement(server.values, client.values)
    if statement:
        queries.append(statement)
    after_first = len(queries) - 1

    def then(errors: int) -> None:
        failed_check = check is not None and len(task.queries) == after_first
        _prepared(server, client, errors, failed_check=failed_check)

    task = Task(queries, then, now, client)
    server.run(task)


def _prepared(server: Server, client: Client, errors: int, *, failed_check: bool) -> None:
    now = monotonic()
    server.idle_since = now
    if not errors and not client.closed:
        client.values = server.context.tracker.canonical(client.values, server.values)
        client.start(server, now)
    elif not errors:
        server.pass_on(now)
    elif failed_check or client.closed:
        server.end(TEST_FAILED)
        if not client.closed:
            server.retry_elsewhere(client)
    else:
        server.end(INVALID_PARAMETER.message)
        client.fail(INVALID_PARAMETER)


def reset(server: Server, now: float) -> None:
    """Run server_reset_query, then pass the server on."""
    sql = server.pool.reset_query
    if not sql or server.doomed:
        server.pass_on(now)
        return

    def then(errors: int) -> None:
        if errors:
            server.end(RESET_FAILED)
        else:
            server.pass_on(monotonic())

    server.run(Task([sql], then, now))
