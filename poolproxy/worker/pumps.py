"""Encrypted clients of this worker that are served by another one, see ``relay.pump``."""

from __future__ import annotations

import logging
import socket
import ssl

from poolproxy.relay.client import Client
from poolproxy.relay.pump import Pump
from poolproxy.relay.tls import TlsConnection
from poolproxy.worker.parting import see_off
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)


def pipe() -> tuple[socket.socket, int]:
    """A pair of sockets: the end that stays, and the descriptor of the one that goes. OSError."""
    stays, goes = socket.socketpair()
    stays.setblocking(False)
    goes.setblocking(False)
    return stays, goes.detach()


def begin(worker: Worker, client: Client, inner: socket.socket) -> None:
    """Another worker has ``client`` from now on, at the other end of ``inner``."""
    assert isinstance(client, TlsConnection)

    def on_end(pump: Pump, rest: ssl.SSLSocket | None) -> None:
        worker.pumps.discard(pump)
        log.debug("%s is relayed no longer", client.name)
        if rest is not None:
            see_off(worker, rest)

    pump = Pump(worker.engine, client.hand_on(), inner, on_end)
    worker.pumps.add(pump)
    pump.start()
    log.debug("%s is relayed from now on", client.name)


def tick(worker: Worker, now: float) -> None:
    """Called by the janitor."""
    for pump in [pump for pump in worker.pumps if now >= pump.deadline]:
        pump.close()


def close_all(worker: Worker) -> None:
    """These clients are not waited for any longer."""
    for pump in list(worker.pumps):
        pump.close()
