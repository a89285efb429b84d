"""The accept loop: many a wake-up, and no error of the moment ends it.

The acceptor only accepts and hands over. Socket options, TLS and every byte of the client are the
worker's.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from poolproxy.acceptor.balancer import BATCH
from poolproxy.acceptor.listeners import UNIX, Listener
from poolproxy.metrics.schema import ProxyMetrics

log = logging.getLogger("poolproxy.acceptor")

# What accept(2) raises when the machine is out of something: trio and asyncio wait and try again.
CAPACITY_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE_SECONDS = 0.1
# Errors of the one connection that accept(2) passes on; the next may be fine.
CONNECTION_ERRORS = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)
_UCRED = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED of unix(7)


@attrs.frozen
class Arrival:
    """A socket that was just accepted; whoever has it owns ``fd``."""

    fd: int
    peer: str
    port: int
    listener: Listener
    at: float


async def accept_forever(
    listener: Listener,
    take: Callable[[list[Arrival]], None],
    room: Callable[[], Awaitable[None]],
    metrics: ProxyMetrics,
) -> None:
    """Accept on ``listener`` until cancelled or until it is closed. ``take`` gets what one sweep has brought;
    ``room`` returns when there is a worker to give clients to: until then they wait in the kernel's backlog.
    """
    while True:
        await room()
        if listener.closed:
            return  # by a reload, while this task was about to run
        arrivals, error = sweep(listener)
        if arrivals:
            metrics.accepted[listener.label] += len(arrivals)
            take(arrivals)
        if error is None and len(arrivals) < BATCH:
            await trio.lowlevel.wait_readable(listener.sock.fileno())
        elif error is None:
            await trio.lowlevel.checkpoint()
        else:
            await _cope(listener, error, metrics)


def sweep(listener: Listener) -> tuple[list[Arrival], OSError | None]:
    """Accept what is there, at most one batch; the error is why it ended early."""
    arrivals: list[Arrival] = []
    while len(arrivals) < BATCH:
        try:
            sock, address = listener.sock.accept()
        except BlockingIOError:
            break
        except OSError as error:
            return arrivals, error
        peer, port = _peer(sock, address, listener)
        arrivals.append(Arrival(sock.detach(), peer, port, listener, time.monotonic()))
    return arrivals, None


async def _cope(listener: Listener, error: OSError, metrics: ProxyMetrics) -> None:
    number = error.errno or 0
    metrics.accept_errors[errno.errorcode.get(number, "unknown")] += 1
    if number in CONNECTION_ERRORS:
        log.debug("accept on %s: %s", listener.name, error.strerror)
        await trio.lowlevel.checkpoint()
    elif number in CAPACITY_ERRORS:
        log.error(
            "accept on %s: %s; trying again every %g s",
            listener.name,
            os.strerror(number),
            PAUSE_SECONDS,
        )
        await trio.sleep(PAUSE_SECONDS)
    else:
        raise error


def _peer(sock: socket.socket, address: Any, listener: Listener) -> tuple[str, int]:
    if listener.host != UNIX:
        # In brackets as PgBouncer has it: with a port behind it "::1" would be another address.
        return (f"[{address[0]}]" if sock.family == socket.AF_INET6 else address[0]), address[1]
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return UNIX, _UCRED.unpack(credentials)[0]
