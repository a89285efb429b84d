"""Server connections that go from worker to worker: who is asked for one, and who gets it.

The ledger does not know which servers are idle, nor who is first in a worker's queue at this moment. So it
asks a holder to *yield* a server and tells since when the oldest client of another worker waits; the holder
compares that with its own queue whenever a server becomes free. What is yielded goes to the worker whose
client has waited longest by then. The order is that of one queue over all workers, but for this:

* A holder goes on with its own clients while they are younger than the oldest one elsewhere by no more than
  a part (``LEAD``) of the time that this one has waited. So a worker's clients come to be served one after
  the other: as each asks again at once, a saturated pool of one server goes round the workers, serves each
  one's clients once, and moves no oftener than that. A fixed time for each worker was tried: it serves the
  clients of a small worker several times in each of its turns.
* The call stands: a worker is told with the server that comes to it when to hand it on, and does so without
  being asked when its own clients have had their turn.
* How old the queue of a worker with servers of its own is, is known as it was when it told last (see
  ``PoolState.waits_since``). Between two such workers a server moves if one's client is older by a good part,
  and was not moved for a slice (``state.MOVE_SLICE``): while it is under way it serves nobody.

A holder is asked first that has no client waiting, as it most likely has an idle server, then the one that
has most beyond its share. If none comes within ``PATIENCE`` the next one is asked, too: the first one's
servers may all be bound to long transactions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from poolproxy.ipc.messages import (
    NoServer,
    ServersCome,
    ServerState,
    ServerYielded,
    Yield,
    YieldIdle,
)
from poolproxy.pool.ledger.news import Sends
from poolproxy.pool.ledger.sharing import share_of
from poolproxy.pool.ledger.state import MOVE_SLICE, Call, Lease, LeaseState, PoolState, Search

PATIENCE = 4 * MOVE_SLICE
# What a holder was told of the oldest client elsewhere is told anew only if it is off by more.
STALE = 0.02
# A worker serves its own clients first although another one's is older, if that is by less than this part of
# the time that it has waited, and in no case by more than MOST_LEAD seconds.
LEAD = 0.25
MOST_LEAD = 0.05
# Clients that log in at the same time and have an idle server looked for, in each pool. The search costs
# two messages for each worker that is asked.
MOST_SEARCHES = 16


def call(pool: PoolState, now: float) -> float | None:
    """Ask for as many servers as workers lack; returns when to look again."""
    applicants = _in_turn(pool, now)
    if not applicants:
        pool.calls.clear()
        return None
    for worker, out in pool.calls.items():
        others = [since for other, since in applicants if other != worker]
        since = _bearable(min(others), now) if others else out.since
        if abs(since - out.since) > STALE:
            pool.calls[worker] = Call(out.count, since)
    patient = now < pool.last_move + PATIENCE
    covered = len(pool.calls) if patient else 0
    rechecks = [pool.last_move + PATIENCE] if pool.calls and patient else []
    for who, since in applicants[covered:]:
        holder, recheck = _holder(pool, who, since, now)
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


def _in_turn(pool: PoolState, now: float) -> list[tuple[int, float]]:
    """The workers that lack a server, with the beginning of their oldest wait; that is first."""
    lack = [w for w, want in pool.wants.items() if want.waiting > pool.coming(w)]
    return sorted(((w, pool.waits_since(w, now)) for w in lack), key=lambda item: item[1])


def _holder(pool: PoolState, who: int, since: float, now: float) -> tuple[int | None, float | None]:
    """(whom to ask for the sake of ``who``, None; then when to look again, None: when something happens)."""
    able: list[tuple[bool, float, int]] = []
    rechecks = []
    own = pool.held(who) > 0
    for worker, leases in _movable(pool, LeaseState.UP, LeaseState.MOVING):
        if worker == who or worker in pool.calls:
            continue
        waits = worker in pool.wants
        if own and waits:
            # Both have servers: nobody starves, so they are in no hurry.
            ripe = max(min(lease.since for lease in leases), pool.last_move) + MOVE_SLICE
            if pool.waits_since(worker, now) <= _bearable(since, now):
                ripe = now + PATIENCE
            if now < ripe:
                rechecks.append(ripe)
                continue
        able.append((waits, share_of(pool, worker) - len(leases), worker))
    if able:
        return min(able)[2], None
    return None, min(rechecks, default=None)


def _movable(pool: PoolState, *states: LeaseState) -> Iterator[tuple[int, list[Lease]]]:
    """The workers that have connections in one of ``states`` that can move, with these."""
    found: dict[int, list[Lease]] = {}
    for lease in pool.leases.values():
        if lease.state in states and lease.movable:
            found.setdefault(lease.worker, []).append(lease)
    yield from found.items()


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
    for worker, _ in _in_turn(pool, now):
        if worker != sender:
            return worker
    return sender if sender in workers else min(workers, default=None)


def send(
    pool: PoolState, lease: Lease, to: int, state: ServerState, now: float, client: int
) -> Sends:
    """The server goes to ``to``, whose it is from now on."""
    pool.turn(lease, LeaseState.MOVING, to)
    lease.since = now
    return [(to, ServersCome((state,), client))]


# -- clients that log in in session mode ----------------------------------------------------------------


def search(pool: PoolState, client: int, worker: int) -> Sends:
    """Look for an idle server with the other workers; nobody waits for one."""
    others = [w for w, _ in _movable(pool, LeaseState.UP) if w not in (worker, *pool.wants)]
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
