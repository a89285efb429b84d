"""What workers are told of a pool's state: the welcome, and whether log-ins fail.

Only those are told that have asked for the pool or hold something of it; a newcomer hears at once
what the others know.
"""

from __future__ import annotations

from poolproxy.ipc.messages import Message, PoolFailing, WaitReason, Welcome
from poolproxy.pool.ledger.limits import Blocker
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


def wait_reason(pool: PoolState, blocker: Blocker | None, now: float) -> WaitReason:
    """What keeps the pool's clients waiting; ``blocker`` is the limit that is reached."""
    limit = blocker.value if blocker else ""
    failure = pool.failure
    return WaitReason(
        pool=pool.key,
        limit=limit,
        size=getattr(pool.limits, limit) if limit else 0,
        failing=failure.reason if failure and now < failure.retry_at else "",
        waiting=sum(want.waiting for want in pool.wants.values()),
    )


def forget_server(pool: PoolState) -> Sends:
    """What was learned from the pool's server holds no longer, nor what attempts under way will tell."""
    for lease in pool.leases.values():
        lease.outdated = True
    sends: Sends = []
    if pool.welcome:
        pool.welcome = ()
        sends += welcome(pool)
    pool.failure, pool.failures = None, 0
    if pool.announced:
        sends += announce(pool)
    return sends
