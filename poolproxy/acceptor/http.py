"""Serves metrics, /healthz and /readyz: sockets, limits and the end; the pages are in http_app.

Hypercorn speaks HTTP, one handler per connection; accepting, limits and the end are ours. Its own
``serve`` won't do in the process on which everything hangs: an error in one handler ends the
whole server, and it shields its sends from cancellation, so one client that asks and never
reads keeps it from ever shutting down (tried with 0.18). Here an error ends its connection, and
every send has a deadline.
"""

from __future__ import annotations

import errno
import importlib
import logging
import math
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import trio

from poolproxy.acceptor.http_app import App, Scrape
from poolproxy.acceptor.http_app import Health as Health
from poolproxy.acceptor.listeners import bindable, sharing_ports
from poolproxy.errors import ConfigError, Mistake

# Hypercorn takes as long to import as half of the acceptor: it is done while the workers start, and not
# at all without metrics_listen.
if TYPE_CHECKING:
    from hypercorn.config import Config

log = logging.getLogger("poolproxy.http")

# A few Prometheus servers, probes and a person with curl; each connection costs a descriptor
# that clients of the pooler want.
MAX_CONNECTIONS = 64
MAX_HEADER_BYTES = 16 * 1024
# Also the time that a request's header may take. Probes and scrapers come again in a new connection.
IDLE_SECONDS = 15.0
# Per piece, so a slow line may take its time over a long reply, but must take something.
SEND_SECONDS = 5.0
SEND_PIECE = 64 * 1024
GRACE_SECONDS = 3.0


_loading = threading.Lock()


def preload() -> None:
    """Import what :func:`serve_http` needs; for a thread. Who comes second waits for the first: of two that
    import packages whose modules import each other, one may find its import to be a deadlock.
    """
    with _loading:
        for name in (
            "hypercorn.trio.tcp_server",
            "poolproxy.metrics.exposition",
            "poolproxy.admin.exporter",
        ):
            importlib.import_module(name)


def listen(host: str, port: int, beside: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """Listening sockets for ``metrics_listen``; "*" is every address of the machine. ``beside``: those that
    we have, which may be on the same port.

    Raises :class:`ConfigError` naming the setting.
    """
    sockets: list[socket.socket] = []
    try:
        for family, address in bindable(host, port):
            sockets.append(_listening(family, address, beside))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ConfigError([Mistake("metrics_listen", _cure(error, host, port))]) from error
    return sockets


def _listening(family: int, address: Any, beside: Sequence[socket.socket]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with sharing_ports([sock, *beside]):
            sock.bind(address)
            sock.listen(MAX_CONNECTIONS)
    except OSError:
        sock.close()
        raise
    return sock


def _cure(error: OSError, host: str, port: int) -> str:
    where = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
    if isinstance(error, socket.gaierror):
        reason = f"can't resolve {host!r}: {error.strerror}"
    elif error.errno == errno.EADDRINUSE:
        reason = f"{where} is in use, perhaps by another poolproxy"
    elif error.errno == errno.EADDRNOTAVAIL:
        reason = f"this machine has no address {host}"
    else:
        reason = f"can't listen on {where}: {os.strerror(error.errno or 0)}"
    return f'{reason}; choose another address, or "" to serve no metrics'


async def serve_http(
    sockets: Sequence[socket.socket],
    *,
    scrapes: Mapping[str, Scrape],
    health: Callable[[str], Health],
    stop: Callable[[], Awaitable[None]] = trio.sleep_forever,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on the listening ``sockets``, which are closed at the end, until ``stop`` returns.

    Then replies under way have ``GRACE_SECONDS``; when cancelled they have none. ``scrapes`` bring
    the fresh numbers of each page of metrics, in a form that another thread may read: encoding them is done
    in one.
    """
    await trio.to_thread.run_sync(preload)
    server = _Server(App(scrapes, health))
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    grace = 0.0
    async with trio.open_nursery() as connections:
        accept = partial(
            trio.serve_listeners, server.connection, listeners, handler_nursery=connections
        )
        try:
            async with trio.open_nursery() as accepting:
                await accepting.start(accept)
                task_status.started()
                await stop()
                grace = GRACE_SECONDS
                accepting.cancel_scope.cancel()
        finally:
            connections.cancel_scope.deadline = trio.current_time() + grace
            await server.leave(connections.cancel_scope.deadline)


class _Server:
    """The open connections. Owns each from accept to close."""

    def __init__(self, app: App) -> None:
        from hypercorn.trio.worker_context import WorkerContext
        from hypercorn.utils import wrap_app

        self._app = wrap_app(cast(Any, app), 0, "asgi")
        self._config = _config()
        self._context = WorkerContext(None)
        self._open: set[_Stream] = set()

    async def _talk(self, stream: Any) -> None:
        from hypercorn.trio.tcp_server import TCPServer
        from hypercorn.typing import ConnectionState

        state = ConnectionState(cast(Any, {}))
        await TCPServer(self._app, self._config, self._context, state, stream)

    async def connection(self, accepted: trio.SocketStream) -> None:
        """Serve one connection to its end; no error leaves it."""
        stream = _Stream(accepted)
        try:
            if len(self._open) < MAX_CONNECTIONS:
                self._open.add(stream)
                with stream.gone:
                    await self._talk(cast(Any, stream))
        except* Exception:
            log.exception("a connection to metrics_listen has failed")
        finally:
            self._open.discard(stream)
            stream.socket.close()

    async def leave(self, deadline: float) -> None:
        """Close idle connections now, the others after their reply, and all sends at ``deadline``."""
        for stream in self._open:
            stream.leave(deadline)
        await self._context.terminated.set()


class _Stream:
    """A connection as Hypercorn wants it, but every send ends, and ``gone`` ends with the client."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = stream.socket
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self.gone = trio.CancelScope()
        self._stream = stream
        self._sending = trio.CancelScope()
        self._deadline = math.inf

    async def receive_some(self, max_bytes: int) -> bytes:
        """Receive; after the last byte or an error the connection is at its end."""
        data = b""
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        finally:
            if not data:
                # Hypercorn drops a reply under way too, but keeps the descriptor till its idle timeout.
                self.gone.cancel()
        return data

    async def send_all(self, data: bytes) -> None:
        """Send; a peer that takes too long over a piece is a broken connection."""
        for start in range(0, len(data), SEND_PIECE):
            deadline = min(self._deadline, trio.current_time() + SEND_SECONDS)
            with trio.CancelScope(deadline=deadline) as self._sending:
                await self._stream.send_all(data[start : start + SEND_PIECE])
            if self._sending.cancelled_caught:
                self._reset()
                raise trio.BrokenResourceError("the client reads too slowly")

    def _reset(self) -> None:
        # Without the reset the kernel would keep what it has of the reply for minutes. Closing also
        # ends the read that Hypercorn goes on with after a failed send.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def leave(self, deadline: float) -> None:
        """From now on sends end at ``deadline``, the one under way included."""
        self._deadline = deadline
        self._sending.deadline = min(self._sending.deadline, deadline)


def _config() -> Config:
    from hypercorn.config import Config

    config = Config()
    config.errorlog = log
    config.accesslog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.h2_max_header_list_size = MAX_HEADER_BYTES
    config.h2_max_concurrent_streams = 8
    config.keep_alive_timeout = IDLE_SECONDS
    config.read_timeout = math.ceil(4 * IDLE_SECONDS)
    return config
