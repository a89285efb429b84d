"""The ledger's book-keeping: leases, failures, and all that is known of a pool."""

from __future__ import annotations

import enum
from collections import Counter

import attrs

from poolproxy.ipc.messages import Parameter, PoolKey, Want
from poolproxy.pool.ledger.limits import PoolLimits

# A worker that gives a permit back unused gets no other before this has passed: a want that it
# can't serve, from two views of the configuration, must not turn into a storm of messages.
UNUSED_PAUSE = 0.05

# Moving a permit costs a close and a connect, measured at 3-5 ms for a local
# server without TLS and far more for a remote one with TLS and SCRAM. A slice of twenty times
# the measured connect time bounds the loss at 5 %. The floor keeps local pools below that too;
# the ceiling bounds how long a worker may overtake an older waiter of another one.
SLICE_FACTOR = 20.0
SLICE_MIN = 0.1
SLICE_MAX = 1.0

# While a connection moves it serves nobody: for two hops between processes, that is far less than a connect.
# Under load one takes 2 to 7 ms. Between workers that both have servers, of which none starves, a move may
# wait for so long; benchmarks/PROFILE.md has what was compared.
MOVE_SLICE = 0.02

NOBODY = -1  # in the place of a worker's number

REFRESH = 0.1  # seconds between two Wants of a worker whose clients go on waiting


class LeaseState(enum.Enum):
    """The life of a permit. A failed attempt and a dead worker's server are CLOSING. One that is MOVING
    is the new worker's, which has not said yet that it has it.

    One that the acceptor ends is NOBODY's, so that no worker's death ends it once more.
    """

    OPENING = "opening"
    UP = "up"
    MOVING = "moving"
    CLOSING = "closing"


@attrs.define(eq=False)
class Lease:
    """A permit that is held. It counts against every limit until PostgreSQL's end is closed.

    ``since``: when it was granted, or came to the worker that has it. ``outdated``: what was learned from the
    pool's server had to be forgotten since, so nothing is learned from this one.
    """

    permit: int
    pool: PoolKey
    worker: int
    granted: float
    keep: bool
    state: LeaseState = LeaseState.OPENING
    movable: bool = False
    outdated: bool = False
    since: float = attrs.field(default=attrs.Factory(lambda self: self.granted, takes_self=True))


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


@attrs.frozen
class Call:
    """A worker was asked to hand ``count`` servers over, for a client that waits since ``since``."""

    count: int
    since: float


@attrs.define
class Search:
    """An idle server is looked for, for a client that logs in with ``worker``. ``asked``: the worker that
    is to answer; ``others`` have not been asked yet.
    """

    worker: int
    asked: int
    others: list[int]


Holder = tuple[int, PoolKey]

# Where there is more than one host to ask: the pause after the first failed attempt, in seconds. It is
# doubled with each further one up to server_login_retry. A failover takes seconds, and clients wait for it.
FIRST_RETRY = 0.5


@attrs.define(eq=False)
class PoolState:
    """All that the ledger knows of one pool.

    ``logins``: the clients that log in and would like a server, in order, each with its worker. ``blocked``:
    the workers that know that a limit keeps their clients waiting. ``heard``: when each worker told its want.
    ``short_since``: since when those that wait have had too little, see ``sharing``; ``waited_at``: when
    others did last.
    ``calls``: what workers are asked to hand over, and ``told`` what they know of it. ``last_move``: when a
    server has come to a worker last, or one was asked for. ``fixed``: none of its servers could move when the
    last one came up.
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
    heard: dict[int, float] = attrs.Factory(dict)
    short_since: dict[int, float] = attrs.Factory(dict)
    waited_at: dict[int, float] = attrs.Factory(dict)
    calls: dict[int, Call] = attrs.Factory(dict)
    told: dict[int, Call] = attrs.Factory(dict)
    last_move: float = float("-inf")
    fixed: bool = False
    searches: dict[int, Search] = attrs.Factory(dict)
    _states: Counter[LeaseState] = attrs.Factory(Counter)
    _held: Counter[int] = attrs.Factory(Counter)
    _coming: Counter[int] = attrs.Factory(Counter)

    # -- leases: counted as they change, as they are asked for far more often -------------------------

    def add(self, lease: Lease) -> None:
        """A permit was granted."""
        self.leases[lease.permit] = lease
        self._count(lease, 1)

    def remove(self, lease: Lease) -> None:
        """It has come back."""
        del self.leases[lease.permit]
        self._count(lease, -1)

    def turn(self, lease: Lease, state: LeaseState, worker: int | None = None) -> None:
        """The state of ``lease`` is another one, and its worker if that is given."""
        self._count(lease, -1)
        lease.state = state
        lease.worker = lease.worker if worker is None else worker
        self._count(lease, 1)

    def _count(self, lease: Lease, one: int) -> None:
        self._states[lease.state] += one
        if lease.state is not LeaseState.CLOSING:
            self._held[lease.worker] += one
        if lease.state is LeaseState.MOVING:
            self._coming[lease.worker] += one

    def hear(self, worker: int, want: Want | None, now: float) -> None:
        """``worker`` tells its want; None: it has not changed."""
        if want is None:
            return
        if want.waiting:
            self.wants[worker] = want
            self.heard[worker] = now
        else:
            self.unwant(worker, now)

    def unwant(self, worker: int, now: float) -> None:
        """Nobody waits there any more."""
        self.short_since.pop(worker, None)
        if self.wants.pop(worker, None) is not None:
            self.waited_at[worker] = now

    def waits_since(self, worker: int, now: float) -> float:
        """When the oldest wait of ``worker`` began, as far as is known.

        Where it has servers of its own that client may have been served since it told; while it tells
        nothing new for longer than it would with other numbers, that has not happened.
        """
        since = self.wants[worker].since
        return since + min(now - self.heard[worker], REFRESH) if self.held(worker) else since

    def coming(self, worker: int) -> int:
        """Servers on their way to ``worker``."""
        return self._coming[worker]

    def held(self, worker: int) -> int:
        """Permits that ``worker`` holds and is not giving back."""
        return self._held[worker]

    def count(self, state: LeaseState) -> int:
        return self._states[state]

    @property
    def in_use(self) -> int:
        """Permits that nobody is giving back."""
        return len(self.leases) - self.count(LeaseState.CLOSING)

    @property
    def opening(self) -> bool:
        return self.count(LeaseState.OPENING) > 0

    @property
    def connected(self) -> bool:
        """Whether there is a server that has logged in."""
        return self.count(LeaseState.UP) + self.count(LeaseState.MOVING) > 0

    @property
    def failing(self) -> Failure | None:
        """The failure that clients are to be told: none while a server is still connected."""
        return None if self.connected else self.failure

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
        """Whether the servers that are on their way are all that is wanted."""
        waiting = sum(want.waiting for want in self.wants.values())
        return waiting <= self.count(LeaseState.OPENING) + self.count(LeaseState.MOVING)

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
    def restless(self) -> bool:
        """Whether permits that come back to others may matter to it, or answers are awaited from others."""
        waits = self.wants or self.logins or self.searches or self.promised
        return (
            bool(waits or self.asks or self.calls or self.told or self.blocked)
            or self.lacks_minimum
        )

    @property
    def used(self) -> bool:
        """Whether anybody has to do with it now."""
        return bool(
            self.leases or self.wants or self.clients or self.asks or self.logins or self.searches
        )

    @property
    def forgettable(self) -> bool:
        """Nothing is lost with it. A pool that a server once welcomed is remembered."""
        return not (self.used or self.welcome)


@attrs.frozen
class PoolStatistics:
    """A snapshot of one pool, computed from the state on demand."""

    pool: PoolKey
    limits: PoolLimits
    opening: int
    up: int
    moving: int
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
        moving=pool.count(LeaseState.MOVING),
        closing=pool.count(LeaseState.CLOSING),
        waiting=sum(want.waiting for want in pool.wants.values()),
        oldest=pool.oldest,
        clients=sum(pool.clients.values()),
        asked=sum(ask.count for ask in pool.asks.values())
        + sum(call.count for call in pool.calls.values()),
        failing=failing.reason if failing else "",
    )
