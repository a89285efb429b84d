"""Accepted sockets go to the workers; those over max_client_conn are marked, and ask for room.

One that a worker had not read of when it died is as good as just accepted, and goes to another worker.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import trio

from poolproxy.acceptor.accepting import Arrival
from poolproxy.acceptor.balancer import batches, spread
from poolproxy.acceptor.clients import NO_LIMIT, NOBODY
from poolproxy.ipc.channel import close_fds
from poolproxy.ipc.messages import Accepted, Admit, FindRoom, Handoff

if TYPE_CHECKING:
    from poolproxy.acceptor.hub import Hub
    from poolproxy.acceptor.workers import Worker

log = logging.getLogger("poolproxy.acceptor")

# While all workers' queues are full there is no event to wait for: look again after this long.
FULL_PAUSE = 0.05

Socket: TypeAlias = tuple[Accepted, int]  # with its descriptor


class Entrance:
    """Where clients come in. ``nursery`` has those that wait for a worker once more."""

    def __init__(self, hub: Hub, nursery: trio.Nursery) -> None:
        self._hub = hub
        self._nursery = nursery

    async def room(self) -> None:
        """Wait until there is a worker that a client can be given to."""
        while not self._is_open():
            await self._change()

    def _is_open(self) -> bool:
        return not self._hub.holds.suspended and bool(self._hub.workers.taking())

    async def _change(self) -> None:
        with trio.move_on_after(FULL_PAUSE):
            await self._hub.workers.changed.wait()

    def take(self, arrivals: Sequence[Arrival]) -> None:
        """Hand accepted sockets to workers; those over max_client_conn are marked."""
        free = self._hub.loaded.config.settings.max_client_conn - self._hub.clients.count
        sockets = []
        for order, arrival in enumerate(arrivals):
            sockets.append((self._introduced(arrival, order >= free), arrival.fd))
        self._give(sockets)

    def find_room(self, worker: Worker, message: FindRoom) -> None:
        """Whether one of those can come in now."""
        limit = self._hub.loaded.config.settings.max_client_conn
        found = self._hub.clients.find_room(worker.number, message.client, limit)
        self._hub.reports.proxy.refused += message.last and not found
        worker.channel.post(Admit(message.client, NO_LIMIT if found else "max_client_conn"))

    def _introduced(self, arrival: Arrival, surplus: bool) -> Accepted:
        client = self._hub.clients.next_id()
        self._hub.clients.add(client, NOBODY, surplus=surplus)
        listener = arrival.listener
        return Accepted(
            id=client,
            peer=arrival.peer,
            port=arrival.port,
            local=listener.host,
            local_port=listener.port,
            accepted_at=arrival.at,
            surplus=surplus,
        )

    def _give(self, sockets: Sequence[Socket]) -> None:
        """Takes the descriptors: they are closed if there is no worker."""
        clients, workers = self._hub.clients, self._hub.workers
        loads = {worker.number: clients.connections(worker.number) for worker in workers.taking()}
        if not loads:
            close_fds(fd for _, fd in sockets)
            clients.gone(NOBODY, [accepted.id for accepted, _ in sockets])
            return
        for number, given in spread(sockets, loads).items():
            worker = workers.get(number)
            assert worker is not None  # nothing has waited since it was among those
            for batch in batches(given):
                handoff = Handoff(tuple(accepted for accepted, _ in batch))
                clients.hand_on([accepted.id for accepted in handoff.clients], number)
                worker.channel.post(handoff, [fd for _, fd in batch])

    # -- those of a dead worker -------------------------------------------------------------------

    def worker_gone(self, worker: Worker) -> None:
        """Give the clients of which it had not read to others, at once or when there are any.

        They count against max_client_conn all the while.
        """
        sockets: list[Socket] = []
        for message, fds in worker.unread:
            if isinstance(message, Handoff):
                # Too few descriptors: we were out of them. Those without are lost with the worker.
                sockets += zip(message.clients, fds, strict=False)
            else:
                close_fds(fds)
        worker.unread.clear()
        if sockets:
            log.info("%d clients that %s had not read of go to others", len(sockets), worker)
            self._hub.clients.hand_on([accepted.id for accepted, _ in sockets], NOBODY)
            self._nursery.start_soon(self._give_again, sockets)

    async def _give_again(self, sockets: Sequence[Socket]) -> None:
        try:
            while not (self._is_open() or self._hub.leaving):
                await self._change()
        except trio.Cancelled:
            close_fds(fd for _, fd in sockets)
            raise
        self._give(sockets)
