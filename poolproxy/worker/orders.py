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
            worker.killed[message.argument] = monotonic()  # for those that are on their way
            count = _for_pools(worker, message.argument, kill=True)
        case "RECONNECT":
            count = _for_pools(worker, message.argument, kill=False)
        case "KILL_CLIENT":
            count = _kill_client(worker, int(message.argument))
        case _:
            raise AssertionError(message.verb)
    worker.channel.post(Done(message.request, count))


def _for_pools(worker: Worker, database: str, *, kill: bool) -> int:
    pools: list[Pool] = [p for p in worker.pools.values() if database in ("", p.key.database)]
    for pool in pools:
        if kill:
            end_all(worker, pool, KILLED)
        else:
            reconnect(pool)
    return len(pools)


def _kill_client(worker: Worker, id: int) -> int:
    client, console = worker.clients.get(id), worker.consoles.get(id)
    if client is not None:
        client.fail(FORCED)
    elif console is not None:
        console.send_away(FORCED)
    else:
        return 0
    return 1
