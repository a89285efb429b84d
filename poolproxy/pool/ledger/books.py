"""What the ledger knows: workers, pools, and who holds which permit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from poolproxy.ipc.messages import PoolKey
from poolproxy.pool.ledger.limits import PoolLimits
from poolproxy.pool.ledger.state import Lease, PoolState
from poolproxy.pool.ledger.tally import Tally

LimitsOf = Callable[[PoolKey], PoolLimits | None]


class UnknownPermit(LookupError):
    """A worker spoke of a permit that it does not hold."""


class Books:
    """``limits_of`` and ``standing`` are those of the :class:`Ledger`. ``restless``: the pools with which
    something may be due. ``granted``: how many permits ever were. ``moved``: servers that have come to other
    workers, by pool, since homes were thought of last. ``stops`` tells of paused databases.
    """

    def __init__(self, limits_of: LimitsOf, standing: Iterable[PoolKey]) -> None:
        self.limits_of = limits_of
        self.standing = tuple(standing)
        self.pools: dict[PoolKey, PoolState] = {}
        self.leases: dict[int, Lease] = {}
        self.workers: set[int] = set()
        self.retired: set[int] = set()
        self.tally = Tally()
        self.restless: dict[PoolKey, PoolState] = {}
        self.granted = 0
        self.moved: Counter[PoolKey] = Counter()
        self.leaving = False
        self.stops: Callable[[str], bool] = lambda database: False

    def pool(self, key: PoolKey) -> PoolState | None:
        """The pool, a new one if it has to be; None if the configuration has no such database."""
        pool = self.pools.get(key)
        if pool is None:
            limits = self.limits_of(key)
            if limits is None:
                return None
            pool = self.pools[key] = PoolState(key, limits)
        return pool

    def find(self, worker: int, permit: int) -> tuple[Lease, PoolState]:
        """What ``worker`` holds by this permit; raises UnknownPermit."""
        lease = self.leases.get(permit)
        if lease is None or lease.worker != worker:
            raise UnknownPermit(f"worker {worker} does not hold permit {permit}")
        return lease, self.pools[lease.pool]

    def grant(self, pool: PoolState, worker: int, now: float) -> Lease:
        """A new permit."""
        self.granted += 1
        lease = Lease(self.granted, pool.key, worker, now, pool.keeps)
        pool.add(lease)
        self.leases[lease.permit] = lease
        self.tally.add(pool.key, 1)
        return lease

    def related(self, pools: list[PoolState]) -> list[PoolState]:
        """``pools`` and those that share one of their limits, each once, but for those at rest: what changes
        elsewhere is nothing to them, and there may be thousands.
        """
        databases = {p.key.database for p in pools if p.limits.max_db_connections}
        users = {p.key.user for p in pools if p.limits.max_user_connections}
        found = {pool.key: pool for pool in pools}
        if databases or users:
            for key, pool in self.restless.items():
                if key.database in databases or key.user in users:
                    found[key] = pool
        return list(found.values())

    def heirs(self, pool: PoolState, worker: int) -> Collection[int]:
        """Who keeps a server of ``worker`` that nobody waits for: itself; if it is about to leave, one that
        stays, if any does.
        """
        if worker not in self.retired:
            return self.workers
        return [self.least_laden(pool)] if self.workers - self.retired else ()

    def least_laden(self, pool: PoolState) -> int:
        """The worker to keep a server for which nobody waits: one with clients, if any has."""
        staying = self.workers - self.retired
        return min(staying, key=lambda w: (w not in pool.clients, pool.held(w), w))
