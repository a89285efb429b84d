"""A worker that is replaced: its clients go to other workers, and then it leaves.

Those that it relays in the clear come back to it first, and go on from here as any client. The encrypted
ones stay until they leave, or until ``worker_retire_timeout``.
"""

from __future__ import annotations

from time import monotonic

import trio

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import RelayEnds, Retire
from poolproxy.relay.client_state import is_quiet
from poolproxy.worker import pumps, server_moves
from poolproxy.worker.client_moves import BATCH, CATCH_EVERY, LOOK_EVERY, MOST_IN_FLIGHT, send
from poolproxy.worker.worker import Worker

# Seconds in which workers that serve clients tell them that they are relayed no longer.
GOODBYE = 2.0

RETIRED = "worker retired"
TOO_LATE = PoolerError(
    "worker is being replaced",
    sqlstate="57P01",
    hint="This connection could not move to another worker process within worker_retire_timeout;"
    " connect again.",
    reason="worker_retire_timeout",
)


def retire(worker: Worker, order: Retire) -> None:
    """Move all, and leave."""
    worker.departing.for_good = True
    worker.start(_retire, worker, monotonic() + (order.timeout or float("inf")))


async def _retire(worker: Worker, deadline: float) -> None:
    announced = False
    while _has_clients(worker):
        sent = _send_quiet(worker)
        if monotonic() >= deadline:
            for client in list(worker.clients.values()):
                client.fail(TOO_LATE)
            for console in list(worker.consoles.values()):
                console.send_away(TOO_LATE)
            if not announced:
                pumps.announce_end(worker)
                announced = True
            if monotonic() >= deadline + GOODBYE:
                pumps.close_all(worker)
        server_moves.hand_all_over(worker, RETIRED, unused_only=True)
        await trio.sleep(CATCH_EVERY if sent else LOOK_EVERY)
    while worker.closings or any(pool.servers or pool.opening for pool in worker.pools.values()):
        server_moves.hand_all_over(worker, RETIRED, unused_only=False)
        await trio.sleep(LOOK_EVERY)
    worker.left.set()


def relay_ends(worker: Worker, message: RelayEnds) -> None:
    """Another worker has waited for these clients long enough."""
    for number in message.clients:
        client = worker.clients.get(number)
        if client is not None:
            client.fail(TOO_LATE)


def _has_clients(worker: Worker) -> bool:
    moving = worker.departing.clients
    return bool(worker.clients or worker.consoles or worker.logging_in or moving or worker.pumps)


def _send_quiet(worker: Worker) -> int:
    if (
        monotonic() < worker.departing.rests_until
        or len(worker.departing.clients) >= MOST_IN_FLIGHT
    ):
        return 0
    quiet = [client for client in worker.clients.values() if is_quiet(client)]
    return sum(send(worker, client, 0) for client in quiet[:BATCH])
