"""auth_query: what PostgreSQL knows of a user that no file of ours knows.

It runs as auth_user on a server connection of that user's ordinary pool, through a client of our own at the
other end of a socket pair: so it waits, counts and is bounded as any client's query. Nothing of the client
that wants in is in it but its name, as a bound parameter (CVE-2021-3935, CVE-2025-12819): no start-up
parameter, no database that is not in the configuration. What goes wrong is told in the log only.
"""

from __future__ import annotations

import logging
import socket
from time import monotonic

import attrs

from poolproxy.auth.secrets import PlainSecret, Secret, parse_secret, text_bytes
from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import CancelKey
from poolproxy.pool.hosts import Role
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.relay.guard import client_class
from poolproxy.relay.server import Server
from poolproxy.relay.session import SessionClient
from poolproxy.settings.config import Lookup
from poolproxy.wire import build
from poolproxy.wire.codes import ERROR_RESPONSE, READY_FOR_QUERY
from poolproxy.wire.read import data_row, error_fields
from poolproxy.worker.streams import Eof, Stream
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

DATA_ROW = ord("D")
COLUMNS = 2
# Answers that are kept, for other log-ins and for the pools' own. Names come from clients.
REMEMBERED = 4096
NOT_ANSWERED = PoolerError(
    "bouncer config error",
    hint="The user could not be looked up by auth_query: the log says why.",
    reason="auth_query",
)


@attrs.frozen
class Found:
    """An answer; ``secret`` None: there is no such user. ``at``: monotonic seconds."""

    secret: Secret | None
    at: float


class LookupFailed(Exception):
    """The text is for the log."""


async def look_up(worker: Worker, database: str, user: str) -> Secret | None:
    """The secret of a user of ``database``; None if it is unknown. Raises PoolerError."""
    lookup = worker.config.lookup(database)
    if lookup is None:
        return None
    key = (lookup.database, user)
    known = worker.found.get(key)
    if known is not None and monotonic() - known.at < worker.config.settings.auth_query_ttl:
        return known.secret
    began = monotonic()
    try:
        secret = _secret(await _ask(worker, lookup, user), user)
    except LookupFailed as error:
        log.error('auth_query in database "%s" failed: %s', lookup.database, error)
        raise NOT_ANSWERED from error
    remember(worker, key, Found(secret, began))
    return secret


def remember(worker: Worker, key: tuple[str, str], found: Found) -> None:
    """Keep an answer, by database and user, unless there is a newer one."""
    known = worker.found.pop(key, None)
    while len(worker.found) >= REMEMBERED:
        del worker.found[next(iter(worker.found))]
    worker.found[key] = found if known is None or known.at < found.at else known


def _secret(rows: list[tuple[bytes | None, ...]], user: str) -> Secret | None:
    if not rows:
        return None
    if len(rows) > 1 or len(rows[0]) != COLUMNS:
        raise LookupFailed(f"expected one row of {COLUMNS} columns")
    name, secret = rows[0]
    if name != text_bytes(user):
        # A longer name is cut by PostgreSQL; nobody may come in by another's secret (CVE-2015-6817).
        if name is None:
            raise LookupFailed("the name is null")
        return None
    if secret is None:
        return PlainSecret("")  # a user whom no password lets in
    try:
        return parse_secret(secret.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise LookupFailed(str(error)) from None


async def _ask(worker: Worker, lookup: Lookup, user: str) -> list[tuple[bytes | None, ...]]:
    settings = worker.config.pool_of((lookup.database, lookup.user))
    if settings is None:
        raise LookupFailed("there is no such database, or auth_user has no pool there")
    pool = worker.pool(settings)
    ours, theirs = socket.socketpair()
    with theirs:
        for sock in (ours, theirs):
            sock.setblocking(False)
        client = _client(worker, pool, ours, lookup)
        client.begin(_messages(lookup.query, user))
        try:
            return await _rows(Stream(theirs))
        except Eof as error:
            raise LookupFailed("the connection was closed") from error
        except PoolerError as error:
            raise LookupFailed(str(error)) from error
        finally:
            # The relay sees the end of the socket by itself, but only if it reads.
            client.leave("auth_query is over")


def _client(worker: Worker, pool: Pool, sock: socket.socket, lookup: Lookup) -> Client:
    tracker = worker.context.tracker
    kind = SessionClient if pool.session_mode else client_class(pool)
    return kind(
        attrs.evolve(worker.context, host=_Host(worker)),
        sock,
        id=0,
        pool=pool,
        user=lookup.user,
        key=CancelKey(0, b""),
        values=tracker.wished({}, tracker.values({p.name: p.value for p in pool.welcome})),
        settings=worker.config.client(lookup.database, lookup.user),
        peer="auth_query",
        port=0,
        connected_at=monotonic(),
    )


def _messages(query: str, user: str) -> bytes:
    """Parse, Bind, Execute and Sync of the unnamed statement; the result as text."""
    name = text_bytes(user)
    parse = b"\0" + query.encode() + b"\0\0\0"
    bind = b"\0\0\0\0\0\1" + len(name).to_bytes(4, "big") + name + b"\0\0"
    execute = b"\0" + bytes(4)
    return b"".join(
        (
            build.message(ord("P"), parse),
            build.message(ord("B"), bind),
            build.message(ord("E"), execute),
            build.SYNC_MESSAGE,
        )
    )


async def _rows(stream: Stream) -> list[tuple[bytes | None, ...]]:
    rows: list[tuple[bytes | None, ...]] = []
    error = ""
    while True:
        code, body = await stream.message()
        if code == DATA_ROW and len(rows) < COLUMNS:
            rows.append(_cells(body))
        elif code == ERROR_RESPONSE:
            error = error or error_fields(body).message
            if error_fields(body).severity == "FATAL":
                raise LookupFailed(error)
        elif code == READY_FOR_QUERY:
            if error:
                raise LookupFailed(error)
            return rows


def _cells(body: bytes) -> tuple[bytes | None, ...]:
    try:
        return data_row(body)
    except PoolerError:
        raise LookupFailed("the row is malformed") from None


@attrs.frozen
class _Host:
    """The worker, for a client that is nobody's: it is not counted, and its end is told to nobody."""

    worker: Worker

    def want(self, pool: Pool, *, probe: bool = False) -> None:
        self.worker.want(pool, probe=probe)

    def client_fails(self, client: Client, message: str) -> None:
        pass

    def client_closed(self, client: Client, reason: str, *, error: bool) -> None:
        pass

    def end_server(self, server: Server, reason: str, *, busy: bool, ended: bool) -> None:
        self.worker.end_server(server, reason, busy=busy, ended=ended)

    def between_transactions(self, client: Client) -> None:
        raise AssertionError("servers have the worker for their host")

    def server_turned(self, server: Server, role: Role) -> None:
        raise AssertionError("servers have the worker for their host")

    def hand_over(self, server: Server) -> None:
        raise AssertionError("servers have the worker for their host")

    def cancel_abandoned(self, server: Server, runs: object) -> None:
        raise AssertionError("servers have the worker for their host")
