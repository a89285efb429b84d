"""``server_fast_close``: clients that keep a server that is to be replaced lose it when they are between two
transactions, and are disconnected, as what the session had there is gone.
"""

from __future__ import annotations

from poolproxy.errors import PoolerError
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.relay.moving import CHANGED
from poolproxy.relay.server import MOVED
from poolproxy.relay.turned import OTHER_ROLE, READ_ONLY
from poolproxy.worker.parting import may_go, part
from poolproxy.worker.worker import Worker

REASONS = frozenset((CHANGED, MOVED, OTHER_ROLE, READ_ONLY))

INTERRUPTED = PoolerError(
    "database configuration changed",
    sqlstate="57P01",
    hint="The server connection of this session was to be replaced, and server_fast_close is set. No"
    " transaction was interrupted; connect again.",
    reason="server_fast_close",
)


def tick(worker: Worker, pool: Pool, now: float) -> None:
    """Called by the janitor."""
    if worker.config.settings.server_fast_close:
        for server in list(pool.servers):
            if server.client is not None:
                consider(worker, server.client, now)


def consider(worker: Worker, client: Client, now: float) -> None:
    """Send the client away if its server is to be replaced and nothing is under way there."""
    server = client.server
    if (
        worker.config.settings.server_fast_close
        and server is not None
        and server.doomed in REASONS
        and not server.endless
        and may_go(client)
    ):
        part(worker, client, INTERRUPTED, now)
