"""What the console shows of this worker's connections and statements, one part after the other."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import attrs

from poolproxy.admin.column import Row, values_of
from poolproxy.admin.shows.config import worker_rows
from poolproxy.admin.shows.prepared import LONGEST, Prepared
from poolproxy.admin.shows.sockets import Connection, Descriptor, Socket
from poolproxy.admin.view import CONSOLE
from poolproxy.ipc.messages import Inspect, Inspected
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.relay.replication import ReplicationServer
from poolproxy.relay.server import Server
from poolproxy.relay.tls import TlsConnection
from poolproxy.wire.answers import PreparedAnswers
from poolproxy.wire.statements import Statement
from poolproxy.worker.console import Console
from poolproxy.worker.worker import Worker

PART_ROWS = 100  # with the longest names still below what a channel sends inline; some 2 ms
_MICROSECONDS = 1_000_000
_UNIX = "unix"


def inspect(worker: Worker, message: Inspect) -> None:
    """Answer with the first rows, or with the next ones."""
    if message.stop:
        worker.inspections.pop(message.request, None)
        return
    rows = worker.inspections.get(message.request)
    if rows is None:
        rows = worker.inspections[message.request] = ROWS[message.what](worker)
    part = tuple(islice(rows, PART_ROWS))
    last = len(part) < PART_ROWS
    if last:
        worker.inspections.pop(message.request, None)
    worker.channel.post(Inspected(message.request, part, last))


# -- connections ----------------------------------------------------------------------------------


def _clients(worker: Worker) -> Iterator[Connection]:
    for client in list(worker.clients.values()):
        if not client.closed:
            yield _client(worker, client)
    for console in list(worker.consoles.values()):
        yield _console(console)


def _servers(worker: Worker) -> Iterator[Connection]:
    for server in _all_servers(worker):
        yield _server(worker, server)


def _all_servers(worker: Worker) -> Iterator[Server]:
    for pool in list(worker.pools.values()):
        for server in list(pool.servers):
            if not server.closed:
                yield server


def _client(worker: Worker, client: Client) -> Connection:
    server = client.server
    now = time.monotonic()
    waited = now - client.wait_since if client.wait_since else 0.0
    state = "active" if server is not None else "waiting" if client.wait_since else "idle"
    requested = (server.query_since if server is not None else 0.0) or client.last_activity
    told = client.relayed
    local = told.unix if told is not None else client.sock.family == socket.AF_UNIX
    return Socket(
        type="C",
        user=client.user,
        database=client.pool.key.database,
        replication=_replication(server),
        state=state,
        **_client_ends(worker, client),
        connect_time=_wall(client.connected_at, now),
        request_time=_wall(requested, now),
        **_wait(waited),
        close_needed=False,
        ptr=f"C-{client.id}",
        link=f"S-{server.permit}" if server is not None else "",
        remote_pid=client.port if local else 0,
        tls=_tls(client),
        application_name=_parameter(worker, client.values, "application_name"),
        prepared_statements=len(client.names.statements) if client.names is not None else 0,
        id=client.id,
        recv_pos=len(client.held) + len(client.raw),
        pkt_remain=client.front.left,
        send_remain=len(client.out),
    )


def _replication(server: Server | None) -> str:
    if not isinstance(server, ReplicationServer):
        return "none"
    return "logical" if server.logical else "physical"


def _server(worker: Worker, server: Server) -> Connection:
    client, back = server.client, server.back
    now = time.monotonic()
    return Socket(
        type="S",
        user=server.pool.key.user,
        database=server.pool.key.database,
        replication=_replication(server),
        state={"testing": "tested"}.get(server.state, server.state),
        **_ends(server.sock, server.host.port),
        connect_time=_wall(server.connected_at, now),
        request_time=_wall(server.query_since or server.last_activity, now),
        **_wait(0.0),
        close_needed=bool(server.doomed),
        ptr=f"S-{server.permit}",
        link=f"C-{client.id}" if client is not None else "",
        remote_pid=server.key.pid,
        tls=_tls(server),
        application_name=_parameter(worker, server.values, "application_name"),
        prepared_statements=len(back.prepared) if isinstance(back, PreparedAnswers) else 0,
        id=server.permit,
        recv_pos=0,
        pkt_remain=back.left,
        send_remain=len(server.out),
    )


def _console(console: Console) -> Connection:
    now = time.monotonic()
    accepted = console.accepted
    local = accepted.peer == _UNIX
    return Socket(
        type="C",
        user=console.user,
        database=CONSOLE,
        replication="none",
        state="idle",  # it is linked with no server
        addr=accepted.peer,
        port=accepted.local_port if local else accepted.port,
        local_addr=accepted.local,
        local_port=accepted.local_port,
        connect_time=_wall(console.connected_at, now),
        request_time=_wall(console.last_activity, now),
        **_wait(0.0),
        close_needed=False,
        ptr=f"C-{accepted.id}",
        link="",
        remote_pid=accepted.port if local else 0,
        tls=console.tls,
        application_name=console.application_name,
        prepared_statements=0,
        id=accepted.id,
        recv_pos=0,
        pkt_remain=0,
        send_remain=0,
    )


def _client_ends(worker: Worker, client: Client) -> dict[str, Any]:
    """Those of the connection, also where another worker has that."""
    told, port = client.relayed, worker.config.settings.listen_port
    if told is None:
        return _ends(client.sock, port)
    if told.unix:
        return _unix_ends(port)
    return {name: getattr(told, name) for name in ("addr", "port", "local_addr", "local_port")}


def _ends(sock: socket.socket, port: int) -> dict[str, Any]:
    """The addresses of both ends; a Unix socket has ``port`` in its name."""
    try:
        here, there = sock.getsockname(), sock.getpeername()
    except OSError:
        here = there = ("", 0)  # it has just been cut
    if sock.family == socket.AF_UNIX:
        return _unix_ends(port)
    return {"addr": there[0], "port": there[1], "local_addr": here[0], "local_port": here[1]}


def _unix_ends(port: int) -> dict[str, Any]:
    return {"addr": _UNIX, "port": port, "local_addr": _UNIX, "local_port": port}


def _wait(seconds: float) -> dict[str, Any]:
    whole, fraction = divmod(round(seconds * _MICROSECONDS), _MICROSECONDS)
    return {"wait": whole, "wait_us": fraction}


def _wall(at: float, now: float) -> str:
    """A monotonic time as the local one, as PgBouncer writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(time.time() - (now - at)))


def _tls(connection: Client | Server) -> str:
    if isinstance(connection, TlsConnection):
        return connection.tls
    told = connection.relayed if isinstance(connection, Client) else None
    return told.tls if told is not None else ""


def _parameter(worker: Worker, values: tuple[str | None, ...], name: str) -> str:
    return dict(worker.context.tracker.items(values)).get(name, "")


# -- the commands ---------------------------------------------------------------------------------


def _connections(worker: Worker) -> Iterator[Connection]:
    yield from _clients(worker)
    yield from _servers(worker)


def _without_sockets(connection: Connection) -> Row:
    return values_of(connection)[: len(attrs.fields(Connection))]


def _show_sockets(worker: Worker) -> Iterator[Row]:
    return (values_of(_named(c)) for c in _connections(worker))


def _show_active(worker: Worker) -> Iterator[Row]:
    return (values_of(_named(c)) for c in _connections(worker) if c.state != "idle")


def _named(connection: Connection) -> Connection:
    """With the names that states have among sockets; PgBouncer counts idle clients as active there."""
    state = connection.state
    if connection.type == "C":
        return attrs.evolve(connection, state="cl_waiting" if state == "waiting" else "cl_active")
    return attrs.evolve(connection, state=f"sv_{state}")


def _show_fds(worker: Worker) -> Iterator[Row]:
    for client in list(worker.clients.values()):
        if not client.closed:
            yield values_of(_descriptor(worker, client, "client", client.server))
    for server in _all_servers(worker):
        yield values_of(_descriptor(worker, server, "server", server.client))


def _descriptor(
    worker: Worker, one: Client | Server, task: str, link: Client | Server | None
) -> Descriptor:
    if isinstance(one, Client):
        ends = _client_ends(worker, one)
    else:
        ends = _ends(one.sock, worker.config.settings.listen_port)
    return Descriptor(
        fd=one.sock.fileno(),
        task=task,
        user=one.user if isinstance(one, Client) else one.pool.key.user,
        database=one.pool.key.database,
        addr=ends["addr"],
        port=ends["port"],
        link=link.sock.fileno() if link is not None else 0,
        client_encoding=_parameter(worker, one.values, "client_encoding"),
        std_strings=_parameter(worker, one.values, "standard_conforming_strings"),
        datestyle=_parameter(worker, one.values, "DateStyle"),
        timezone=_parameter(worker, one.values, "TimeZone"),
    )


def _close_needed(worker: Worker) -> Iterator[Row]:
    for server in _all_servers(worker):
        if server.doomed:
            yield (server.pool.key.database,)


def _show_prepared(worker: Worker) -> Iterator[Row]:
    used: dict[Pool, Counter[Statement]] = {}
    for client in worker.clients.values():
        if client.names is not None:
            used.setdefault(client.pool, Counter()).update(client.names.statements.values())
    for pool in list(worker.pools.values()):
        names = used.get(pool, Counter())
        held: Counter[Statement] = Counter()
        for server in pool.servers:
            if isinstance(server.back, PreparedAnswers):
                held.update(server.back.prepared.keys())
        for statement in {**names, **held}:
            query = statement.tail.partition(b"\0")[0].decode("utf-8", "replace")
            row = Prepared(
                worker=worker.metrics.worker,
                database=pool.key.database,
                user=pool.key.user,
                name=statement.name.decode(),
                clients=names[statement],
                servers=held[statement],
                query=query[:LONGEST],
            )
            yield values_of(row)


def _plain(
    connections: Callable[[Worker], Iterable[Connection]],
) -> Callable[[Worker], Iterator[Row]]:
    return lambda worker: (_without_sockets(c) for c in connections(worker))


def _config(worker: Worker) -> Iterator[Row]:
    return worker_rows(worker.metrics.worker, worker.config.settings)


ROWS: dict[str, Callable[[Worker], Iterator[Row]]] = {
    "CLIENTS": _plain(_clients),
    "SERVERS": _plain(_servers),
    "SOCKETS": _show_sockets,
    "ACTIVE_SOCKETS": _show_active,
    "FDS": _show_fds,
    "PREPARED_STATEMENTS": _show_prepared,
    "CLOSE_NEEDED": _close_needed,
    "WORKER_CONFIG": _config,
}
