"""The relay on socket pairs: real sockets and a real epoll, with a host that writes down what it is told.

Nothing waits: ``settle`` runs the engine until nothing is ready any more, so a test is over as soon
as its bytes have arrived.
"""

from __future__ import annotations

import itertools
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

import attrs

from poolproxy.ipc.messages import CancelKey, PoolKey
from poolproxy.pool.hosts import Role
from poolproxy.pool.pool import WorkerPool
from poolproxy.relay.client import Client
from poolproxy.relay.connection import Connection
from poolproxy.relay.context import Context, Pool
from poolproxy.relay.engine import Engine
from poolproxy.relay.preparing import PreparingClient
from poolproxy.relay.server import Server
from poolproxy.settings.hosts import Host as Where
from poolproxy.settings.toml import load_toml
from poolproxy.wire.build import message, parameter_status, query, ready_for_query
from poolproxy.wire.parameters import Tracker
from poolproxy.wire.read import ErrorFields, MessageReader, error_fields
from tests.fixtures.toml import to_toml

PROXY = {"listen_addr": ["127.0.0.1"], "auth_type": "trust"}
DATABASE = {"host": "127.0.0.1", "user": "ann", "pool_mode": "transaction"}
MAX_PREPARED = 0
C = TypeVar("C", bound=Connection)
TURNS = 400  # of at most 5 ms each: what is ready after as many will be ready forever
DONE = message(ord("C"), b"SELECT 1\0") + ready_for_query()
FAILED = message(ord("E"), b"SERROR\0C42601\0Mno\0\0")
COPY_IN = message(ord("G"), b"\0\0\0")
IN_BLOCK = message(ord("C"), b"BEGIN\0") + ready_for_query(ord("T"))
SELECT = query("select 1")
SYNC = message(ord("S"), b"")
TERMINATE = message(ord("X"), b"")


def settle(engine: Engine) -> None:
    """Run until nothing is ready; fails if that never happens (an event that is not handled)."""
    for _ in range(TURNS):
        before = engine.rounds
        engine.turn()
        if engine.rounds == before:
            return
    raise AssertionError("the engine spins")


@attrs.define
class Ended:
    """A server that the relay has ended."""

    server: Server
    reason: str
    busy: bool
    ended: bool


@attrs.define
class Host:
    """The worker's part."""

    engine: Engine
    wants: int = 0
    probes: int = 0
    closed: list[tuple[Client, str, bool]] = attrs.Factory(list)
    ends: list[Ended] = attrs.Factory(list)
    turned: list[tuple[Server, Role]] = attrs.Factory(list)
    cancels: list[tuple[Server, Callable[[], bool]]] = attrs.Factory(list)
    handed_over: list[Server] = attrs.Factory(list)

    def want(self, pool: Pool, *, probe: bool = False) -> None:
        self.wants += 1
        self.probes += probe

    def server_turned(self, server: Server, role: Role) -> None:
        self.turned.append((server, role))

    def between_transactions(self, client: Client) -> None:
        assert client.server is not None

    def hand_over(self, server: Server) -> None:
        self.handed_over.append(server)
        server.pool.call(server.pool.called - 1, server.pool.called_since)
        server.let_go()

    def cancel_abandoned(self, server: Server, runs: Callable[[], bool]) -> None:
        self.cancels.append((server, runs))

    def client_fails(self, client: Client, message: str) -> None:
        assert not client.closed

    def client_closed(self, client: Client, reason: str, *, error: bool) -> None:
        self.closed.append((client, reason, error))

    def end_server(self, server: Server, reason: str, *, busy: bool, ended: bool) -> None:
        self.ends.append(Ended(server, reason, busy, ended))
        self.engine.close_later(server.sock)


class Peer:
    """The far end of a connection: the application's, or PostgreSQL's."""

    def __init__(self, relay: Relay, sock: socket.socket) -> None:
        self.relay = relay
        self.sock = sock
        sock.setblocking(False)

    def send(self, data: bytes) -> None:
        """Send all of it, letting the relay work while the kernel takes no more."""
        while data:
            pushed = self.push(data)
            data = data[pushed:]
            self.relay.settle()
            assert pushed or self._can_push(), "the relay does not read"

    def push(self, data: bytes) -> int:
        """Send what the kernel takes now; the relay sees nothing of it yet."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def flood(self, data: bytes) -> int:
        """Send until neither the kernel nor the relay takes more; how many bytes they took."""
        total = 0
        while pushed := self.push(data[total:]):
            total += pushed
            self.relay.settle()
        return total

    def _can_push(self) -> bool:
        return bool(select.select([], [self.sock], [], 0)[1])

    def receive(self) -> bytes:
        """All that arrives."""
        received = bytearray()
        while chunk := self.pull():
            received += chunk
            self.relay.settle()
        return bytes(received)

    def pull(self, size: int = 1 << 20) -> bytes:
        """What has arrived; the relay sees nothing of it yet."""
        try:
            return self.sock.recv(size)
        except (BlockingIOError, ConnectionResetError):
            return b""

    def error(self) -> ErrorFields:
        """The ErrorResponse that is the last thing which arrives before the end."""
        reader = MessageReader(1 << 20)
        reader.feed(self.receive())
        messages = []
        while (found := reader.next_message()) is not None:
            messages.append(found)
        assert messages[-1][0] == ord("E"), messages
        assert self.is_closed()
        return error_fields(messages[-1][1])

    def is_closed(self) -> bool:
        """Whether the relay has closed, once all that came before is read."""
        self.receive()
        try:
            return self.sock.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.sock.close()
        self.relay.settle()


class Relay:
    """An engine with one pool."""

    def __init__(self, proxy: Mapping[str, Any], database: Mapping[str, Any]) -> None:
        tables = {
            "poolproxy": {**PROXY, "max_prepared_statements": MAX_PREPARED, **proxy},
            "databases": {"db": {**DATABASE, **database}},
        }
        self.config = load_toml(to_toml(tables), "test.toml")
        settings = self.config.pool("db", "ann")
        assert settings is not None
        self.engine = Engine(quiet=lambda: False)
        self.host = Host(self.engine)
        self.context = Context(
            engine=self.engine,
            host=self.host,
            tracker=Tracker(),
            max_packet_size=1 << 30,
        )
        self.pool: Pool = WorkerPool(PoolKey("db", "ann"), settings, self.config.settings)
        self._numbers = itertools.count(1)
        self._sockets: list[socket.socket] = []

    def client(self, early: bytes = b"", **parameters: str) -> tuple[Client, Peer]:
        """A client that has just logged in."""
        ours, theirs = self._pair()
        number = next(self._numbers)
        kind = Client if self.pool.statements is None else PreparingClient
        client = self.dressed(kind)(
            self.context,
            ours,
            id=number,
            pool=self.pool,
            user="ann",
            key=CancelKey(number, b"1234"),
            values=self.context.tracker.values(parameters),
            settings=self.config.client("db", "ann"),
            peer="127.0.0.1",
            port=1,
            connected_at=monotonic(),
        )
        client.begin(early)
        return client, self.peer(theirs)

    def server(self, **parameters: str) -> tuple[Server, Peer]:
        """A server connection that has just logged in."""
        ours, theirs = self._pair()
        return self.connected(ours, **parameters), self.peer(theirs)

    def connected(self, sock: socket.socket, **parameters: str) -> Server:
        """The same, with this socket."""
        number = next(self._numbers)
        server = self.dressed(Server)(
            self.context,
            sock,
            permit=number,
            keep=False,
            pool=self.pool,
            key=CancelKey(number, b"5678"),
            address=(socket.AF_UNIX, "/nowhere"),
            host=Where("127.0.0.1", 5432),
            role=None,
            values=self.context.tracker.values(parameters),
            name=f"S-{number}",
            connected_at=monotonic(),
        )
        self.pool.servers.add(server)
        server.watch()
        server.pass_on(monotonic())
        return server

    def dressed(self, kind: type[C]) -> type[C]:
        """What stands for this class; here itself."""
        return kind

    def peer(self, sock: socket.socket) -> Peer:
        return Peer(self, sock)

    def settle(self) -> None:
        """As the function of this name."""
        settle(self.engine)

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        self._sockets += [ours, theirs]
        return ours, theirs

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self.engine.close()


@contextmanager
def relay(
    proxy: Mapping[str, Any] | None = None, database: Mapping[str, Any] | None = None
) -> Iterator[Relay]:
    """A relay whose pool has these settings."""
    one = Relay(proxy or {}, database or {})
    try:
        yield one
    finally:
        one.close()


def row(size: int) -> bytes:
    return message(ord("D"), b"x" * size)


def report(name: str, value: str) -> bytes:
    return parameter_status(name, value)
