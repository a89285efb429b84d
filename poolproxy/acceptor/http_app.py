"""The pages of metrics, /healthz and /readyz, as an ASGI application."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

import attrs
import trio

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

# Below the 10 s after which Prometheus gives up by default, so that it hears why.
SCRAPE_SECONDS = 8.0

Headers = Sequence[tuple[bytes, bytes]]
Message = dict[str, Any]
Scrape: TypeAlias = "Callable[[], Awaitable[Collector]]"


@attrs.frozen
class Health:
    """What the probes are told. An empty text is good news, any other the reason for a 503, or for a 404
    where it is ``unknown``.
    """

    unhealthy: str = ""
    unready: str = ""
    unknown: str = ""


@attrs.frozen
class Reply:
    """An HTTP response."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"text/plain; charset=utf-8"),)


class App:
    """The ASGI application (https://asgi.readthedocs.io/en/latest/specs/www.html).

    ``scrapes``: the pages of metrics by their paths. ``health`` is asked for the state of a database, or of
    the proxy alone with "".
    """

    def __init__(self, scrapes: Mapping[str, Scrape], health: Callable[[str], Health]):
        self._health = health
        self._encoding = trio.CapacityLimiter(1)  # one core at most goes into encoding
        self._pages: dict[str, Callable[[Message], Awaitable[Reply]]] = {
            **{path: partial(self._metrics, scrape) for path, scrape in scrapes.items()},
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        client = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_discard, receive, client)
            with client:
                reply = await self._reply(scope)
            if not client.cancelled_caught:
                await _respond(send, reply)
            nursery.cancel_scope.cancel()

    async def _reply(self, scope: Message) -> Reply:
        found = self._pages.get(scope["path"])
        if found is None:
            return Reply(404, f"Not found. There is {', '.join(self._pages)}.\n".encode())
        if scope["method"] not in ("GET", "HEAD"):
            reply = Reply(405, b"Only GET and HEAD.\n")
            return attrs.evolve(reply, headers=(*reply.headers, (b"allow", b"GET, HEAD")))
        return await found(scope)

    async def _metrics(self, scrape: Scrape, scope: Message) -> Reply:
        with trio.move_on_after(SCRAPE_SECONDS) as patience:
            collector = await scrape()
        if patience.cancelled_caught:
            return Reply(503, f"No metrics within {SCRAPE_SECONDS:g} s.\n".encode())
        encode = partial(_encoded, collector, scope["headers"])
        return await trio.to_thread.run_sync(encode, limiter=self._encoding)

    async def _healthz(self, _: Message) -> Reply:
        return _probe(self._health("").unhealthy)

    async def _readyz(self, scope: Message) -> Reply:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        health = self._health(query.get("database", [""])[-1])
        if health.unknown:
            return Reply(404, f"{health.unknown}\n".encode())
        return _probe(health.unhealthy or health.unready)


async def _discard(receive: Callable[[], Awaitable[Message]], client: trio.CancelScope) -> None:
    # Somebody must take a request's body: Hypercorn's reader waits for that, for good if need be.
    while (await receive())["type"] != "http.disconnect":
        pass
    client.cancel()


async def _respond(send: Callable[[Message], Awaitable[None]], reply: Reply) -> None:
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _probe(reason: str) -> Reply:
    return Reply(503, f"{reason}\n".encode()) if reason else Reply(200, b"ok\n")


def _encoded(collector: Collector, headers: Headers) -> Reply:
    from poolproxy.metrics.exposition import page  # prometheus_client: see acceptor.http

    found = page(collector, _header(headers, b"accept"))
    content_type = (b"content-type", found.content_type.encode("latin-1"))
    if not _takes_gzip(_header(headers, b"accept-encoding")):
        return Reply(200, found.body, (content_type,))
    body = gzip.compress(found.body, compresslevel=1, mtime=0)
    return Reply(200, body, (content_type, (b"content-encoding", b"gzip")))


def _header(headers: Headers, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in headers if key == name)


def _takes_gzip(accept_encoding: str) -> bool:
    for choice in accept_encoding.lower().split(","):
        coding, _, quality = choice.replace(" ", "").partition(";")
        if coding == "gzip":
            return quality not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
