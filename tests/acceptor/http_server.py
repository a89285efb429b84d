"""The HTTP side of the acceptor, as the acceptor runs it, for tests to ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio
from prometheus_client.registry import Collector

from poolproxy.acceptor.http import Health, serve_http
from poolproxy.metrics.exposition import Exposition
from poolproxy.metrics.merge import Totals
from poolproxy.metrics.schema import ProxyMetrics

HOST = b"Host: localhost\r\n"


async def scrape():
    """What a proxy without clients shows."""
    return Exposition(ProxyMetrics(refused=7), Totals().view())


@attrs.define
class Running:
    """The server as the acceptor runs it, with answers that a test can exchange."""

    address: tuple[str, int]
    answer: Callable[[], Awaitable[Collector]] = scrape
    health: Health = attrs.field(factory=Health)
    databases: dict[str, Health] = attrs.field(factory=dict)
    stop: trio.Event = attrs.field(factory=trio.Event)
    stopped: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, sockets, task_status=trio.TASK_STATUS_IGNORED):
        """Serve until stopped."""
        await serve_http(
            sockets,
            scrapes={"/metrics": lambda: self.answer()},
            health=lambda database: self.databases.get(database, self.health),
            stop=self.stop.wait,
            task_status=task_status,
        )
        self.stopped.set()

    async def connect(self):
        """A client's connection."""
        return await trio.open_tcp_stream(*self.address)

    async def ask(self, path, *, method="GET", headers=""):
        """One request in one connection: status, headers, body."""
        stream = await self.connect()
        async with stream:
            request = f"{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n"
            await stream.send_all(request.encode() + HOST + b"\r\n")
            return parsed(await everything(stream))


async def everything(stream):
    """All bytes until the server closes."""
    with trio.fail_after(10):
        return b"".join([chunk async for chunk in stream])


def parsed(reply):
    """Status, headers and body of the last response in ``reply``."""
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body
