"""Accepted sockets go to the workers; those over max_client_conn with the order to refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from poolproxy.acceptor.accepting import Arrival
from poolproxy.acceptor.balancer import batches, spread
from poolproxy.ipc.channel import close_fds
from poolproxy.ipc.messages import Accepted, Handoff

if TYPE_CHECKING:
    from poolproxy.acceptor.hub import Hub

# While all workers' queues are full there is no event to wait for: look again after this long.
FULL_PAUSE = 0.05


class Entrance:
    """Where clients come in."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def room(self) -> None:
        """Wait until there is a worker that a client can be given to."""
        while self._hub.holds.suspended or not self._hub.workers.taking():
            with trio.move_on_after(FULL_PAUSE):
                await self._hub.workers.changed.wait()

    def take(self, arrivals: Sequence[Arrival]) -> None:
        """Hand accepted sockets to workers; those over max_client_conn with the order to refuse."""
        loads = {
            worker.number: self._hub.clients.load(worker.number)
            for worker in self._hub.workers.taking()
        }
        if not loads:
            close_fds(arrival.fd for arrival in arrivals)
            return
        free = self._hub.loaded.config.settings.max_client_conn - self._hub.clients.count
        flagged = [(arrival, order >= free) for order, arrival in enumerate(arrivals)]
        self._hub.reports.proxy.refused += sum(refused for _, refused in flagged)
        for number, given in spread(flagged, loads).items():
            for batch in batches(given):
                self._hand_over(number, batch)

    def _hand_over(self, number: int, batch: Sequence[tuple[Arrival, bool]]) -> None:
        worker = self._hub.workers.get(number)
        assert worker is not None  # spread() was given live workers only, and nothing has waited
        accepted = []
        for arrival, refused in batch:
            client = self._hub.clients.next_id()
            self._hub.clients.add(client, number, refused=refused)
            listener = arrival.listener
            accepted.append(
                Accepted(
                    id=client,
                    peer=arrival.peer,
                    port=arrival.port,
                    local=listener.host,
                    local_port=listener.port,
                    accepted_at=arrival.at,
                    refused=refused,
                )
            )
        worker.channel.post(Handoff(tuple(accepted)), [arrival.fd for arrival, _ in batch])
