"""A worker without its tasks: a channel whose other end is read, clients and servers on socket pairs."""

from __future__ import annotations

import itertools
import os
import resource
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import trio

from poolproxy.ipc.channel import Channel, pair
from poolproxy.ipc.messages import CancelKey, Configure, Load, Message, ServerUp
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.relay.preparing import PreparingClient
from poolproxy.relay.server import Server
from poolproxy.relay.session import SessionClient, SessionServer
from poolproxy.settings.hosts import Host
from poolproxy.wire.parameters import Values
from poolproxy.wire.read import ErrorFields, MessageReader, error_fields
from poolproxy.worker.janitor import consider
from poolproxy.worker.worker import Worker
from tests.fixtures.toml import to_toml

PROXY = {"listen_addr": ["127.0.0.1"], "auth_type": "trust", "server_login_retry": "1s"}
DATABASE = {"host": "127.0.0.1", "user": "ann", "pool_mode": "transaction"}
C = TypeVar("C", bound=Client)


class House:
    """``worker`` and what the acceptor hears of it."""

    def __init__(
        self, proxy: Mapping[str, Any], database: Mapping[str, Any], more: Iterable[str] = ()
    ) -> None:
        tables = {
            "poolproxy": {**PROXY, **proxy},
            "databases": {name: {**DATABASE, **database} for name in ("db", *more)},
        }
        ours, theirs = pair()
        self.acceptor = Channel(theirs)
        configure = Configure(1, "test.toml", to_toml(tables), "", bytes(32))
        self.worker = Worker(Channel(ours), 0, configure)
        self.worker.may_leave = partial(consider, self.worker)
        self._numbers = itertools.count(1)
        self._sockets = [ours, theirs]

    @property
    def pool(self) -> Pool:
        settings = self.worker.config.pool("db", "ann")
        assert settings is not None
        return self.worker.pool(settings)

    def client(self, early: bytes = b"") -> tuple[Client, socket.socket]:
        ours, theirs = self._pair()
        kind = Client if self.pool.statements is None else PreparingClient
        client = self.new_client(kind, ours, self.worker.context.tracker.nothing)
        self.worker.client_up(client, early)
        return client, theirs

    def new_client(self, kind: type[C], sock: socket.socket, values: Values) -> C:
        """One that has logged in and is not known to the worker yet."""
        number = next(self._numbers)
        return kind(
            self.worker.context,
            sock,
            id=number,
            pool=self.pool,
            user="ann",
            key=CancelKey(number, b"1234"),
            values=values,
            settings=self.worker.config.client("db", "ann"),
            peer="127.0.0.1",
            port=1,
            connected_at=monotonic(),
        )

    def server(self, *, keep: bool = False) -> tuple[Server, socket.socket]:
        ours, theirs = self._pair()
        number = next(self._numbers)
        server = Server(
            self.worker.context,
            ours,
            permit=number,
            keep=keep,
            pool=self.pool,
            key=CancelKey(number, b"5678"),
            address=(socket.AF_UNIX, "/nowhere"),
            host=Host("127.0.0.1", 5432),
            role=None,
            values=self.worker.context.tracker.nothing,
            name=f"S-{number}",
            connected_at=monotonic(),
        )
        self.pool.opening += 1
        self.worker.server_up(server, ServerUp(number, server.key, 0.01, ()))
        return server, theirs

    def session(self) -> tuple[SessionClient, SessionServer, socket.socket, socket.socket]:
        """A client of session mode that has used its server, with that; and the far ends."""
        (ours, app), (side, postgres) = self._pair(), self._pair()
        pool, number, now = self.pool, next(self._numbers), monotonic()
        values = self.worker.context.tracker.nothing
        server = SessionServer(
            self.worker.context,
            side,
            permit=number,
            keep=False,
            pool=pool,
            key=CancelKey(number, b"5678"),
            host=Host("127.0.0.1", 5432),
            role=None,
            address=(socket.AF_UNIX, "/nowhere"),
            values=values,
            name=f"S-{number}",
            connected_at=now,
            welcome=(),
            wish=None,
        )
        client = self.new_client(SessionClient, ours, values)
        pool.servers.add(server)
        server.watch()
        client.have(server)
        self.worker.client_up(client, b"")
        client.last_activity = monotonic()
        return client, server, app, postgres

    def heard(self) -> list[Message]:
        """What the acceptor has been told since the last call, but for the worker's load."""
        messages = []
        while (received := self.acceptor.receive_nowait()) is not None:
            messages.append(received[0])
        return [message for message in messages if not isinstance(message, Load)]

    def turn(self) -> None:
        self.worker.engine.turn()

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        pair_ = socket.socketpair()
        for sock in pair_:
            sock.setblocking(False)
        self._sockets += pair_
        return pair_

    def close(self) -> None:
        for pump in list(self.worker.pumps.values()):
            pump.close()
        for closing in (*self.worker.goodbyes, *self.worker.closings):
            closing.end(clean=False)
        for sock in (
            *self._sockets,
            *self.worker.departing.pipes.values(),
            *(c.sock for c in self.worker.clients.values()),
            *(s.sock for p in self.worker.pools.values() for s in p.servers),
        ):
            sock.close()
        self.worker.lane.close()
        self.worker.engine.close()


@contextmanager
def house(
    proxy: Mapping[str, Any] | None = None,
    database: Mapping[str, Any] | None = None,
    nursery: trio.Nursery | None = None,
    more: Iterable[str] = (),
) -> Iterator[House]:
    """A worker with one database, db, whose pool user is ann; and ``more`` of the same."""
    one = House(proxy or {}, database or {}, more)
    one.worker.nursery = nursery
    try:
        yield one
    finally:
        one.close()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open no more files meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 2, hard))
    fillers = []
    try:
        while True:
            try:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def error(sock: socket.socket) -> ErrorFields:
    """The error that a client was closed with."""
    reader = MessageReader(1 << 16)
    reader.feed(sock.recv(1 << 16))
    found = reader.next_message()
    assert found is not None
    assert found[0] == ord("E")
    assert sock.recv(1) == b""
    return error_fields(found[1])
