"""Sending CancelRequests to PostgreSQL.

Theory of operation. A CancelRequest names a backend, not a query. That it hits nobody else's query
hangs on three things. The server's ``cancels`` is counted before anything waits, and while it is not
0 the server is given to nobody. PostgreSQL closes a canceller's connection after it has signalled the
backend: a cancel is over when that is seen, and not before. One that was sent but whose end is not
seen may still arrive at any time: its server is closed as soon as it is free.

At most one request is on its way to a server. Those that come meanwhile share the next one: a signal
that is on its way may have been sent before what they are to cancel began.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import attrs
import trio

from poolproxy.ipc.messages import CancelKey
from poolproxy.relay.context import Pool
from poolproxy.relay.server import Address, Server
from poolproxy.relay.tls import Encryption, TlsConnection
from poolproxy.wire.startup import cancel_request
from poolproxy.worker import tls
from poolproxy.worker.streams import Eof, Stream
from poolproxy.worker.tls import Handshakes, TlsFailed

# A pipeline may hold many statements, and a cancel ends only the one that runs.
CANCEL_EVERY = 0.25  # seconds


async def connect(sock: socket.socket, address: object) -> None:
    """Connect a non-blocking socket; raises OSError."""
    try:
        sock.connect(address)  # type: ignore[arg-type]
        await trio.lowlevel.checkpoint()
        return
    except BlockingIOError:
        pass
    if sock.family == socket.AF_UNIX:
        # EAGAIN: the listener's queue is full, and a Unix socket has no connection in progress.
        await _retry_unix(sock, address)
        return
    await trio.lowlevel.wait_writable(sock.fileno())
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


async def _retry_unix(sock: socket.socket, address: object) -> None:
    while True:
        await trio.sleep(0.01)
        try:
            sock.connect(address)  # type: ignore[arg-type]
            return
        except BlockingIOError:
            continue


SENT, FAILED, TIMEOUT, UNCONFIRMED = "sent", "failed", "timeout", "unconfirmed"
NOTHING, WAITING = "nothing_to_cancel", "waiting"

MAY_ARRIVE = "cancel request not confirmed"


async def cancel(
    server: Server,
    handshakes: Handshakes,
    patience: float,
    connected: Callable[[], None] = lambda: None,
) -> str:
    """As :func:`send_cancel`, to the backend of ``server``, encrypted if its connection is."""
    encryption = server.encryption if isinstance(server, TlsConnection) else None
    begin = partial(_encrypted, handshakes, encryption) if encryption is not None else None
    return await send_cancel(server.address, server.key, patience, begin, connected)


async def _encrypted(
    handshakes: Handshakes, encryption: Encryption, sock: socket.socket
) -> socket.socket:
    if not encryption.direct and await tls.ask(sock) != b"S":
        raise TlsFailed("server refused SSL", "protocol")
    wrapped = tls.wrap_server(sock, encryption)
    try:
        await handshakes.shake(wrapped, direct=encryption.direct)
    except BaseException:
        wrapped.close()
        raise
    return wrapped


async def send_cancel(
    address: Address,
    key: CancelKey,
    patience: float,
    begin: Callable[[socket.socket], Awaitable[socket.socket]] | None = None,
    connected: Callable[[], None] = lambda: None,
) -> str:
    """Deliver a CancelRequest within ``patience`` seconds; ``begin`` comes after connecting, and takes the
    socket for another. ``connected`` is called when the request can be sent.

    "sent": PostgreSQL has signalled the backend. "failed" and "timeout": it never got the request.
    "unconfirmed": it may have got it, or get it later.
    """
    outcome = TIMEOUT
    family, where = address
    with trio.move_on_after(patience), ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        try:
            await connect(sock, where)
            if begin is not None:
                sock = stack.enter_context(await begin(sock))
            connected()
            stream = Stream(sock)
            await stream.send(cancel_request(key.pid, key.secret))
        except (OSError, Eof, TlsFailed):
            return FAILED
        outcome = UNCONFIRMED
        if await _ends(stream):
            outcome = SENT
    return outcome


async def _ends(stream: Stream) -> bool:
    """Read to the end; whether it is PostgreSQL that has closed, and nothing has broken on the way."""
    while True:
        try:
            await stream.receive()
        except Eof as end:
            return end.__cause__ is None


@attrs.frozen(eq=False)
class Wish:
    """``holds()``: there still is what is to be cancelled. ``done`` is told the outcome. ``asked``: a client
    has asked for it.
    """

    holds: Callable[[], bool]
    done: Callable[[str], None]
    asked: bool = False


@attrs.define(eq=False)
class Flight:
    """A cancel request that is being sent to a server of ``pool``, for the sake of these wishes."""

    pool: Pool
    wishes: Sequence[Wish]
    connected: bool = False

    def note(self) -> None:
        self.connected = True


class Canceller:
    """Cancels what servers run. ``start`` runs a task; ``timeout()`` is cancel_wait_timeout.

    ``flights`` are there to be looked at.
    """

    def __init__(
        self, start: Callable[..., None], timeout: Callable[[], float], handshakes: Handshakes
    ) -> None:
        self._start = start
        self._timeout = timeout
        self._handshakes = handshakes
        self._wishes: dict[Server, list[Wish]] = {}
        self.flights: set[Flight] = set()

    def request(self, server: Server, wish: Wish) -> None:
        """Cancel what ``server`` runs, as soon as no other cancel is on its way there."""
        server.cancels += 1
        wishes = self._wishes.get(server)
        if wishes is not None:
            wishes.append(wish)
            return
        self._wishes[server] = [wish]
        self._start(self._in_turn, server)

    async def repeat(self, server: Server, holds: Callable[[], bool]) -> None:
        """Cancel for as long as ``holds()``: of a pipeline each cancel ends one statement, and one that the
        server has not read yet is not hit.
        """
        while holds():
            over = trio.Event()

            def done(outcome: str, over: trio.Event = over) -> None:
                over.set()

            self.request(server, Wish(holds, done))
            await over.wait()
            await trio.sleep(CANCEL_EVERY)

    def queued(self) -> Iterator[tuple[Pool, Wish]]:
        """The wishes that wait until another cancel has been delivered to the same server."""
        return ((server.pool, wish) for server, wishes in self._wishes.items() for wish in wishes)

    async def send(self, server: Server, patience: float, wishes: Sequence[Wish] = ()) -> str:
        """Send one now."""
        flight = Flight(server.pool, wishes)
        self.flights.add(flight)
        try:
            return await cancel(server, self._handshakes, patience, flight.note)
        finally:
            self.flights.discard(flight)

    async def _in_turn(self, server: Server) -> None:
        wishes = self._wishes[server]
        while wishes:
            batch = wishes[:]
            wishes.clear()
            outcome = NOTHING
            try:
                if not server.closed and any(wish.holds() for wish in batch):
                    patience = self._timeout() or float("inf")
                    outcome = await self.send(server, patience, batch)
                    if outcome == UNCONFIRMED:
                        server.doomed = server.doomed or MAY_ARRIVE
            finally:
                if not wishes:
                    del self._wishes[server]
                for wish in batch:
                    server.cancel_done()
                    wish.done(outcome)
