"""The ledger's book-keeping: leases, failures, and all that is known of a pool."""

from __future__ import annotations

import enum

import attrs

from poolproxy.ipc.messages import Parameter, PoolKey, Want
from poolproxy.pool.ledger.limits import PoolLimits

# A worker that gives a permit back unused gets no other before this has passed: a want that it
# can't serve, from two views of the configuration, must not turn into a storm of messages.
UNUSED_PAUSE = 0.05

# Moving a permit between workers costs a close and a connect, measured at 3-5 ms for a local
# server without TLS and far more for a remote one with TLS and SCRAM. A slice of twenty times
# the measured connect time bounds the loss at 5 %. The floor keeps local pools below that too;
# the ceiling bounds how long a worker may overtake an older waiter of another one.
SLICE_FACTOR = 20.0
SLICE_MIN = 0.1
SLICE_MAX = 1.0


class LeaseState(enum.Enum):
    """The life of a permit. A failed attempt and a dead worker's server are CLOSING."""

    OPENING = "opening"
    UP = "up"
    CLOSING = "closing"


@attrs.define(eq=False)
class Lease:
    """A permit that is held. It counts against every limit until PostgreSQL's end is closed."""

    permit: int
    pool: PoolKey
    worker: int
    granted: float
    keep: bool
    state: LeaseState = LeaseState.OPENING


@attrs.frozen
class Failure:
    """The last attempt to log in failed. No other is made before ``retry_at``."""

    reason: str
    sqlstate: str
    retry_at: float


@attrs.define
class Ask:
    """A worker was asked to give ``count`` permits back, so that ``beneficiary`` can have them."""

    count: int
    beneficiary: int


Holder = tuple[int, PoolKey]

# Where there is more than one host to ask: the pause after the first failed attempt, in seconds. It is
# doubled with each further one up to server_login_retry. A failover takes seconds, and clients wait for it.
FIRST_RETRY = 0.5


@attrs.define(eq=False)
class PoolState:
    """All that the ledger knows of one pool.

    ``logins``: the clients that log in and would like a server, in order, each with its worker. ``blocked``:
    the workers that know that a limit keeps their clients waiting.
    """

    key: PoolKey
    limits: PoolLimits
    leases: dict[int, Lease] = attrs.Factory(dict)
    wants: dict[int, Want] = attrs.Factory(dict)
    clients: dict[int, int] = attrs.Factory(dict)
    interested: set[int] = attrs.Factory(set)
    welcome: tuple[Parameter, ...] = ()
    failure: Failure | None = None
    failures: int = 0
    announced: str = ""
    asks: dict[Holder, Ask] = attrs.Factory(dict)
    last_ask: float = float("-inf")
    promised: list[int] = attrs.Factory(list)
    rest_until: float = float("-inf")
    connect_seconds: float = 0.0
    logins: dict[int, int] = attrs.Factory(dict)
    blocked: set[int] = attrs.Factory(set)

    def held(self, worker: int) -> int:
        """Permits that ``worker`` holds and is not giving back."""
        leases = self.leases.values()
        return sum(x.worker == worker and x.state is not LeaseState.CLOSING for x in leases)

    def count(self, state: LeaseState) -> int:
        return sum(lease.state is state for lease in self.leases.values())

    @property
    def in_use(self) -> int:
        """Permits that nobody is giving back."""
        return len(self.leases) - self.count(LeaseState.CLOSING)

    @property
    def opening(self) -> bool:
        return any(lease.state is LeaseState.OPENING for lease in self.leases.values())

    @property
    def failing(self) -> Failure | None:
        """The failure that clients are to be told: none while a server is still connected."""
        return None if self.count(LeaseState.UP) else self.failure

    @property
    def pause(self) -> float:
        """Seconds from the start of an attempt that has failed to the next one; ``failures`` counts it."""
        retry = self.limits.server_login_retry
        if not self.limits.failover:
            return retry
        return min(retry, FIRST_RETRY * 2.0 ** min(self.failures - 1, 10))

    @property
    def not_before(self) -> float:
        """When the next connection attempt may begin."""
        return max(self.rest_until, self.failure.retry_at if self.failure else float("-inf"))

    @property
    def oldest(self) -> float | None:
        """Since when the pool's oldest waiting client waits."""
        return min((want.since for want in self.wants.values()), default=None)

    @property
    def slice(self) -> float:
        """The least time in seconds that a worker may hold a permit that others want."""
        return min(SLICE_MAX, max(SLICE_MIN, SLICE_FACTOR * self.connect_seconds))

    @property
    def satisfied(self) -> bool:
        """Whether the server that is being opened is all that is wanted."""
        waiting = sum(want.waiting for want in self.wants.values())
        return waiting <= self.count(LeaseState.OPENING)

    @property
    def excess(self) -> int:
        """Permits in use above what a lowered limit allows."""
        if not self.limits.pool_size:
            return 0
        return max(0, self.in_use - self.limits.pool_size - self.limits.reserve_pool_size)

    @property
    def lacks_minimum(self) -> bool:
        """Whether min_pool_size asks for one more server although nobody waits."""
        size = self.limits.pool_size
        wished = min(self.limits.min_pool_size, size) if size else self.limits.min_pool_size
        return len(self.leases) < wished and (bool(self.clients) or self.limits.forced_user)

    @property
    def keeps(self) -> bool:
        """Whether the next permit is among the first min_pool_size of the pool."""
        return sum(lease.keep for lease in self.leases.values()) < self.limits.min_pool_size

    @property
    def reserve_at(self) -> float | None:
        """When the oldest waiter may have a server of the reserve; None if never."""
        limits, oldest = self.limits, self.oldest
        if oldest is None or not (limits.reserve_pool_size and limits.reserve_pool_timeout):
            return None
        if len(self.leases) >= limits.pool_size + limits.reserve_pool_size:
            return None
        return oldest + limits.reserve_pool_timeout

    @property
    def forgettable(self) -> bool:
        """Nothing is lost with it. A pool that a server once welcomed is remembered."""
        used = self.leases or self.wants or self.clients or self.asks or self.logins
        return not (used or self.welcome)


@attrs.frozen
class PoolStatistics:
    """A snapshot of one pool, computed from the state on demand."""

    pool: PoolKey
    limits: PoolLimits
    opening: int
    up: int
    closing: int
    waiting: int
    oldest: float | None
    clients: int
    asked: int
    failing: str


def statistics(pool: PoolState) -> PoolStatistics:
    """The snapshot of ``pool``."""
    failing = pool.failing
    return PoolStatistics(
        pool=pool.key,
        limits=pool.limits,
        opening=pool.count(LeaseState.OPENING),
        up=pool.count(LeaseState.UP),
        closing=pool.count(LeaseState.CLOSING),
        waiting=sum(want.waiting for want in pool.wants.values()),
        oldest=pool.oldest,
        clients=sum(pool.clients.values()),
        asked=sum(ask.count for ask in pool.asks.values()),
        failing=failing.reason if failing else "",
    )
