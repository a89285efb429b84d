"""A worker's part of the console's commands."""

from __future__ import annotations

from time import monotonic

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Command, Done
from poolproxy.relay.context import Pool
from poolproxy.worker.reload import end_all, reconnect
from poolproxy.worker.worker import Worker

KILLED = PoolerError(
    "database removed",
    sqlstate="57P01",
    hint="An administrator has given KILL on the admin console.",
    reason="killed",
)
FORCED = PoolerError(
    "admin forced disconnect",
    sqlstate="57P01",
    hint="An administrator has given KILL_CLIENT on the admin console.",
    reason="killed",
)


def obey(worker: Worker, message: Command) -> None:
    """Do it, and say to how many."""
    match message.verb:
        case "KILL":
            count = _kill(worker, message.argument)
        case "RECONNECT":
            count = _reconnect(worker, message.argument)
        case "KILL_CLIENT":
            count = _kill_client(worker, int(message.argument))
        case _:
            raise AssertionError(message.verb)
    worker.channel.post(Done(message.request, count))


def _kill(worker: Worker, database: str) -> int:
    pools = _pools(worker, database)
    for pool in pools:
        end_all(worker, pool, KILLED)
    departing = worker.departing
    # The acceptor sends none of these on any more; those that it has sent on meet this order there.
    departing.killed.update(
        number
        for number, client in departing.clients.items()
        if database in ("", client.pool.key.database)
    )
    return len(pools)


def _reconnect(worker: Worker, database: str) -> int:
    worker.reconnected[database] = monotonic()
    pools = _pools(worker, database)
    for pool in pools:
        reconnect(pool)
    return len(pools)


def _pools(worker: Worker, database: str) -> list[Pool]:
    return [pool for pool in worker.pools.values() if database in ("", pool.key.database)]


def _kill_client(worker: Worker, id: int) -> int:
    client, console = worker.clients.get(id), worker.consoles.get(id)
    if client is not None:
        client.fail(FORCED)
    elif console is not None:
        console.send_away(FORCED)
    else:
        return 0
    return 1
