"""What the operator has stopped, in a worker: paused databases have no servers, and SUSPEND stops it all.

The ledger grants nothing for paused databases, so here it is only to close what there is. New clients of a
disabled database are refused at their log-in (``worker/login.py``).
"""

from __future__ import annotations

from time import monotonic

import trio

from poolproxy.ipc.messages import Done, Hold
from poolproxy.pool.pool import PAUSED
from poolproxy.relay.client import Client
from poolproxy.relay.server import Server
from poolproxy.worker.reload import replace_servers
from poolproxy.worker.worker import Worker

LOOK = 0.01  # seconds between two tries to send what is kept
LATE = "suspend_timeout"


def obey(worker: Worker, message: Hold) -> None:
    """From now on it is as the message says."""
    before, worker.held = worker.held, message
    for pool in worker.pools.values():
        if worker.stops(pool):
            replace_servers(pool, PAUSED)
        else:
            for server in pool.servers:
                if server.doomed == PAUSED:
                    server.doomed = ""
    if message.suspended and not before.suspended:
        assert worker.nursery is not None
        worker.engine.suspend()
        worker.nursery.start_soon(_flush, worker, message)
        return
    if before.suspended and not message.suspended:
        worker.engine.resume()
    worker.channel.post(Done(message.request))


async def _flush(worker: Worker, message: Hold) -> None:
    """Send what is kept for clients and servers; who does not take it in time is disconnected."""
    deadline = monotonic() + worker.config.settings.suspend_timeout
    while worker.held is message:
        late = _unsent(worker)
        for one in late:
            one.flush()
        if not any(one.out for one in late):
            break
        if monotonic() >= deadline:
            _disconnect(late)
            break
        await trio.sleep(LOOK)
    worker.channel.post(Done(message.request))


def _unsent(worker: Worker) -> list[Client | Server]:
    servers = [server for pool in worker.pools.values() for server in pool.servers]
    # Those that have just come are not watched yet.
    clients = [c for c in worker.clients.values() if c.id not in worker.departing.unread]
    both: list[Client | Server] = [*clients, *servers]
    return [one for one in both if one.out and not one.closed]


def _disconnect(late: list[Client | Server]) -> None:
    for one in late:
        if one.closed or not one.out:
            continue
        if isinstance(one, Client):
            one.leave(LATE)
        else:
            one.end(LATE)
