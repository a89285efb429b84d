"""What workers are told of a pool's state: the welcome, and whether log-ins fail.

Only those are told that have asked for the pool or hold something of it; a newcomer hears at once
what the others know.
"""

from __future__ import annotations

from poolproxy.ipc.messages import Message, PoolFailing, Welcome
from poolproxy.pool.ledger.state import PoolState

Sends = list[tuple[int, Message]]


def meet(pool: PoolState, worker: int) -> Sends:
    """``worker`` has to do with the pool, from now on if not before."""
    if worker in pool.interested:
        return []
    pool.interested.add(worker)
    sends: Sends = []
    if pool.welcome:
        sends.append((worker, Welcome(pool.key, pool.welcome)))
    if pool.announced and pool.failure:
        failure = pool.failure
        sends.append((worker, PoolFailing(pool.key, failure.reason, failure.sqlstate, False)))
    return sends


def announce(pool: PoolState, *, kill_waiting: bool = False) -> Sends:
    """Tell everyone whether the pool is failing now."""
    failing = pool.failing
    reason, sqlstate = (failing.reason, failing.sqlstate) if failing else ("", "")
    pool.announced = reason
    news = PoolFailing(pool.key, reason, sqlstate, kill_waiting)
    return [(worker, news) for worker in sorted(pool.interested)]


def welcome(pool: PoolState) -> Sends:
    """Tell everyone the welcome, or with an empty one that there is none any more."""
    return [(worker, Welcome(pool.key, pool.welcome)) for worker in sorted(pool.interested)]


def forget_server(pool: PoolState) -> Sends:
    """What was learned from the pool's server holds no longer."""
    sends: Sends = []
    if pool.welcome:
        pool.welcome = ()
        sends += welcome(pool)
    pool.failure = None
    if pool.announced:
        sends += announce(pool)
    return sends
