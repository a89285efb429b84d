"""Encrypted clients of this worker that are served by another one, see ``relay.pump``."""

from __future__ import annotations

import logging
import socket
import ssl

from poolproxy.ipc.messages import RelayEnds
from poolproxy.relay.client import Client
from poolproxy.relay.pump import Pump
from poolproxy.relay.tls import TlsConnection
from poolproxy.worker.parting import see_off
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

PART = 4096  # clients named in one message


def pipe() -> tuple[socket.socket, int]:
    """A pair of sockets: the end that stays, and the descriptor of the one that goes. OSError."""
    stays, goes = socket.socketpair()
    stays.setblocking(False)
    goes.setblocking(False)
    return stays, goes.detach()


def begin(worker: Worker, client: Client, inner: socket.socket) -> None:
    """Another worker has ``client`` from now on, at the other end of ``inner``."""
    assert isinstance(client, TlsConnection)

    def on_end(rest: ssl.SSLSocket | None) -> None:
        del worker.pumps[client.id]
        log.debug("%s is relayed no longer", client.name)
        if rest is not None:
            see_off(worker, rest)

    pump = Pump(worker.engine, client.hand_on(), inner, on_end)
    worker.pumps[client.id] = pump
    pump.start()
    log.debug("%s is relayed from now on", client.name)


def tick(worker: Worker, now: float) -> None:
    """Called by the janitor."""
    for pump in [pump for pump in worker.pumps.values() if now >= pump.deadline]:
        pump.close()


def announce_end(worker: Worker) -> None:
    """These clients are not waited for any longer: the workers that serve them tell them."""
    ids = list(worker.pumps)
    for start in range(0, len(ids), PART):
        worker.channel.post(RelayEnds(tuple(ids[start : start + PART])))


def close_all(worker: Worker) -> None:
    """End them at once."""
    for pump in list(worker.pumps.values()):
        pump.close()
