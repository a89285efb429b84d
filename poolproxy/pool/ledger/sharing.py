"""Who is asked to give a permit back when a limit keeps a client waiting.

This is for servers of other pools, which share a limit, and for those that can't move to another worker as
they are, see ``ledger.moving``. They are closed, and another one is opened where the client waits.

The ledger knows who holds permits and who waits, but not which servers are idle: a worker tells
that by how soon it answers. So one holder is asked first, the one that most likely has an idle
server; if no answer has come after a slice the next one is asked too, and so on. The first that
gives ends it, and what the others were asked is withdrawn. This bounds the wait also where most
servers are bound to sessions that last for hours.

A permit is never asked back before it was held for a slice (see ``state.SLICE_FACTOR``); else
two busy workers would pass it to and fro and spend their time connecting. Then a holder may be
asked if the applicant

* has no server of the pool at all, or
* is of the same pool, of which the holder has no client any more: they went elsewhere (then at once), or
* has less than its fair share, so that its clients wait ``GAIN`` times as long as they would in one queue,
  and as the holder's, and its own, will after the move, so it is not taken back at once. Shares follow
  demand, which is servers plus waiting clients. It must have been so for ``REFRESH``, as what is known is as
  old; and for a slice if somebody has waited at the holder within one: where clients pause the queues run
  empty one after the other; or
* has a client that has waited for a slice, as long as nobody has at the holder, or twice as long as the
  holder's oldest. Twice, as two saturated workers' queues are about equally old and moving permits between
  them gains nothing. For the last server of one whose share is about that, four times: it would ask for it
  back at once. A client counts as younger by ``REFRESH``: it may have been served since its worker last told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

from poolproxy.ipc.messages import PoolKey, Want
from poolproxy.pool.ledger.state import REFRESH, LeaseState, PoolState

# By how much longer than in one queue a worker's clients may wait before it gets one server more, if servers
# can move; and by how much less some must wait if they can't.
TOLERANCE = 1.25
GAIN = 1.1
# A worker with so much of a server for its share keeps its last one, unless others wait MUCH_LONGER.
LEAST_SHARE, LONGER, MUCH_LONGER = 0.4, 2, 4


@attrs.frozen
class Holding:
    """What one worker holds of one pool. ``waited_at``: when anybody did there. ``deserted``: its clients are
    elsewhere.
    """

    worker: int
    pool: PoolKey
    up: int
    granted: float
    waiting: int
    since: float | None
    waited_at: float
    share: float
    foreign: bool
    pool_waits: bool
    deserted: bool


@attrs.frozen
class Applicant:
    """The worker that is next in line for a permit of a pool whose limit is reached. ``short_since``: since
    when it has had so much less than its share, None if it has not.
    """

    worker: int
    pool: PoolKey
    since: float
    held: int
    pool_held: int
    share: float
    short_since: float | None


@attrs.frozen
class Plan:
    """Whom to ask for how much; ``recheck``: when to plan again if nothing happens before."""

    holding: Holding | None
    count: int
    recheck: float | None


def holdings(pool: PoolState, applicant: PoolKey) -> list[Holding]:
    """The holders of connected servers of ``pool``, as seen by a waiter of pool ``applicant``, for whom those
    of its own pool are closed only if they can't move.
    """
    foreign = pool.key != applicant
    oldest: dict[int, list[float]] = {}
    for lease in pool.leases.values():
        if lease.state is LeaseState.UP and (foreign or not lease.movable):
            oldest.setdefault(lease.worker, []).append(lease.granted)
    shares = Shares(pool)
    found = []
    for worker, granted in oldest.items():
        want = pool.wants.get(worker)
        found.append(
            Holding(
                worker=worker,
                pool=pool.key,
                up=len(granted),
                granted=min(granted),
                waiting=want.waiting if want else 0,
                since=_waits_since(pool, want, foreign),
                waited_at=pool.waited_at.get(worker, -math.inf) if want is None else math.inf,
                share=shares.of(worker),
                foreign=foreign,
                pool_waits=foreign and bool(pool.wants),
                deserted=not foreign
                and bool(pool.clients)
                and worker not in pool.clients
                and want is None,
            )
        )
    return found


def holders_of(pool: PoolState) -> set[int]:
    """The workers that have connected servers of the pool."""
    return {lease.worker for lease in pool.leases.values() if lease.state is LeaseState.UP}


def _waits_since(pool: PoolState, want: Want | None, foreign: bool) -> float | None:
    # Between pools that share a limit it is the pools that compete, not the workers.
    if foreign:
        return pool.oldest
    return want.since if want else None


@attrs.frozen
class Shares:
    """The workers' fair shares of the pool's servers, by demand: those they hold and those they wait for."""

    pool: PoolState
    total: int = attrs.field(init=False)

    @total.default
    def _sum(self) -> int:
        return self.pool.in_use + sum(want.waiting for want in self.pool.wants.values())

    def of(self, worker: int) -> float:
        """The share of ``worker``, in servers."""
        want = self.pool.wants.get(worker)
        demand = self.pool.held(worker) + (want.waiting if want else 0)
        return len(self.pool.leases) * demand / self.total if self.total else 0.0


def note_short(pool: PoolState, now: float) -> None:
    """Remember since when each worker has had too little. To be called whenever something is decided."""
    shares = Shares(pool)
    short = {worker for worker in pool.wants if 0 < GAIN * pool.held(worker) <= shares.of(worker)}
    pool.short_since = {worker: pool.short_since.get(worker, now) for worker in short}


def applicant_of(pool: PoolState, worker: int) -> Applicant:
    """The applicant of ``pool``: ``worker`` has a want there."""
    return Applicant(
        worker=worker,
        pool=pool.key,
        since=pool.wants[worker].since,
        held=pool.held(worker),
        pool_held=pool.in_use,
        share=Shares(pool).of(worker),
        short_since=pool.short_since.get(worker),
    )


def plan(pool: PoolState, who: Applicant, holders: Iterable[Holding], now: float) -> Plan:
    """Choose whom to ask next for the sake of ``who``, the applicant of ``pool``."""
    patience = pool.last_ask + pool.slice
    if pool.asks and now < patience:
        return Plan(None, 0, patience)
    free = [h for h in holders if (h.worker, h.pool) not in pool.asks and not _own(h, who)]
    if not free:
        return Plan(None, 0, None)
    deserted = [h for h in free if h.deserted]
    # They won't be taken back, so there is no churn to be feared.
    ripe = deserted or [h for h in free if now >= h.granted + pool.slice]
    # Someone with servers of its own can wait a slice between two moves; who has none can't.
    if who.held and now < patience and not deserted:
        return Plan(None, 0, patience)
    able = [h for h in ripe if _may_be_asked(h, who, pool.slice, now)]
    if not able:
        ripens = [h.granted + pool.slice for h in free if h not in ripe]
        look = now + (pool.slice if who.short_since is None else REFRESH)
        return Plan(None, 0, min([look, *ripens]))
    best = min(able, key=_rank)
    return Plan(best, _count(best, who), now + pool.slice)


def _own(holding: Holding, who: Applicant) -> bool:
    return holding.worker == who.worker and holding.pool == who.pool


def _may_be_asked(holding: Holding, who: Applicant, slice_: float, now: float) -> bool:
    if holding.foreign:
        due = not (holding.pool_waits and who.pool_held)
    else:
        due = holding.deserted or not who.held
        due = due or (_lasts(holding, who, slice_, now) and _gains(holding, who))
    if due:
        return True
    age = now - who.since - REFRESH
    if holding.since is None:
        return age >= slice_ and now >= holding.waited_at + slice_
    fair = holding.up == 1 and holding.share >= LEAST_SHARE and not holding.foreign
    return age >= max(slice_, (MUCH_LONGER if fair else LONGER) * (now - holding.since))


def _lasts(holding: Holding, who: Applicant, slice_: float, now: float) -> bool:
    """Whether ``who`` has been short for long, or nobody has waited at the holder for as long."""
    short = who.short_since
    if short is None or now < short + REFRESH:
        return False
    return now >= min(holding.waited_at, short) + slice_


def _gains(holding: Holding, who: Applicant) -> bool:
    """Whether those who wait longest of both would wait less, to judge by the shares, if as many servers go
    as are asked for. The last one is not asked for in this way.
    """
    count = _count(holding, who)
    if count >= holding.up:
        return False
    after = max(who.share / (who.held + count), holding.share / (holding.up - count))
    return who.share >= GAIN * who.held * after


def _count(holding: Holding, who: Applicant) -> int:
    if holding.foreign:
        return 1
    return max(1, min(int(holding.up - holding.share), int(who.share - who.held)))


def _rank(holding: Holding) -> tuple[bool, bool, int, float]:
    # Who has nobody waiting most likely has an idle server; then who has many, then the youngest.
    since = holding.since or 0.0
    return holding.pool_waits, holding.since is not None, -holding.up, -since
