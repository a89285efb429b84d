"""Clients on their way between this worker and others.

A client that goes is deregistered here before its descriptor is sent, and kept until the acceptor says that
another worker has it: until then it can come back. Of one that is relayed it is the end of a pipe that goes
(``worker.pumps``); nothing is put into it before that. One that comes is acknowledged before a byte of it is
read: so whenever a worker dies, it is known which of the two may have read of it.

A busy client is quiet for moments only. Those that are to go are looked at a few hundred times a second
until each was found in such a moment; the relay does nothing for it.
"""

from __future__ import annotations

import logging
import os
import random
import socket
from time import monotonic
from typing import TYPE_CHECKING

import trio

from poolproxy.auth.scram import ScramKeys
from poolproxy.auth.secrets import ScramSecret, parse_secret, text_bytes
from poolproxy.ipc.channel import close_fds
from poolproxy.ipc.messages import (
    ClientArrival,
    ClientArrived,
    ClientMove,
    ClientMoved,
    ClientSecrets,
    ClientState,
    Shed,
)
from poolproxy.relay.client import Client
from poolproxy.relay.client_state import arrived, can_ever_move, is_quiet, state_of, values_of
from poolproxy.relay.context import Pool
from poolproxy.relay.moving import server_state
from poolproxy.relay.pump import Pump
from poolproxy.relay.session import SessionClient
from poolproxy.wire.codes import QUERY
from poolproxy.worker import pumps, server_moves
from poolproxy.worker.credentials import known_secret
from poolproxy.worker.lookup import Found, remember
from poolproxy.worker.orders import KILLED
from poolproxy.worker.reload import REMOVED
from poolproxy.worker.shedding import Burden, choose

if TYPE_CHECKING:
    from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

# How the work of clients is estimated: what they have done is looked at so often, so far apart.
LOOKS, LOOK_EVERY = 12, 0.012
MOST_LOOKED_AT = 512  # clients, chosen by lot: with ten thousand a look would take milliseconds
CATCH_EVERY = 0.002  # seconds between two looks for a quiet moment
CATCH_FOR = 1.0  # seconds; the acceptor judges anew after that
BATCH = 16  # clients sent in one go: each takes about 0.1 ms
MOST_IN_FLIGHT = 256  # descriptors that wait in channels count against RLIMIT_NOFILE
RETRY_EVERY = 0.1  # seconds, after a refusal
# With more the state of one client would hold up the acceptor; it is sent where a worker is to go, or wants
# back the clients that it relays.
MOST_STATEMENT_BYTES = 256 * 1024


# -- going ------------------------------------------------------------------------------------


def send(worker: Worker, client: Client, target: int, *, relay: bool = False) -> bool:
    """Send a quiet client away, or one that can be relayed; False if it can't be sent now."""
    server = client.server
    fds: list[int] = []
    pipe: socket.socket | None = None
    if client.id in worker.departing.unread:
        return False
    try:
        pipe = _open(client, fds, relay=relay)
        sent = worker.channel.post(_message(worker, client, target, relay=relay), fds)
    except OSError as error:
        _close(fds, pipe)
        worker.departing.rests_until = monotonic() + RETRY_EVERY
        log.warning("%s can't move: %s", client.name, error.strerror)
        return False
    except Exception as error:
        # A mistake of ours in telling of this client is no reason for the others to suffer.
        _close(fds, pipe)
        log.exception("%s could not be sent", client.name)
        client.crashed(error)
        return False
    if not sent:
        _close([], pipe)
        return False
    worker.engine.forget(client.fd)
    if server is not None:
        worker.engine.forget(server.fd)
        server.pool.remove(server)
    if pipe is not None:
        worker.departing.pipes[client.id] = pipe
    worker.departing.clients[client.id] = client
    worker.departing.keys.add(client.key)
    worker.let_out(client)
    log.debug("%s moves", client.name)
    return True


def _open(client: Client, fds: list[int], *, relay: bool) -> socket.socket | None:
    """Put the descriptors that go into ``fds``; returns the end of a pipe that stays here. OSError."""
    if relay:
        pipe, fd = pumps.pipe()
        fds.append(fd)
        return pipe
    fds.append(os.dup(client.fd))
    if client.server is not None:
        fds.append(os.dup(client.server.fd))
    return None


def _close(fds: list[int], pipe: socket.socket | None) -> None:
    close_fds(fds)
    if pipe is not None:
        pipe.close()


def _message(worker: Worker, client: Client, target: int, *, relay: bool) -> ClientMove:
    server = client.server
    state = state_of(client, secrets_for(worker, client.pool), relayed=relay)
    if server is None:
        return ClientMove((client.id,), target, state, None)
    its = server_state(server, worker.generation)
    return ClientMove((client.id, server.permit), target, state, its)


def moved(worker: Worker, message: ClientMoved) -> None:
    """It has arrived elsewhere, or it comes back."""
    client = worker.departing.clients.pop(message.client, None)
    if client is None:
        return
    worker.departing.keys.discard(client.key)
    killed = client.id in worker.departing.killed
    worker.departing.killed.discard(client.id)
    pipe = worker.departing.pipes.pop(message.client, None)
    server = client.server
    if not message.refused:
        if pipe is not None:
            pumps.begin(worker, client, pipe)
        else:
            client.close()
        if server is not None:
            server.let_go()
        return
    _close([], pipe)
    log.debug("%s stays: %s", client.name, message.refused)
    worker.departing.rests_until = monotonic() + RETRY_EVERY
    worker.let_in(client)
    if server is not None:
        server.pool.servers.add(server)
        server_moves.catch_up(worker, server)
    if message.lost:
        if server is not None:
            # Nothing is said to the client: what it was sent there may have ended amid a message. The server
            # may be at work on what it was sent there, so that has to be cancelled.
            client.server = server.client = None
            server.back.owe((QUERY,))
            server.end(message.refused)
        client.leave(message.refused)
        return
    client.settings = worker.config.client(client.pool.key.database, client.user)
    gone = worker.config.pool_of((client.pool.key.database, client.pool.key.user)) is None
    if gone or killed:
        error = KILLED if killed else REMOVED
        if server is not None:
            server.end(error.message, error=error)
        client.fail(error)
        return
    _begin(worker, client)


# -- coming -----------------------------------------------------------------------------------


def arrive(worker: Worker, message: ClientArrival, fds: list[int]) -> None:
    """Take the client, or refuse it. Takes the descriptors."""
    state = message.state
    pool = _pool(worker, state)
    why = "not wanted there" if pool is None or state.key in worker.keys else ""
    pump = worker.pumps.get(state.id)
    if pump is not None and pump.over:
        why = "its connection is over"
    if len(fds) < len(message.sockets):
        why = "out of file descriptors"
    client = None
    if pool is not None and not why:
        try:
            client = _made(worker, pool, message, fds, pump)
        except Exception:
            log.exception("client %d could not be taken", state.id)
            why = "its state is not understood there"
    if client is None:
        close_fds(fds)
        worker.channel.post(ClientArrived(state.id, why))
        return
    server = client.server
    if server is not None:
        server.pool.servers.add(server)
    early = pumps.undo(worker, client, pump, fds[0]) if pump is not None else b""
    worker.let_in(client)
    worker.channel.post(ClientArrived(state.id, ""))
    log.debug("%s has moved here", client.name)
    if worker.channel.flushed:
        _begin(worker, client, early)
    else:
        client.front.head = early  # so nobody takes it for quiet
        worker.departing.unread.add(client.id)
        worker.start(_begin_later, worker, client, early)


def _made(
    worker: Worker, pool: Pool, message: ClientArrival, fds: list[int], pump: Pump | None
) -> Client:
    """The client, and its server; their sockets have the descriptors when nothing can go wrong any more. One
    that is relayed here has its own connection again.
    """
    state, context = message.state, worker.context
    learn_secrets(worker, pool, state.secrets)
    settings = worker.config.client(state.pool.database, state.user)
    values = worker.shared_values(values_of(context, state))
    socks = [socket.socket(fileno=fd) for fd in fds] if pump is None else []
    sock = socks[0] if pump is None else pump.client
    try:
        client = arrived(context, sock, state, pool=pool, values=values, settings=settings)
        if message.server is not None:
            server = server_moves.made(worker, pool, message.server, socks[1])
            server.client, client.server = client, server
    except BaseException:
        for sock in socks:
            sock.detach()
        raise
    return client


def _pool(worker: Worker, state: ClientState) -> Pool | None:
    settings = worker.config.pool_of((state.pool.database, state.pool.user))
    if settings is None or worker.leaving:
        return None
    return worker.pool(settings)


async def _begin_later(worker: Worker, client: Client, early: bytes) -> None:
    await worker.channel.flush()
    worker.departing.unread.discard(client.id)
    _begin(worker, client, early)


# -- for the sake of balance ------------------------------------------------------------------


def shed(worker: Worker, order: Shed) -> None:
    """Move clients that make up some of this worker's work."""
    worker.departing.orders[order.target] = order
    if not worker.departing.choosing:
        worker.departing.choosing = True
        worker.start(_shed, worker)


async def _shed(worker: Worker) -> None:
    try:
        candidates = await _look(worker)
        orders, worker.departing.orders = list(worker.departing.orders.values()), {}
        await _catch(worker, choose(candidates, orders, random.random))
    finally:
        worker.departing.choosing = False


async def _look(worker: Worker) -> list[Burden[Client]]:
    """What clients there are, and how much each has done of late."""
    clients = list(worker.clients.values())
    if len(clients) > MOST_LOOKED_AT:
        # Those that do nothing are no burden.
        since = monotonic() - 1
        clients = [c for c in clients if c.last_activity > since or c.server or c.wait_since]
        clients = random.sample(clients, min(len(clients), MOST_LOOKED_AT))
    marks = [_mark(client) for client in clients]
    done = [0] * len(clients)
    for _ in range(LOOKS):
        await trio.sleep(LOOK_EVERY)
        for place, client in enumerate(clients):
            mark = _mark(client)
            done[place] += mark != marks[place]
            marks[place] = mark
    return [
        Burden(client, count, _may_go(worker, client))
        for client, count in zip(clients, done, strict=True)
        if count
    ]


async def _catch(worker: Worker, chosen: dict[Client, int]) -> None:
    last = monotonic() + CATCH_FOR
    while chosen and monotonic() < last and not worker.leaving:
        for client in list(chosen):
            # It may have left, or gone to its pool's home meanwhile.
            gone = worker.clients.get(client.id) is not client or not _may_go(worker, client)
            if gone or (is_quiet(client) and send(worker, client, chosen[client])):
                del chosen[client]
        await trio.sleep(CATCH_EVERY)


# -- common ---------------------------------------------------------------------------------------


def _begin(worker: Worker, client: Client, early: bytes = b"") -> None:
    if client.closed:
        return
    server, engine = client.server, client.engine
    if server is not None and server.doomed and isinstance(client, SessionClient) and client.unused:
        client.let_go()
        server = None
    if server is None:
        client.begin(early)
    else:
        client.watch()
        server.watch()
    # Before a cancel request that was held back for it, and that what is there may have come before.
    engine.read_now(client.fd)
    if server is not None and not server.closed:
        engine.read_now(server.fd)
    if client.pool.draining:
        worker.between_transactions(client)


def _mark(client: Client) -> tuple[float, float]:
    """Differs when the client has had something done."""
    return client.last_activity, client.server.query_since if client.server is not None else 0.0


def is_small(client: Client) -> bool:
    """Whether its state is no burden for the acceptor."""
    return client.names is None or client.names.size <= MOST_STATEMENT_BYTES


def _may_go(worker: Worker, client: Client) -> bool:
    # Who is relayed is where its pool's servers were gathered, and wherever it went it would be relayed.
    homeless = client.relayed is None and client.pool.key not in worker.homes
    return homeless and is_small(client) and can_ever_move(client)


def secrets_for(worker: Worker, pool: Pool) -> ClientSecrets:
    """What another worker may lack for log-ins to this pool's server."""
    lookup = worker.config.lookup(pool.key.database)
    found = worker.found.get((lookup.database, pool.key.user)) if lookup is not None else None
    known = found.secret if found is not None else None
    # Of the hosts only a plain password may differ, which is in a file.
    secret = known_secret(worker, pool.settings, pool.settings.hosts[0])
    keys = worker.scram_keys.get(secret.stored_key) if isinstance(secret, ScramSecret) else None
    password = worker.passwords.get(pool.key)
    return ClientSecrets(
        client_key=keys.client_key if keys is not None else b"",
        server_key=keys.server_key if keys is not None else b"",
        password=text_bytes(password) if password is not None else None,
        secret=text_bytes(known.to_text()) if known is not None else None,
        found_at=found.at if found is not None else 0.0,
    )


def learn_secrets(worker: Worker, pool: Pool, told: ClientSecrets) -> None:
    """Remember what another worker has known."""
    if told.client_key:
        worker.keep_keys(ScramKeys(told.client_key, told.server_key))
    if told.password is not None:
        worker.keep_password(pool.key.database, pool.key.user, _text(told.password))
    lookup = worker.config.lookup(pool.key.database)
    if lookup is not None and told.found_at:
        secret = parse_secret(_text(told.secret)) if told.secret is not None else None
        remember(worker, (lookup.database, pool.key.user), Found(secret, told.found_at))


def _text(told: bytes) -> str:
    return told.decode("utf-8", "surrogateescape")
