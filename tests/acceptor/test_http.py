"""The HTTP side of the acceptor, asked over real sockets."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys

import pytest
import trio

from poolproxy.acceptor import http, http_app
from poolproxy.acceptor.http import Health, listen
from poolproxy.metrics.exposition import Exposition
from poolproxy.metrics.merge import Totals
from poolproxy.metrics.schema import ProxyMetrics
from tests.acceptor.http_server import HOST, Running, everything, parsed, scrape


async def test_metrics_are_served_as_text(proxy):
    """A plain GET gets the classic format with its length."""
    status, headers, body = await proxy.ask("/metrics")
    assert status == 200
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers["content-length"] == str(len(body))
    assert b"\npoolproxy_refused_connections_total 7.0\n" in body


async def test_openmetrics_is_served_to_those_who_ask(proxy):
    """Content negotiation: the format that Prometheus prefers, with its end mark."""
    accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n"
    status, headers, body = await proxy.ask("/metrics", headers=accept)
    assert status == 200
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("accepted", ["gzip", "deflate, GZIP;q=0.5", "gzip;q=1.0"])
async def test_gzip_is_used_if_accepted(proxy, accepted):
    """A scraper that can unpack gets a packed page."""
    _, headers, body = await proxy.ask("/metrics", headers=f"Accept-Encoding: {accepted}\r\n")
    assert headers["content-encoding"] == "gzip"
    assert b"poolproxy_refused_connections_total 7.0" in gzip.decompress(body)


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "gzip; q=0.000", "gzipped", ""])
async def test_gzip_is_not_used_if_not_accepted(proxy, accepted):
    """Everybody else gets plain text."""
    _, headers, _ = await proxy.ask("/metrics", headers=f"Accept-Encoding: {accepted}\r\n")
    assert "content-encoding" not in headers


async def test_head_has_the_headers_alone(proxy):
    """HEAD answers as GET would, without a body."""
    status, headers, body = await proxy.ask("/metrics", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 1000


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/%2e%2e/etc/passwd", "/%ff"])
async def test_an_unknown_path_is_told_what_there_is(proxy, path):
    """404 lists the three pages."""
    status, _, body = await proxy.ask(path)
    assert status == 404
    assert b"/metrics, /healthz, /readyz" in body


async def test_a_query_string_is_ignored(proxy):
    """Prometheus may be configured with parameters."""
    assert (await proxy.ask("/healthz?verbose=1"))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
async def test_only_get_and_head_are_allowed(proxy, method):
    """Any other method is a 405 that names those two."""
    status, headers, _ = await proxy.ask("/metrics", method=method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_a_large_body_does_not_hold_its_connection(proxy):
    """A request's body is discarded while the answer is made, and the connection then closed."""
    stream = await proxy.connect()
    async with stream:
        body = b"x" * 300_000
        head = b"POST /metrics HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (HOST, 2 * len(body))
        await stream.send_all(head + body)
        assert parsed(await everything(stream))[0] == 405


async def test_readiness_of_a_database(proxy):
    """/readyz?database=NAME asks for that one: 404 if it is unknown, and the name may be any text."""
    proxy.databases = {
        "app": Health(unready="connect failed"),
        "a&b c": Health(),
        "nix": Health(unknown="no such database"),
    }
    assert (await proxy.ask("/readyz?database=app"))[::2] == (503, b"connect failed\n")
    assert (await proxy.ask("/readyz?database=a%26b%20c"))[::2] == (200, b"ok\n")
    assert (await proxy.ask("/readyz?database=nix"))[::2] == (404, b"no such database\n")
    assert (await proxy.ask("/healthz?database=nix"))[0] == 200


@pytest.mark.parametrize(
    ("health", "healthz", "readyz"),
    [
        (Health(), (200, b"ok\n"), (200, b"ok\n")),
        (Health(unready="shutting down"), (200, b"ok\n"), (503, b"shutting down\n")),
        (Health(unhealthy="no worker"), (503, b"no worker\n"), (503, b"no worker\n")),
    ],
)
async def test_probes_tell_the_reason(proxy, health, healthz, readyz):
    """200 or 503 with a line why; who is not healthy is not ready either."""
    proxy.health = health
    for path, (status, text) in (("/healthz", healthz), ("/readyz", readyz)):
        answer = await proxy.ask(path)
        assert (answer[0], answer[2]) == (status, text)


async def test_a_connection_serves_many_requests(proxy):
    """Keep-alive: a second request in the same connection, sent byte by byte, is answered."""
    stream = await proxy.connect()
    async with stream:
        for _ in range(2):
            for byte in b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n":
                await stream.send_all(bytes([byte]))
            received = b""
            while not received.endswith(b"\r\n\r\nok\n"):
                received += await stream.receive_some()


async def test_a_slow_scrape_holds_up_nobody(proxy):
    """While one scraper waits for the workers, probes are answered."""
    release = trio.Event()

    async def slow():
        await release.wait()
        return await scrape()

    proxy.answer = slow
    async with trio.open_nursery() as asking:
        answers = []

        async def ask():
            answers.append(await proxy.ask("/metrics"))

        asking.start_soon(ask)
        assert (await proxy.ask("/healthz"))[0] == 200
        assert not answers
        release.set()
    assert answers[0][0] == 200


async def test_workers_that_do_not_answer_are_a_503(proxy, monkeypatch):
    """A scraper hears of the silence before its own patience ends."""
    monkeypatch.setattr(http_app, "SCRAPE_SECONDS", 0.01)
    proxy.answer = trio.sleep_forever
    status, _, body = await proxy.ask("/metrics")
    assert status == 503
    assert body == b"No metrics within 0.01 s.\n"


async def test_a_scraper_that_leaves_ends_its_scrape(proxy):
    """A client gone in the middle cancels what was begun for it."""
    begun, ended = trio.Event(), trio.Event()

    async def long():
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    proxy.answer = long
    stream = await proxy.connect()
    await stream.send_all(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
    await begun.wait()
    await stream.aclose()
    with trio.fail_after(5):
        await ended.wait()


async def test_a_failing_scrape_is_a_500_and_a_log_entry(proxy, caplog):
    """A bug in collecting ends one request; it is logged and the server lives on."""

    async def broken():
        raise RuntimeError("a bug")

    proxy.answer = broken
    assert (await proxy.ask("/metrics"))[0] == 500
    assert "a bug" in caplog.text
    assert (await proxy.ask("/healthz"))[0] == 200


async def test_an_error_in_the_http_library_ends_one_connection(proxy, caplog, monkeypatch):
    """Whatever leaves the connection handler is logged and goes no further."""

    async def broken(*_):
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("hypercorn.trio.tcp_server.TCPServer", broken)
        stream = await proxy.connect()
        async with stream:
            assert await everything(stream) == b""
    assert "a connection to metrics_listen has failed" in caplog.text
    assert (await proxy.ask("/healthz"))[0] == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",  # an SSLRequest of PostgreSQL
        b"\x16\x03\x01\x02\x00",  # a TLS handshake
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"GET /" + b"a" * 200_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    ],
)
async def test_garbage_gets_an_error_or_a_close(proxy, garbage):
    """What is no HTTP, or too long, ends the connection, and the next one is served."""
    stream = await proxy.connect()
    async with stream:
        try:
            await stream.send_all(garbage)
            await stream.send_eof()
            await everything(stream)
        except trio.BrokenResourceError:
            pass
    assert (await proxy.ask("/healthz"))[0] == 200


async def test_a_websocket_is_refused(proxy):
    """There is no such thing here."""
    upgrade = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    stream = await proxy.connect()
    async with stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\n" + HOST + upgrade.encode() + b"\r\n")
        assert parsed(await everything(stream))[0] == 403


async def test_a_silent_client_is_closed(monkeypatch):
    """Half a request and then nothing holds a connection for a bounded time only."""
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.01)
    async with trio.open_nursery() as nursery:
        sockets = listen("127.0.0.1", 0)
        other = Running(sockets[0].getsockname())
        await nursery.start(other.run, sockets)
        stream = await other.connect()
        async with stream:
            await stream.send_all(b"GET /healthz HTT")
            assert await everything(stream) == b""
        nursery.cancel_scope.cancel()


async def test_connections_over_the_limit_are_closed(proxy, monkeypatch):
    """Scrapers can't use up the descriptors that clients of the pooler need."""
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 1)
    first = await proxy.connect()
    async with first:
        await first.send_all(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"200" in await first.receive_some()
        second = await proxy.connect()
        async with second:
            assert await everything(second) == b""
    with trio.fail_after(5):
        while (await reply_or_nothing(proxy)) == b"":
            await trio.lowlevel.checkpoint()


async def reply_or_nothing(proxy):
    """The bytes that come back for one request, none if the connection is refused."""
    stream = await proxy.connect()
    async with stream:
        try:
            await stream.send_all(
                b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
            )
            return await everything(stream)
        except trio.BrokenResourceError:
            return b""


class Endless:
    """A page of 40 MB: more than the kernel's buffers take."""

    def collect(self):
        """One family with a very long text."""
        family = http_family()
        family.documentation = "x" * 40_000_000
        yield family


def http_family():
    """Some family."""
    return next(iter(Exposition(ProxyMetrics(), Totals().view()).collect()))


async def endless():
    """A scrape that brings the long page."""
    return Endless()


async def stuck_reader(proxy):
    """A client that has asked for the long page, seen its start, and reads no more."""
    proxy.answer = endless
    stream = await proxy.connect()
    await stream.send_all(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
    assert await stream.receive_some(16)
    return stream


async def test_a_client_that_never_reads_is_closed(proxy, monkeypatch):
    """A reply that nobody takes is given up, and the kernel's part of it too."""
    monkeypatch.setattr(http, "SEND_SECONDS", 0.05)
    stream = await stuck_reader(proxy)
    async with stream:
        with trio.fail_after(5):
            await until_closed(stream)
    assert (await proxy.ask("/healthz"))[0] == 200


async def until_closed(stream):
    """Wait for the server's reset without reading a byte."""
    established = 1  # TCP_ESTABLISHED, the first byte of struct tcp_info (linux/tcp.h)
    while stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == established:
        await trio.lowlevel.checkpoint()


async def test_a_client_that_never_reads_does_not_hold_up_the_end(proxy, monkeypatch):
    """Stopping waits for replies under way, but no longer than the grace time."""
    monkeypatch.setattr(http, "SEND_SECONDS", 3600)
    monkeypatch.setattr(http, "GRACE_SECONDS", 0.05)
    stream = await stuck_reader(proxy)
    async with stream:
        proxy.stop.set()
        with trio.fail_after(5):
            await proxy.stopped.wait()


async def test_a_client_that_never_reads_does_not_hold_up_cancellation(monkeypatch):
    """Cancelled, the server gives up replies under way at once."""
    monkeypatch.setattr(http, "SEND_SECONDS", 3600)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            sockets = listen("127.0.0.1", 0)
            proxy = Running(sockets[0].getsockname())
            await nursery.start(proxy.run, sockets)
            stream = await stuck_reader(proxy)
            nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)


async def test_stopping_finishes_what_was_begun_and_closes_the_rest(proxy):
    """After stop: no new connections, idle ones closed, the scrape under way answered."""
    begun, release = trio.Event(), trio.Event()

    async def slow():
        begun.set()
        await release.wait()
        return await scrape()

    proxy.answer = slow
    idle, busy = await proxy.connect(), await proxy.connect()
    async with idle, busy:
        await busy.send_all(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
        await begun.wait()
        proxy.stop.set()
        assert await everything(idle) == b""
        with pytest.raises(OSError, match="all attempts to connect"):
            await proxy.connect()
        release.set()
        assert parsed(await everything(busy))[0] == 200
    with trio.fail_after(5):
        await proxy.stopped.wait()


def test_the_imports_give_no_warning():
    """Nothing that the module pulls in warns, also with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", "import poolproxy.acceptor.http"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
