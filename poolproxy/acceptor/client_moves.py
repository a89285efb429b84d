"""Clients on their way between workers, as the acceptor sees to it.

It passes the descriptor and the state on as they come, and keeps neither. A client counts for the worker
that it goes to from then on; it is that worker's when it says so, and goes back if it refuses or dies.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from poolproxy.acceptor.rebalance import Balance, Rebalancer
from poolproxy.acceptor.workers import State, Worker
from poolproxy.ipc.channel import close_fds
from poolproxy.ipc.messages import (
    ClientArrival,
    ClientArrived,
    ClientMove,
    ClientMoved,
    RelayEnds,
    Unrelay,
)

if TYPE_CHECKING:
    from poolproxy.acceptor.clients import Client
    from poolproxy.acceptor.hub import Hub

log = logging.getLogger("poolproxy.acceptor")

DONE, REFUSED, LOST = "done", "refused", "lost"
DIED = "the worker that it was sent to has died"


class ClientMoves:
    """``rebalancer`` says who is to give clients to whom."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.rebalancer = Rebalancer()

    # -- a client ---------------------------------------------------------------------------------

    def begin(self, worker: Worker, message: ClientMove, fds: list[int]) -> None:
        """A worker gives a client away. Takes the descriptors."""
        clients, state, host = self._hub.clients, message.state, self._hub.host
        permit = message.server.permit if message.server is not None else 0
        target = self._target(worker, message)
        relayed = state.relayed is not None
        if len(fds) < len(message.sockets):
            why = "the acceptor is out of file descriptors"
        elif target is None:
            why = "there is no worker for it"
        elif worker.is_to_kill(state.pool.database):
            # It may be older than the KILL, which its next worker may have read.
            why = "its worker has not answered KILL"
        elif permit and not host.holds(worker, permit):
            why = "its server is not this worker's"
        elif clients.move(worker.number, state.id, target.number, permit, relayed=relayed):
            if target.channel.post(ClientArrival(message.sockets, state, message.server), fds):
                host.server_follows(permit, target.number)
                return
            clients.returned(target.number, state.id)
            fds, why = [], "its state could not be sent on"
        else:
            why = "the acceptor does not know it"
        close_fds(fds)
        self._count(REFUSED)
        worker.channel.post(ClientMoved(state.id, why))

    def _target(self, source: Worker, message: ClientMove) -> Worker | None:
        hub, wanted = self._hub, message.target
        if wanted and wanted == hub.clients.relay_of(message.state.id):
            return hub.workers.get(wanted)  # also if that is about to go
        takers = [w for w in hub.workers.taking() if w is not source]
        if wanted:
            return next((w for w in takers if w.number == wanted), None)
        return min(takers, key=lambda w: hub.clients.load(w.number), default=None)

    def arrived(self, worker: Worker, message: ClientArrived) -> None:
        """The other worker has it now, or does not take it."""
        clients = self._hub.clients
        if message.refused:
            found = clients.returned(worker.number, message.client)
        else:
            found = clients.arrived(worker.number, message.client)
        if found is None:
            return
        client, source = found
        former = self._hub.workers.get(source) if source is not None else None
        if former is not None:
            former.channel.post(ClientMoved(client.id, message.refused))
        if message.refused:
            self._hub.host.server_follows(client.permit, source)
            self._count(REFUSED if former is not None else LOST)
        else:
            self._count(DONE)
            self._hub.host.client_moved(source, worker.number, client.pool)
        log.debug("client %d: %s -> %s: %s", client.id, former, worker, message.refused or DONE)
        self._free_cancels(client, None if message.refused and former is None else client.worker)

    def worker_gone(self, worker: Worker) -> int:
        """A worker is dead; returns how many clients are lost with it.

        If not all that it had to say was heard, it may have had a client longer than is known here, and
        read of it: such a client does not go on.
        """
        self.rebalancer.worker_gone(worker.number)
        lost, back = self._hub.clients.worker_gone(worker.number)
        for client in lost:
            if client.moving:
                self._count(LOST)
                self._free_cancels(client, None)
        for client in back:
            self._hub.host.server_follows(client.permit, client.worker)
            self._count(REFUSED if worker.heard_out else LOST)
            answer = ClientMoved(client.id, DIED, lost=not worker.heard_out)
            self._hub.workers.send([(client.worker, answer)])
            self._free_cancels(client, client.worker)
        return len(lost)

    def relay_ends(self, message: RelayEnds) -> None:
        """A worker relays these clients no longer: those that serve them are to tell them."""
        for worker, clients in self._by_worker(message.clients).items():
            self._hub.workers.send([(worker, RelayEnds(tuple(clients)))])

    def unrelay(self, worker: Worker, message: Unrelay) -> None:
        """A worker wants back the clients that it relays."""
        clients = self._hub.clients
        its = [client for client in message.clients if clients.relay_of(client) == worker.number]
        for number, found in self._by_worker(its).items():
            if number != worker.number:  # to which they are on their way already
                self._hub.workers.send([(number, Unrelay(tuple(found), worker.number))])

    def _by_worker(self, clients: Iterable[int]) -> dict[int, list[int]]:
        """These clients by who serves them."""
        found: dict[int, list[int]] = {}
        for client in clients:
            worker = self._hub.clients.worker_of(client)
            if worker is not None:
                found.setdefault(worker, []).append(client)
        return found

    def cancel_missed(self, worker: Worker, request: int) -> None:
        """A cancel request has come to a worker that had sent the client away."""
        key = self._hub.cancels.missed(worker.number, request)
        client = self._hub.clients.with_key(key) if key is not None else None
        if key is not None and (client is None or not client.moving):
            owner = client.worker if client is not None else None
            self._hub.workers.send(self._hub.cancels.found(key, owner))

    def _free_cancels(self, client: Client, worker: int | None) -> None:
        if client.key is not None:
            self._hub.workers.send(self._hub.cancels.found(client.key, worker))

    def _count(self, outcome: str) -> None:
        self._hub.reports.proxy.client_moves[outcome] += 1

    # -- balance ----------------------------------------------------------------------------------

    def rebalance(self) -> None:
        """To be called a few times a second."""
        hub = self._hub
        busy = None if hub.leaving else self.rebalancer.shares(time.monotonic())
        hub.host.gather(busy, hub.clients.connections_of)
        if not hub.loaded.config.settings.client_moves or hub.leaving:
            return
        loads = {w.number: hub.clients.load(w.number) for w in hub.workers.taking()}
        for number, order in self.rebalancer.plan(time.monotonic(), loads):
            log.debug("worker %d gives %.0f %% to %d", number, 100 * order.share, order.target)
            hub.workers.send([(number, order)])

    def balance(self) -> Balance:
        """How busy the workers that take clients have been of late."""
        shares = self.rebalancer.shares(time.monotonic())
        ready = {worker.number for worker in self._hub.workers.in_state(State.READY)}
        return Balance({number: share for number, share in shares.items() if number in ready})
