"""Memory of clients that have logged in and do nothing."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks.client import Client, query
from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable
from benchmarks.figures import Memory
from benchmarks.process import pss, tree

# Clients that log in at the same time: enough to keep the pooler busy, and far below the
# backlog of any listening socket.
_BATCH = 50
# What the pooler allocates only to log in has been given back by then.
_SETTLE_SECONDS = 1.0


def run(endpoint: Endpoint, clients: int) -> Memory:
    """Take the memory of a fresh pooler before and after ``clients`` come. Raises Unavailable.

    Only pages of the pooler's processes count; the kernel's socket buffers are the same for
    every pooler.
    """
    if endpoint.pid is None:
        raise ValueError("only a pooler has a process tree of its own")
    buffer = bytearray(4096)
    try:
        with ExitStack() as stack:
            # Loads what is loaded lazily, so that it counts as the pooler's base.
            first = _log_in(endpoint, 1, buffer, stack)[0]
            first.send(query("SELECT 1"))
            first.wait_ready()
            time.sleep(_SETTLE_SECONDS)
            before = pss(tree(endpoint.pid))
            begin = time.monotonic()
            for done in range(0, clients, _BATCH):
                _log_in(endpoint, min(_BATCH, clients - done), buffer, stack)
            elapsed = time.monotonic() - begin
            time.sleep(_SETTLE_SECONDS)
            after = pss(tree(endpoint.pid))
    except OSError as error:
        raise Unavailable(f"{clients} idle clients: {error}") from error
    return Memory(
        client_bytes=(after - before) / clients, base_mb=before / 1e6, logins=clients / elapsed
    )


def _log_in(endpoint: Endpoint, count: int, buffer: bytearray, stack: ExitStack) -> list[Client]:
    clients = []
    for _ in range(count):
        client = Client(endpoint, buffer)
        stack.callback(client.close)
        clients.append(client)
    for client in clients:
        client.wait_ready()
    return clients
