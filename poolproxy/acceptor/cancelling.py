"""Whom a cancel request is for: the worker that has the client, another instance, or nobody yet.

A client can cancel as soon as it has its key. The request then comes by one worker and the word that the
client has logged in, sent before that, by another one, and the acceptor may read the request first. So
before a key counts as nobody's all is heard that workers have said by then.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import attrs
import trio

from poolproxy.acceptor.cancels import MAX_PENDING, Peer
from poolproxy.acceptor.clients import Client
from poolproxy.acceptor.workers import State, Worker
from poolproxy.ipc.messages import CancelKey, CancelRequest
from poolproxy.settings.hosts import Host
from poolproxy.wire.peering import passed_on, peer_of, restored

if TYPE_CHECKING:
    from poolproxy.acceptor.hub import Hub


# Turns in which what workers had said is handled, one message of each in a turn: more than the buffer of a
# channel has room for.
MOST_TURNS = 1000


class Cancelling:
    """Finds out whom a cancel request is for. ``nursery`` has the task that waits until all is heard, while
    there are requests whose client is not known yet.
    """

    def __init__(self, hub: Hub, nursery: trio.Nursery) -> None:
        self._hub = hub
        self._nursery = nursery
        self._unknown: list[tuple[Worker, CancelRequest, float]] = []
        self._hears = False

    def request(self, worker: Worker, message: CancelRequest) -> None:
        """A cancel request has come in by this worker."""
        timeout = self._hub.loaded.config.settings.cancel_wait_timeout
        deadline = time.monotonic() + timeout if timeout else math.inf
        if self._keeper(message.key) is not None or len(self._unknown) >= MAX_PENDING:
            self._direct(worker, message, deadline)
            return
        self._unknown.append((worker, message, deadline))
        if not self._hears:
            self._hears = True
            self._nursery.start_soon(self._hear)

    async def _hear(self) -> None:
        while self._unknown:
            unknown, self._unknown = self._unknown, []
            await self._hear_all()
            for worker, message, deadline in unknown:
                if worker.state is not State.DEAD:
                    self._direct(worker, message, deadline)
        self._hears = False

    async def _hear_all(self) -> None:
        for worker in self._hub.workers:
            for _ in range(MOST_TURNS):
                if worker.state is State.DEAD or not worker.channel.unread:
                    break
                await trio.lowlevel.checkpoint()

    def _direct(self, worker: Worker, message: CancelRequest, deadline: float) -> None:
        client = self._keeper(message.key)
        if client is not None and client.console:
            self._hub.desk.cancel(client.id)
        secret = passed_on(message.key.secret)
        if client is None and secret and (peer := self._peer(message.key)) is not None:
            key = attrs.evolve(message.key, secret=secret)
            sends = self._hub.cancels.pass_on(worker.number, message.request, key, peer, deadline)
            self._hub.workers.send(sends)
            return
        moving = client is not None and client.moving
        doer = client.worker if client is not None and not (moving or client.console) else None
        key = client.key if client is not None and client.key is not None else message.key
        sends = self._hub.cancels.request(
            worker.number,
            message.request,
            key,
            doer=doer,
            deadline=deadline,
            moving=moving,
        )
        self._hub.workers.send(sends)

    def _keeper(self, key: CancelKey) -> Client | None:
        """The client with this key, which may have come by way of other instances."""
        client = self._hub.clients.with_key(key)
        if (
            client is None
            and peer_of(key.pid, key.secret) == self._hub.loaded.config.settings.peer_id
        ):
            client = self._hub.clients.with_key(attrs.evolve(key, secret=restored(key.secret)))
        return client

    def _peer(self, key: CancelKey) -> Peer | None:
        """The other instance that has the client with this key, if there is one."""
        config = self._hub.loaded.config
        peer_id = peer_of(key.pid, key.secret)
        entry = config.peers.get(str(peer_id))
        if not config.settings.peer_id or peer_id == config.settings.peer_id or entry is None:
            return None
        limit = entry.pool_size
        limit = config.settings.default_pool_size if limit is None else limit
        return Peer(peer_id, Host(entry.host or "", entry.port), limit)

    def expire(self) -> None:
        """Drop cancels that take too long; to be called about once a second."""
        self._hub.workers.send(self._hub.cancels.expire(time.monotonic()))
