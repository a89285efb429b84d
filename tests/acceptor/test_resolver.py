"""Host names, from a resolver that the test makes up to the servers of a real worker."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from poolproxy.acceptor.main import serve
from poolproxy.acceptor.resolver import look_up
from poolproxy.demo.postgres import PostgresServer
from poolproxy.settings.files import read_config
from tests.fixtures.proxy import free_port
from tests.fixtures.toml import to_toml

PATIENCE = 20.0


class FakeNames:
    """A name server: ``answers`` by name, and how often each was asked for."""

    def __init__(self, **answers: tuple[str, ...]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, name: str) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        self.asked.append(name)
        if name not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.answers[name]


class Forwarder:
    """An address of its own for a server: passes bytes on, and counts connections."""

    def __init__(self, address: str, port: int, target: int, nursery: trio.Nursery) -> None:
        self.address, self._port = address, port
        self._target, self._nursery = target, nursery
        self.open = 0

    async def start(self) -> None:
        listeners = await trio.open_tcp_listeners(self._port, host=self.address)
        self._nursery.start_soon(trio.serve_listeners, self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        self.open += 1
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._target)
            async with client, server, trio.open_nursery() as nursery:
                nursery.start_soon(_copy, client, server)
                await _copy(server, client)
                nursery.cancel_scope.cancel()
        finally:
            self.open -= 1


async def _copy(source: trio.SocketStream, to: trio.SocketStream) -> None:
    try:
        async for data in source:
            await to.send_all(data)
        await to.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@asynccontextmanager
async def pooler(
    folder: Path, names: FakeNames, server: PostgresServer, port: int, **proxy: object
) -> AsyncIterator[int]:
    """The acceptor in this process, with a real worker; its port."""
    ours = free_port()
    tables = {
        "poolproxy": {
            "listen_port": ours,
            "unix_socket_dir": "",
            "metrics_listen": "",
            "workers": 1,
            "auth_type": "trust",
            "pool_mode": "transaction",
            "server_login_retry": "100ms",
            **proxy,
        },
        "databases": {"db": {"host": "db.test", "port": port, "dbname": "postgres"}},
        "users": {"postgres": {"password": server.password}},
    }
    path = folder / "poolproxy.toml"
    path.write_text(to_toml(tables))
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve(read_config(path), lookup=names)

        nursery.start_soon(run)
        yield ours
        nursery.cancel_scope.cancel()


async def query(port: int) -> bool:
    """Whether a new client's query is answered."""
    packet = b"user\0postgres\0database\0db\0\0"
    packet = (len(packet) + 8).to_bytes(4, "big") + (3 << 16).to_bytes(4, "big") + packet
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(packet + b"Q\0\0\0\x0dselect 1\0")
            received = b""
            while b"SELECT 1\0" not in received:
                data = await stream.receive_some()
                if not data:
                    return False
                received += data
            return True
    except OSError:
        return False


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(PATIENCE):
        for _ in itertools.count():
            if await condition():
                return
            await trio.sleep(0.05)


async def test_a_name_that_moves_is_followed(tmp_path: Path, one_postgres: PostgresServer) -> None:
    """Servers at an address that is gone from the name are closed when free, and the next ones are at the
    new address, without a restart; while nothing changes the name is asked for once in dns_max_ttl.
    """
    names = FakeNames(**{"db.test": ("127.0.0.2",)})
    port = free_port()
    async with trio.open_nursery() as nursery:
        old = Forwarder("127.0.0.2", port, one_postgres.port, nursery)
        new = Forwarder("127.0.0.3", port, one_postgres.port, nursery)
        await old.start()
        await new.start()
        async with pooler(tmp_path, names, one_postgres, port, dns_max_ttl="500ms") as ours:
            await until(lambda: query(ours))
            assert (old.open, new.open) == (1, 0)
            names.answers["db.test"] = ("127.0.0.3",)

            async def left() -> bool:
                return old.open == 0

            await until(left)
            await until(lambda: query(ours))
            assert (old.open, new.open) == (0, 1)
        nursery.cancel_scope.cancel()


async def test_a_dead_address_is_passed_over_and_looked_up_again(
    tmp_path: Path, one_postgres: PostgresServer
) -> None:
    """Of several addresses the next one is tried; when none answers the name is asked for at once."""
    names = FakeNames(**{"db.test": ("127.0.0.4", "127.0.0.5")})
    port = free_port()

    async def asked_again() -> bool:
        return len(names.asked) > 1

    async with trio.open_nursery() as nursery:
        second = Forwarder("127.0.0.5", port, one_postgres.port, nursery)
        async with pooler(tmp_path, names, one_postgres, port, dns_max_ttl="1h") as ours:
            # One client at a time: for two that wait there would be two servers.
            async with trio.open_nursery() as waiting:
                waiting.start_soon(until, lambda: query(ours))
                await until(asked_again)
                await second.start()
            assert second.open == 1
        nursery.cancel_scope.cancel()


async def test_the_system_s_resolver_is_used() -> None:
    """Without another one names are resolved as the C library does it."""
    assert "127.0.0.1" in await look_up("localhost")
