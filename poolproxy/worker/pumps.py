"""Clients that another worker serves while their connections stay here, see ``relay.pump``.

They come back when this worker becomes their pool's home, or has none to send them to any more. Those in the
clear also when they could go themselves: when this worker is to leave, or ``client_moves`` has been switched
on. This worker asks for them, and the one that serves such a client sends it, as any one, when it is quiet.
Its connection and the pipe's other end are then here, and so is all that is on its way in the pipe.
"""

from __future__ import annotations

import logging
import random
import socket

from poolproxy.ipc.messages import RelayEnds, Unrelay
from poolproxy.relay.client import Client
from poolproxy.relay.pump import Pump
from poolproxy.relay.tls import TlsConnection
from poolproxy.worker.parting import see_off
from poolproxy.worker.worker import HERE, Worker

log = logging.getLogger(__name__)

PART = 4096  # clients named in one message
# For clients that are to come back: so many at once, each so many seconds, as they may be busy all the time.
ASK_FOR, ASK_EVERY = 256, 0.25


def pipe() -> tuple[socket.socket, int]:
    """A pair of sockets: the end that stays, and the descriptor of the one that goes. OSError."""
    stays, goes = socket.socketpair()
    stays.setblocking(False)
    goes.setblocking(False)
    return stays, goes.detach()


def begin(worker: Worker, client: Client, inner: socket.socket) -> None:
    """Another worker has ``client`` from now on, at the other end of ``inner``."""

    def on_end(rest: socket.socket | None) -> None:
        del worker.pumps[client.id]
        log.debug("%s is relayed no longer", client.name)
        if rest is not None:
            see_off(worker, rest)

    pump = Pump(worker.lane, client.hand_on(), inner, client.pool.key, on_end)
    worker.pumps[client.id] = pump
    pump.start()
    log.debug("%s is relayed from now on", client.name)


def undo(worker: Worker, client: Client, pump: Pump, fd: int) -> bytes:
    """The client has come back here, and its end of the pipe, which is taken; what it has sent meanwhile."""
    del worker.pumps[client.id]
    if isinstance(client, TlsConnection) and client.relayed is not None:
        client.tls = client.relayed.tls
    client.relayed = None
    with socket.socket(fileno=fd) as far:
        early, unsent = pump.undo(far)
    client.owes(unsent)
    return early


def tick(worker: Worker, now: float) -> None:
    """Called by the janitor."""
    for pump in [pump for pump in worker.pumps.values() if now >= pump.deadline]:
        pump.close()
    if now >= worker.departing.asked_at + ASK_EVERY and worker.pumps:
        worker.departing.asked_at = now
        wanted = [id for id, pump in worker.pumps.items() if _is_wanted(worker, pump)]
        if wanted:
            some = random.sample(wanted, min(len(wanted), ASK_FOR))
            worker.channel.post(Unrelay(tuple(some)))


def _is_wanted(worker: Worker, pump: Pump) -> bool:
    """Whether its client is to come back."""
    if worker.home_of(pump.pool) == HERE:
        return True
    could_go = worker.departing.for_good or worker.config.settings.client_moves
    return could_go and not pump.encrypted


def announce_end(worker: Worker) -> None:
    """These clients are not waited for any longer: the workers that serve them tell them."""
    ids = list(worker.pumps)
    for start in range(0, len(ids), PART):
        worker.channel.post(RelayEnds(tuple(ids[start : start + PART])))


def close_all(worker: Worker) -> None:
    """End them at once."""
    for pump in list(worker.pumps.values()):
        pump.close()
