"""Server connections that leave for another worker, or come from one.

What is sent goes by the acceptor, which has a duplicate of each server's descriptor: that of the sender is
closed without a word to PostgreSQL, and the receiver gets one of the duplicate. So whatever process dies
meanwhile, the acceptor can end the connection.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

import attrs

from poolproxy.ipc.channel import INLINE_LIMIT
from poolproxy.ipc.codec import encode
from poolproxy.ipc.messages import (
    NoneIdle,
    ServersCome,
    ServerState,
    ServerTaken,
    ServerYielded,
    Yield,
    YieldIdle,
)
from poolproxy.pool.pool import GIVEN_BACK, PAUSED
from poolproxy.relay.context import Pool
from poolproxy.relay.engine import CHUNK
from poolproxy.relay.moving import CHANGED, is_quiet, server_of, server_state
from poolproxy.relay.replication import close_all
from poolproxy.relay.server import MOVED, Server
from poolproxy.relay.session import let_go
from poolproxy.wire.answering import only_notifications
from poolproxy.worker.hosts import is_elsewhere

if TYPE_CHECKING:
    from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

# A larger one would travel in a memfd, for which there may be no descriptor left. What the acceptor adds is
# less than this.
MOST_BYTES = INLINE_LIMIT - 1024


def called(worker: Worker, message: Yield) -> None:
    """Other workers' clients need servers of the pool."""
    pool = worker.pools.get(message.pool)
    if pool is None:
        return
    pool.call(message.count, message.since)
    for server in pool.resting()[: message.count]:
        hand_over(worker, server)
    if pool.called and not pool.waiting:
        pool.call(pool.called - let_go(pool, pool.called), message.since)


def hand_over(worker: Worker, server: Server, otherwise: str = GIVEN_BACK) -> None:
    """Send a free server to the acceptor, or if it can't be sent, close it so that its permit goes there:
    ``otherwise`` is the reason then.
    """
    pool = server.pool
    pool.call(max(0, pool.called - 1), pool.called_since)
    message = _message(worker, server, 0) if is_quiet(server) else None
    if message is None:
        server.end(otherwise)
    else:
        _send(worker, server, message)


def hand_all_over(worker: Worker, reason: str, *, unused_only: bool) -> None:
    """This worker is to leave: other workers get its free servers. ``unused_only``: those of pools that have
    no clients here any more. What can't be handed over ends with this ``reason``.
    """
    for pool in worker.pools.values():
        if unused_only and (pool.clients or pool.logins_waiting or pool.demands or pool.opening):
            continue
        for server in pool.resting():
            hand_over(worker, server, reason)
        close_all(pool, reason)


def _send(worker: Worker, server: Server, message: ServerYielded) -> None:
    log.debug("%s goes to another worker", server.name)
    server.let_go()
    worker.channel.post(message)


def _message(worker: Worker, server: Server, client: int) -> ServerYielded | None:
    message = ServerYielded(server_state(server, worker.generation), None, client)
    if len(encode(message)) > MOST_BYTES:
        return None
    return attrs.evolve(message, want=server.pool.refreshed_want())


@contextmanager
def keeping(worker: Worker, pool: Pool) -> Iterator[None]:
    """Yield nothing meanwhile: a server that we have only just got is for our own client, whatever others may
    want, and not ours to give before the acceptor has been told that we have it.
    """
    others = Yield(pool.key, pool.called, pool.called_since)
    pool.call(0, 0.0)
    try:
        yield
    finally:
        if others.count:
            called(worker, others)


def look_for_idle(worker: Worker, order: YieldIdle) -> None:
    """A client that logs in with another worker would like an idle server."""
    pool = worker.pools.get(order.pool)
    if pool is not None and not pool.waiting:
        for server in pool.resting():
            message = _message(worker, server, order.client) if is_quiet(server) else None
            if message is not None:
                _send(worker, server, message)
                return
    worker.channel.post(NoneIdle(order.pool, order.client))


def arrive(worker: Worker, message: ServersCome, fds: Sequence[int]) -> None:
    """Take what another worker has yielded; the descriptors are ours. Those that have found no room here are
    lost to the kernel, and with them their servers.
    """
    for state, fd in zip(message.servers, fds, strict=False):
        _take(worker, state, fd, message.client)
    for state in message.servers[len(fds) :]:
        log.error("%s is lost: out of file descriptors (RLIMIT_NOFILE)", state.name)
        _refuse(worker, state, message.client)


def _refuse(worker: Worker, state: ServerState, client: int) -> None:
    claim = worker.claims.get(client)
    if claim is not None:
        claim.refuse()
    worker.channel.post(ServerTaken(state.permit, taken=False, want=None))


def _take(worker: Worker, state: ServerState, fd: int, client: int) -> None:
    settings = worker.config.pool_of((state.pool.database, state.pool.user))
    sock = socket.socket(fileno=fd)
    if settings is None or worker.leaving in ("servers", "orphan") or _is_lost(sock):
        sock.close()
        _refuse(worker, state, client)
        return
    pool = worker.pool(settings)
    server = made(worker, pool, state, sock)
    pool.servers.add(server)
    server.watch()
    log.debug("%s has come from another worker", server.name)
    with keeping(worker, pool):
        _use(worker, pool, server, client)
        worker.channel.post(ServerTaken(state.permit, taken=True, want=pool.refreshed_want()))


def _is_lost(sock: socket.socket) -> bool:
    """Whether PostgreSQL has ended the connection while nobody read it: no waiter must be given it."""
    try:
        data = sock.recv(CHUNK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return not data or not only_notifications(data)


def made(worker: Worker, pool: Pool, state: ServerState, sock: socket.socket) -> Server:
    """The server that has come, as this worker sees it."""
    server = server_of(state, sock, worker.context, pool, worker.generation)
    server.values = worker.shared_values(server.values)
    catch_up(worker, server)
    return server


def catch_up(worker: Worker, server: Server) -> None:
    """What was told of all servers of the pool or the host while this one was on its way holds for it, too:
    its former worker may have sent it before that.
    """
    pool = server.pool
    if server.doomed == PAUSED:
        server.doomed = ""
    if server.connected_at <= pool.outdated:
        server.doomed = server.doomed or CHANGED
    if is_elsewhere(worker, server):
        server.doomed = server.doomed or MOVED
    if worker.stops(pool):
        server.doomed = server.doomed or PAUSED


def _use(worker: Worker, pool: Pool, server: Server, client: int) -> None:
    claim = worker.claims.get(client)
    now = monotonic()
    if claim is not None and not server.doomed:
        claim.deliver(server, now)
        return
    if claim is not None:
        claim.refuse()
    waited = len(pool.waiting)
    server.pass_on(now)
    pool.stats.waits_ended_by_moves += waited - len(pool.waiting)
