"""Server connections that go from worker to worker: who is asked for one, and who gets it.

The ledger does not know which servers are idle, nor who is first in a worker's queue at this moment. So it
asks a holder to *yield* a server and tells since when the oldest client of another worker waits; the holder
compares that with its own queue whenever a server becomes free. What is yielded goes to the worker whose
client has waited longest by then.

How many servers each worker should have is its *share*: its part of all who are served or wait, in
servers, say 1.8, 0.6, 0.45 and 0.15 of three. Only the parts of servers go round:

* A worker without a server asks for one as soon as a client waits there. The holder goes on with its own
  clients while they are younger than the oldest one elsewhere by no more than a part (``LEAD``) of the
  time that this one has waited. So a worker's clients come to be served one after the other: as each asks
  again at once, a saturated server goes round the workers, serves each one's clients once, and moves no
  oftener than that. A fixed time for each worker was tried: it serves the clients of a small worker
  several times in each of its turns.
* A worker with servers asks for one more if another one has servers and nobody waits there, if its clients
  wait ``TOLERANCE`` times as long as they would in one queue, as it has so much less than its share, or if
  its oldest client is older than another worker's by a good part: its servers may be bound to long
  transactions. How old such a queue is, is known as it was when it told last (see
  ``PoolState.waits_since``), so time decides only about larger differences.
* A holder keeps the whole servers of its share (1 of 1.8) as long as another one has more than that.
  Without this a pool of 3 moved all its servers to each worker in turn, twice as many moves for nothing.
* Between two workers with servers none is moved for a slice (``state.MOVE_SLICE``) after the last move.
* The call stands: a worker is told with the server that comes to it when to hand it on, and does so without
  being asked when its own clients have had their turn.

A holder is asked first that has no client waiting, as it most likely has an idle server, then one whose
clients will not miss it, then the one that has most beyond its share. If none comes within ``PATIENCE`` the
next one is asked, too: the first one's servers may all be bound to long transactions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

from poolproxy.ipc.messages import (
    NoServer,
    ServersCome,
    ServerState,
    ServerYielded,
    Yield,
    YieldIdle,
)
from poolproxy.pool.ledger.news import Sends
from poolproxy.pool.ledger.sharing import TOLERANCE, Shares
from poolproxy.pool.ledger.state import MOVE_SLICE, Call, Lease, LeaseState, PoolState, Search

PATIENCE = 4 * MOVE_SLICE
# What a holder was told of the oldest client elsewhere is told anew only if it is off by more.
STALE = 0.02
# A worker serves its own clients first although another one's is older, if that is by less than this part of
# the time that it has waited, and in no case by more than MOST_LEAD seconds.
LEAD = 0.4
MOST_LEAD = 0.1
# Clients that log in at the same time and have an idle server looked for, in each pool. The search costs
# two messages for each worker that is asked.
MOST_SEARCHES = 16


def call(pool: PoolState, now: float) -> float | None:
    """Ask for as many servers as workers lack; returns when to look again."""
    shares = Shares(pool)
    applicants = _applicants(pool, shares, now)
    if not applicants:
        pool.calls.clear()
        return None
    for worker, out in pool.calls.items():
        others = [since for other, since in applicants if other != worker]
        since = _bearable(min(others), now) if others else out.since
        if abs(since - out.since) > STALE:
            pool.calls[worker] = Call(out.count, since)
    patient = bool(pool.calls) and now < pool.last_move + PATIENCE
    covered = len(pool.calls) if patient else 0
    rechecks = [pool.last_move + PATIENCE] if patient else []
    for who, since in applicants[covered:]:
        holder, recheck = _holder(pool, shares, who, since, now, patient=patient)
        if holder is not None:
            pool.calls[holder] = Call(1, _bearable(since, now))
            pool.last_move = now
            return now + PATIENCE
        if recheck is not None:
            rechecks.append(recheck)
    return min(rechecks, default=None)


def _bearable(since: float, now: float) -> float:
    """Up to when clients came that the holder serves before one that waits since ``since``."""
    return since + min(LEAD * (now - since), MOST_LEAD)


def _applicants(pool: PoolState, shares: Shares, now: float) -> list[tuple[int, float]]:
    """The workers that lack a server, with the beginning of their oldest wait; that is first."""
    found = [
        (worker, pool.waits_since(worker, now))
        for worker, want in pool.wants.items()
        if want.waiting > pool.coming(worker) and _lacks(pool, shares, worker, now)
    ]
    return sorted(found, key=lambda item: item[1])


def unequal(pool: PoolState, now: float) -> bool:
    """Whether a worker where clients wait has too few servers, and none of those that can move is called."""
    if pool.calls or not any(lease.movable for lease in pool.leases.values()):
        return False
    return bool(_applicants(pool, Shares(pool), now))


def _lacks(pool: PoolState, shares: Shares, worker: int, now: float) -> bool:
    held = pool.held(worker)
    if not held or shares.of(worker) > TOLERANCE * held:
        return True
    if any(other not in pool.wants for other in _movable(pool, LeaseState.UP)):
        return True  # nobody waits there, so a server may be idle, whatever the shares are
    others = [pool.waits_since(w, now) for w in pool.wants if w != worker and pool.held(w)]
    return _older(pool.waits_since(worker, now), max(others, default=0.0), now)


def _older(since: float, other: float, now: float) -> bool:
    """Whether one who waits since ``since`` has waited longer than one since ``other``, by a good part."""
    return other - since > max(MOST_LEAD, LEAD * (now - since))


@attrs.frozen
class _Holder:
    """A worker that may be asked. In the order in which they are: ``keeps``: what it has is its own."""

    keeps: bool
    waits: bool
    misses: bool
    beyond: float
    worker: int


def _holder(
    pool: PoolState, shares: Shares, who: int, since: float, now: float, *, patient: bool
) -> tuple[int | None, float | None]:
    """(whom to ask for the sake of ``who``, None; then when to look again, None: when something happens).
    ``patient``: those that were called may still answer.
    """
    movable = _movable(pool, LeaseState.UP, LeaseState.MOVING)
    holders = [_as_holder(pool, shares, w, len(held)) for w, held in movable.items() if w != who]
    spare = [holder for holder in holders if not holder.keeps]
    rechecks = []
    able = []
    for holder in spare if spare and patient else holders:
        if holder.worker in pool.calls:
            continue
        ripe = _ripe(pool, shares, holder, who, since, now) if pool.held(who) else now
        if now < ripe:
            rechecks.append(ripe)
        else:
            able.append(holder)
    if able:
        return min(able, key=attrs.astuple).worker, None
    return None, min(rechecks, default=None)


def _as_holder(pool: PoolState, shares: Shares, worker: int, held: int) -> _Holder:
    share, left, waits = shares.of(worker), held - 1, worker in pool.wants
    return _Holder(
        keeps=waits and left < math.floor(share),
        waits=waits,
        misses=waits and share > TOLERANCE * left,
        beyond=share - held,
        worker=worker,
    )


def _ripe(
    pool: PoolState, shares: Shares, holder: _Holder, who: int, since: float, now: float
) -> float:
    """When ``holder`` may be asked for the sake of one that has servers, too: nobody starves, so they are in
    no hurry, and whom a server is taken from must not be worse off than who gets it.
    """
    if not holder.waits:
        return now
    worker, share = holder.worker, shares.of(holder.worker)
    short = shares.of(who) > TOLERANCE * pool.held(who)
    equal = short and (not holder.misses or share * TOLERANCE <= pool.held(worker) == 1)
    if not equal and not _older(since, pool.waits_since(worker, now), now):
        return now + PATIENCE
    youngest = min(lease.since for lease in pool.leases.values() if lease.worker == worker)
    return max(youngest, pool.last_move) + MOVE_SLICE


def _movable(pool: PoolState, *states: LeaseState) -> dict[int, list[Lease]]:
    """The workers that have connections in one of ``states`` that can move, with these."""
    found: dict[int, list[Lease]] = {}
    for lease in pool.leases.values():
        if lease.movable and lease.state in states:
            found.setdefault(lease.worker, []).append(lease)
    return found


def answered(pool: PoolState, worker: int) -> None:
    """``worker`` has handed a server over: it knows itself that it is asked for one less."""
    told = pool.told.pop(worker, None)
    pool.calls.pop(worker, None)
    if told is not None and told.count > 1:
        pool.told[worker] = pool.calls[worker] = Call(told.count - 1, told.since)


def forget_worker(pool: PoolState, worker: int) -> Sends:
    """``worker`` is dead."""
    pool.calls.pop(worker, None)
    pool.told.pop(worker, None)
    pool.searches = {c: s for c, s in pool.searches.items() if s.worker != worker}
    sends: Sends = []
    for client, search in list(pool.searches.items()):
        search.others = [other for other in search.others if other != worker]
        if search.asked == worker:
            sends += search_on(pool, client)
    return sends


def messages(pool: PoolState) -> Sends:
    """What workers have to be told now."""
    sends: Sends = []
    for worker in pool.calls.keys() | pool.told.keys():
        out = pool.calls.get(worker)
        if out != pool.told.get(worker):
            count, since = (out.count, out.since) if out is not None else (0, 0.0)
            sends.append((worker, Yield(pool.key, count, since)))
    pool.told = dict(pool.calls)
    return sends


def destination(pool: PoolState, lease: Lease, workers: Iterable[int], now: float) -> int | None:
    """Who gets a server that was yielded: who waits longest, else whose it was; None if nobody is there."""
    sender = lease.worker
    for worker, _ in _applicants(pool, Shares(pool), now):
        if worker != sender:
            return worker
    return sender if sender in workers else min(workers, default=None)


def send(
    pool: PoolState, lease: Lease, to: int, state: ServerState, now: float, client: int
) -> Sends:
    """The server goes to ``to``, whose it is from now on; with the call to hand it on, if others wait."""
    pool.turn(lease, LeaseState.MOVING, to)
    lease.since = now
    call(pool, now)
    return [(to, ServersCome((state,), client)), *messages(pool)]


# -- clients that log in in session mode ----------------------------------------------------------------


def search(pool: PoolState, client: int, worker: int) -> Sends:
    """Look for an idle server with the other workers; nobody waits for one."""
    others = [w for w in _movable(pool, LeaseState.UP) if w not in (worker, *pool.wants)]
    if not others or len(pool.searches) >= MOST_SEARCHES:
        return [(worker, NoServer(client))]
    pool.searches[client] = Search(worker, others[0], others[1:])
    return [(others[0], YieldIdle(pool.key, client))]


def search_on(pool: PoolState, client: int) -> Sends:
    """The worker that was asked has none."""
    found = pool.searches.get(client)
    if found is None:
        return []
    if not found.others or pool.wants:
        del pool.searches[client]
        return [(found.worker, NoServer(client))]
    found.asked = found.others.pop(0)
    return [(found.asked, YieldIdle(pool.key, client))]


def found(pool: PoolState, yielded: ServerYielded) -> tuple[int | None, Sends]:
    """(the worker of the client for which this server was looked for, None if it gets none; what to say)."""
    search = pool.searches.pop(yielded.client, None)
    if search is None:
        return None, []
    if pool.wants:
        return None, [(search.worker, NoServer(yielded.client))]
    return search.worker, []
