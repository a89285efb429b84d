"""Ends the server connections of a dead worker through the duplicates that the acceptor has kept.

The worker's own descriptors are closed by its death, but PostgreSQL goes on with the query and sees
no end of the connection while a duplicate is open. So: cancel, say that nothing more will come,
read what is on its way, and when PostgreSQL has closed its end the permit is free.
"""

from __future__ import annotations

import logging
import os
import socket
import struct

import attrs
import trio

from poolproxy.ipc.messages import CancelKey
from poolproxy.settings.hosts import Host

log = logging.getLogger("poolproxy.acceptor")

CANCEL_REQUEST_CODE = (
    80877102  # https://www.postgresql.org/docs/current/protocol-message-formats.html
)
CANCEL_SECONDS = 5.0
# A pipeline may hold many statements, and a cancel ends only the one that runs.
CANCEL_EVERY = 1.0
CHUNK = 64 * 1024


@attrs.define(eq=False)
class Duplicate:
    """The acceptor's descriptor of a worker's server connection. Owned by the ledger host."""

    permit: int
    fd: int
    host: str
    port: int
    key: CancelKey | None = None

    def close(self) -> None:
        os.close(self.fd)


async def end(duplicate: Duplicate, patience: float) -> bool:
    """End the connection and close the duplicate; False if PostgreSQL has not closed its end within
    ``patience`` seconds (0: no limit).
    """
    sock = socket.socket(fileno=duplicate.fd)
    try:
        sock.setblocking(False)
        with trio.move_on_after(patience or float("inf")) as scope:
            async with trio.open_nursery() as nursery:
                if duplicate.key is not None:
                    nursery.start_soon(_cancel_forever, duplicate, duplicate.key)
                await _discard(sock)
                nursery.cancel_scope.cancel()
        return not scope.cancelled_caught
    finally:
        trio.lowlevel.notify_closing(sock.fileno())
        sock.close()


async def _discard(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_WR)
        while True:
            # A server that never stops sending must not stop the acceptor.
            await trio.lowlevel.checkpoint()
            try:
                if not sock.recv(CHUNK):
                    return
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock.fileno())
    except OSError:
        return  # reset, or never connected: there is no other end


async def _cancel_forever(duplicate: Duplicate, key: CancelKey) -> None:
    while True:
        try:
            with trio.move_on_after(CANCEL_SECONDS):
                await _cancel(duplicate, key)
        except OSError as error:
            log.debug("could not cancel at %s:%d: %s", duplicate.host, duplicate.port, error)
        await trio.sleep(CANCEL_EVERY)


async def _cancel(duplicate: Duplicate, key: CancelKey) -> None:
    where = Host(duplicate.host, duplicate.port)
    if where.is_unix:
        stream = await trio.open_unix_socket(where.socket_path)
    else:
        stream = await trio.open_tcp_stream(duplicate.host, duplicate.port)
    async with stream:
        length = 12 + len(key.secret)
        await stream.send_all(
            struct.pack("!iii", length, CANCEL_REQUEST_CODE, key.pid) + key.secret
        )
        # PostgreSQL closes when it has signalled the backend.
        await stream.receive_some(1)
