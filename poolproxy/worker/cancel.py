"""Sending a CancelRequest to PostgreSQL.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS
"""

from __future__ import annotations

import os
import socket

import trio

from poolproxy.ipc.messages import CancelKey
from poolproxy.relay.server import Address
from poolproxy.wire.startup import cancel_request
from poolproxy.worker.streams import Eof, Stream


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


async def send_cancel(address: Address, key: CancelKey) -> str:
    """Deliver a CancelRequest; "sent" when PostgreSQL has closed the connection, else "failed".

    PostgreSQL closes after it has signalled the backend, so the signal can't hit a later query.
    """
    family, where = address
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        stream = Stream(sock)
        try:
            await connect(sock, where)
            await stream.send(cancel_request(key.pid, key.secret))
        except (OSError, Eof):
            return "failed"
        await stream.until_eof()
    return "sent"
