"""How many permits are out, against the limits that pools share."""

from __future__ import annotations

from collections import Counter

from poolproxy.ipc.messages import PoolKey
from poolproxy.pool.ledger.limits import Blocker
from poolproxy.pool.ledger.state import PoolState


class Tally:
    """The permits of each database and of each user; those of a pool are its leases."""

    def __init__(self) -> None:
        self._by_database: Counter[str] = Counter()
        self._by_user: Counter[str] = Counter()

    def add(self, key: PoolKey, count: int) -> None:
        """``count`` permits more, or fewer."""
        self._by_database[key.database] += count
        self._by_user[key.user] += count

    def blocker(self, pool: PoolState, now: float) -> Blocker | None:
        """The limit that forbids the pool one more server connection, or the first of them."""
        return next(iter(self.blockers(pool, now)), None)

    def blockers(self, pool: PoolState, now: float) -> list[Blocker]:
        """All the limits that forbid it, the pool's own first."""
        reserve_at = pool.reserve_at
        reserve = reserve_at is not None and now >= reserve_at
        return [
            blocker
            for blocker, limit, held in self._held(pool)
            if limit and held >= limit and not (reserve and blocker is Blocker.POOL)
        ]

    def room(self, pool: PoolState) -> int | None:
        """How many more server connections the limits allow without the reserve; None: any number."""
        rooms = [limit - held for _, limit, held in self._held(pool) if limit]
        return max(0, min(rooms)) if rooms else None

    def exceeded(self, pool: PoolState) -> bool:
        """Whether more permits are out than a limit allows that the pool shares: it was lowered."""
        return any(limit and held > limit for _, limit, held in self._held(pool)[1:])

    def _held(self, pool: PoolState) -> tuple[tuple[Blocker, int, int], ...]:
        limits, key = pool.limits, pool.key
        return (
            (Blocker.POOL, limits.pool_size, len(pool.leases)),
            (Blocker.DATABASE, limits.max_db_connections, self._by_database[key.database]),
            (Blocker.USER, limits.max_user_connections, self._by_user[key.user]),
        )
