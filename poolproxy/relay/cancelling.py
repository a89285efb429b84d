"""A cancel request for a client that waits for a server: nothing runs that could be cancelled.

Its wait ends at once, with the error that PostgreSQL itself would send, and the client lives on: it is
idle, outside of any transaction, as after an error on a connection of its own. Only one whose first
message is not complete yet can't be answered: it is closed with the error.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import attrs

from poolproxy.errors import PoolerError
from poolproxy.wire.build import error_response, ready_for_query
from poolproxy.wire.cancelled import behind_sync, cancelled
from poolproxy.wire.frontend import HEADER

if TYPE_CHECKING:
    from poolproxy.relay.client import Client

# The value of Client.drop: drop all up to the next Sync.
TO_SYNC = -1

CANCELLED = PoolerError(
    "canceling statement due to user request",
    sqlstate="57014",
    hint="It was still waiting for a server connection, so nothing of it was executed.",
    severity="ERROR",
    reason="cancel_request",
)


def cancel_wait(client: Client) -> None:
    """End the wait of ``client``, which must be waiting: in the queue, or for a server being prepared."""
    found = cancelled(client.held + client.raw, error_response(CANCELLED))
    if not found.used:
        client.fail(attrs.evolve(CANCELLED, severity="FATAL"))
        return
    rest = (client.held + client.raw)[found.used :] + client.front.head
    errors = client.pool.stats.errors
    errors[CANCELLED.reason] = errors.get(CANCELLED.reason, 0) + 1
    _stop_waiting(client)
    client.write(found.answer)
    if client.out:
        client.pause()  # it gets no further answer before it has read this one
    else:
        client.resume()
    if found.skipping:
        client.drop = TO_SYNC
    if rest or found.skipping:
        client.take_early(rest)
    else:
        client.fresh = True


def _stop_waiting(client: Client) -> None:
    pool = client.pool
    pool.give_up(client)
    for server in pool.servers:
        if server.task is not None and server.task.client is client:
            server.task.client = None
    client.wait_since = 0.0
    client.last_activity = monotonic()
    client.drop_held()


def drop_to_sync(client: Client, data: bytes) -> bytes:
    """What of ``data`` is behind the Sync that ends a refused batch; that Sync is answered."""
    front = client.front
    data = front.head + data
    front.head = b""
    position, synced = behind_sync(data, front.left)
    front.left = max(0, position - len(data))
    if synced:
        client.drop = 0
        client.write(ready_for_query())
        if client.out:
            client.pause()
    elif position < len(data) < position + HEADER:
        front.head = data[position:]
        return b""
    elif position < len(data):
        client.drop = 0  # Terminate, or what is no message: the general way knows what to do
    return data[position:]
