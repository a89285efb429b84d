"""Who comes first, among the workers that want a permit and among pools that share a limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from poolproxy.pool.ledger.limits import Blocker
from poolproxy.pool.ledger.state import PoolState


def in_turn(pool: PoolState) -> list[int]:
    """The workers that want a permit, the next one first.

    Who has no server at all comes before everyone; then those for whose sake another worker gave
    a permit back (or it would go straight back to that one); then who has waited longest.
    """

    def rank(worker: int) -> tuple[bool, bool, float]:
        return pool.held(worker) > 0, worker not in pool.promised, pool.wants[worker].since

    return sorted(pool.wants, key=rank)


def urgency(pool: PoolState) -> tuple[bool, bool, bool, float]:
    """The order in which pools that share a limit are served; pools where nobody waits come last."""
    oldest = pool.oldest
    return oldest is None, pool.in_use > 0, not pool.promised, oldest or 0.0


def rivals(
    pool: PoolState, blockers: Sequence[Blocker], pools: Iterable[PoolState]
) -> Iterator[PoolState]:
    """Those among ``pools`` whose servers stand in the way of ``pool``: of each of the limits, as it needs
    room in all. A server less of its own makes that, and nothing else where its own limit is reached.
    """
    key = pool.key
    alone = Blocker.POOL in blockers
    database = Blocker.DATABASE in blockers and not alone
    user = Blocker.USER in blockers and not alone
    for other in pools:
        if other.leases and (
            other is pool
            or (database and other.key.database == key.database)
            or (user and other.key.user == key.user)
        ):
            yield other
