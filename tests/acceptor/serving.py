"""The acceptor in this process, with fake workers: processes, signals and sockets are real."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from poolproxy.acceptor.departure import OK
from poolproxy.acceptor.main import serve
from poolproxy.settings.files import read_config
from tests.fixtures.proxy import free_port
from tests.fixtures.toml import to_toml

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


class Server:
    """The acceptor running in this process."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        self.path = folder / "poolproxy.toml"
        self.settings: dict[str, object] = {
            "listen_port": self.port,
            "metrics_listen": f"127.0.0.1:{self.metrics_port}",
            "unix_socket_dir": str(folder),
            "workers": 2,
            "default_pool_size": 1,
            **settings,
        }
        self.write()
        self.status: int | None = None
        self.ended = trio.Event()

    def write(self, **settings: object) -> None:
        self.settings |= settings
        self.path.write_text(
            to_toml(
                {
                    "poolproxy": self.settings,
                    "databases": {"app": {"host": "127.0.0.1"}, "other": {"host": "127.0.0.1"}},
                    "users": {"alice": {"password": "secret"}},
                }
            )
        )

    async def run(self, *behave: str) -> None:
        self.status = await serve(read_config(self.path), (*FAKE, *behave))
        self.ended.set()

    async def connect(self) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        return Client(stream, await read_line(stream))

    async def metric(self, name: str) -> float:
        return (await self.metrics())[name]

    async def metrics(self) -> dict[str, float]:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        body = await trio.to_thread.run_sync(lambda: urllib.request.urlopen(url).read())
        lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    async def probe(self, page: str) -> str:
        url = f"http://127.0.0.1:{self.metrics_port}/{page}"

        def get() -> str:
            try:
                return urllib.request.urlopen(url).read().decode().strip()
            except urllib.error.HTTPError as error:
                with error:
                    return f"{error.code} {error.read().decode().strip()}"

        return await trio.to_thread.run_sync(get)


class Client:
    def __init__(self, stream: trio.SocketStream, greeting: str) -> None:
        self.stream = stream
        self.greeting = greeting

    @property
    def slot(self) -> str:
        return self.greeting.split()[0]

    async def say(self, text: str) -> str:
        await self.stream.send_all(text.encode() + b"\n")
        return await read_line(self.stream)

    async def close(self) -> None:
        await self.stream.aclose()


async def read_line(stream: trio.SocketStream) -> str:
    line = b""
    while not line.endswith(b"\n"):
        data = await stream.receive_some(1)
        if not data:
            return line.decode()
        line += data
    return line.decode().strip()


@asynccontextmanager
async def serving(server: Server, *behave: str) -> AsyncIterator[Server]:
    """Run the server for the test; it must end in time after SIGQUIT."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run, *behave)
            await wait_ready(server)
            yield server
            if server.status is None:
                os.kill(os.getpid(), signal.SIGQUIT)
    assert server.status == OK


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something in another process, which has no event to wait for."""
    for _ in itertools.count():
        if await holds():
            return
        await trio.sleep(0.01)


async def wait_ready(server: Server) -> None:
    async def ready() -> bool:
        try:
            return server.status is not None or await server.probe("readyz") == "ok"
        except OSError:
            return False

    await eventually(ready)


async def wait_leaving(server: Server) -> None:
    async def leaving() -> bool:
        return await server.probe("readyz") == "503 shutting down"

    await eventually(leaving)


async def until(server: Server, name: str, value: float) -> None:
    async def reached() -> bool:
        return (await server.metrics()).get(name) == value

    await eventually(reached)


async def reload(server: Server, **settings: object) -> None:
    """Put other settings into use."""
    before = await server.metric("poolproxy_config_last_reload_success_timestamp_seconds")
    server.write(**settings)
    os.kill(os.getpid(), signal.SIGHUP)

    async def done() -> bool:
        name = "poolproxy_config_last_reload_success_timestamp_seconds"
        return await server.metric(name) > before

    await eventually(done)
