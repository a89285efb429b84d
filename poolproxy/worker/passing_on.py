"""Passing a CancelRequest on to the instance of the group that has its client."""

from __future__ import annotations

import logging
import ssl
from functools import partial
from socket import AF_UNIX, socket

from poolproxy.ipc.messages import CancelDone, CancelKey, PassOn
from poolproxy.relay.server import Address
from poolproxy.relay.tls import Encryption
from poolproxy.settings.hosts import Host
from poolproxy.worker import tls
from poolproxy.worker.cancel import FAILED, TIMEOUT, send_cancel
from poolproxy.worker.hosts import addresses
from poolproxy.worker.tls import TlsFailed
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)


async def pass_on(worker: Worker, message: PassOn) -> None:
    """Deliver the request, encrypted as server connections are, and say that it is done."""
    host = Host(message.host, message.port)
    outcome = FAILED
    try:
        # The acceptor gives it up after cancel_wait_timeout, too, whatever becomes of this.
        patience = worker.config.settings.cancel_wait_timeout or float("inf")
        for address in await addresses(worker, host):
            outcome = await _deliver(worker, host, address, message.key, patience)
            if outcome not in (FAILED, TIMEOUT):
                break
    finally:
        label = "passed_on" if outcome not in (FAILED, TIMEOUT) else f"peer_{outcome}"
        counts = worker.metrics.cancels
        counts[label] = counts.get(label, 0) + 1
        worker.channel.post(CancelDone(message.request))
    if outcome in (FAILED, TIMEOUT):
        log.warning("could not pass a cancel request on to peer %s: %s", host, outcome)


async def _deliver(
    worker: Worker, host: Host, address: Address, key: CancelKey, patience: float
) -> str:
    context = worker.contexts.server
    begin = None
    if context is not None and address[0] != AF_UNIX:
        begin = partial(_begin, worker, host, context)
    return await send_cancel(address, key, patience, begin)


async def _begin(worker: Worker, host: Host, context: ssl.SSLContext, sock: socket) -> socket:
    answer = await tls.ask(sock)
    if answer == b"N" and not worker.config.settings.server_tls_sslmode.required:
        return sock
    if answer != b"S":
        raise TlsFailed("the peer refused SSL", "protocol")
    wrapped = tls.wrap_server(sock, Encryption(context, host.name, direct=False))
    try:
        await worker.handshakes.shake(wrapped, direct=False)
    except BaseException:
        wrapped.close()
        raise
    return wrapped
