"""The home of a saturated pool: the worker at which its clients are gathered.

A pool with fewer servers than there are workers, a *small* one, has less than one server for some worker.
Where its clients are busy its servers move all the time. A move of a client costs about as much as that of a
server, but is made once. So the clients go to one worker, the pool's *home*; the servers follow, and stay.
Those of a pool with about a server for each worker move, too: whoever has two clients at a time takes the
one of another worker, which soon needs it itself.

A larger pool gains, too, where its clients wait for servers and not for workers: in one worker they wait in
one queue, and what several servers have answered meanwhile is dealt with in one go, which takes little more
than half of the processor time that it takes in four workers (benchmarks/PROFILE.md). Relaying costs as much
again. So where clients may move those of a larger pool that can't, encrypted ones, stay where they are. Where
none may, or servers are encrypted, which are opened anew where they are wanted, it is only those clients that
are relayed whose worker has hardly a server for them, see ``coming``; and of a small pool all but those of
its keepers, see ``keeping``.

* A home is chosen when the pool is *hot* in ``LOOKS`` looks: its servers move (``MOVES``), and if it is a
  larger one that is ``MUCH`` of what it takes, and of what workers do beside gathered pools. Where they
  can't, by TLS, a small one is hot when clients wait at a worker while another one has servers. Or when a
  limit has kept clients of a larger pool waiting in ``QUEUED_LOOKS`` looks, unless it takes so little time
  (``LITTLE``) that it does not pay. Nor does it where a larger pool has very many clients
  (``MOST_CLIENTS``). Fewer looks are enough when others get homes.
* The home is the worker that will be least busy with the pool's whole work, and among about equal ones that
  with the largest share of the demand; where only some clients come, that with the largest share of those
  that have room for them. If that is more than one worker can do (``CAPACITY``) there is none.
  Of several pools the one with most work comes first, and smaller ones fill up what room that leaves. What
  small ones take together is known, but hardly what each takes, as its servers are now here, then there:
  equal ones seemed to differ eightfold. So the work of those that get homes at a time counts by servers, and
  so does that of larger ones whose servers move.
* It is kept until nobody has waited and nothing moved for ``KEEP``: while the clients are gathered nothing
  moves, and without a home the balancing by busy time would spread them again.
* Another one is chosen when the worker dies or retires, or, once the work that was moved can be measured
  (``ARRIVED``; until then it is reckoned in), when the worker has more than its part of the work and one
  would be less busy even with the pool, by a good part of what the pool takes (``ROOM``). It would have to
  be as much less busy for the way back, and it is thought of less and less often, up to each ``HOLD``. So
  pools don't go to and fro. Where clients are relayed a change gains less, and asks for ``MUCH_ROOM``, unless
  a small pool could have keepers then. Where only some come to a larger one there is none: what of the home's
  work is theirs is not known, and little.
* It is given up for ``REST`` when the worker is overloaded after ``HOLD``, or when most clients don't come,
  as encrypted ones of a larger pool whose servers can move. A pool that is not small goes sooner (``FULL``),
  as it loses less.

While a pool has a home its clients there count as one block: the balancing by busy time
(``acceptor.rebalance``) leaves them there. It has other pools' clients to move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from poolproxy.ipc.messages import Gather, PoolKey
from poolproxy.pool.ledger.books import Books
from poolproxy.pool.ledger.coming import Connections
from poolproxy.pool.ledger.home import LOOKS, QUEUED_LOOKS, Home
from poolproxy.pool.ledger.keeping import REST
from poolproxy.pool.ledger.moves import MOST_CLIENTS, MOVE_TIME, MOVES, Moves
from poolproxy.pool.ledger.news import Sends
from poolproxy.pool.ledger.relaying import Relaying
from poolproxy.pool.ledger.sharing import Shares
from poolproxy.pool.ledger.state import NOBODY, PoolState
from poolproxy.pool.ledger.takes import Takes
from poolproxy.pool.ledger.work import Work, by_servers

MOST_NEW = 32  # homes in a look
TOGETHER = 0.8  # of the time that transactions take elsewhere they take at the home, or less
# Seconds.
KEEP = 300.0
HOLD = 30.0
COMING = 10.0  # in which a good part of the clients must have come
# After these the work that a home brings begins to be measured, and is.
ARRIVING, ARRIVED = 0.3, 0.8
# As much of the work goes to the home where clients are relayed, measured with encrypted clients and servers:
# not encrypting for the clients that it does not have itself, nor opening connections all the time. In the
# clear it is less.
RELAYED_PART = 0.8
# Parts of a core.
# Or a quarter of what the pool takes, if that is less. Where its clients are relayed it is MUCH_ROOM, or half
# of that: the more of them are at the home anyway, the less is to be relayed.
ABOUT_EQUAL = 0.1
LITTLE = 0.1
NEXT_TO_NOTHING = 0.03  # with less to do a home is not thought over
CAPACITY = 0.8
FULL = 0.85
OVERLOADED = 0.95
MUCH_ROOM = 0.3
UNEVEN = 1.15  # a worker's time by the mean
ROOM = 1 / 3  # of what the pool takes


class Gathering:
    """Asked a few times a second for what is to be told of homes."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._homes: dict[PoolKey, Home] = {}
        self._staying: set[int] = set()
        # Of the last look.
        self._moves = Moves(books)
        self._relaying = Relaying(books, self._moves)
        self._takes = Takes(books, {})

    def home(self, key: PoolKey) -> int:
        """The home of a pool, NOBODY if it has none."""
        found = self._homes.get(key)
        return found.worker if found is not None else NOBODY

    def worker_gone(self, worker: int) -> None:
        """It has died, and hears nothing any more."""
        for home in self._homes.values():
            home.told.pop(worker, None)
            if home.worker == worker:
                home.worker = NOBODY

    def plan(
        self,
        now: float,
        busy: Mapping[int, float],
        connections: Connections,
        *,
        client_moves: bool,
    ) -> Sends:
        """``busy``: the shares of a core that workers use, of those of which that is known.
        ``client_moves``: clients may go themselves.
        """
        self._staying = self._books.workers - self._books.retired
        self._relaying.begin(self._staying, client_moves=client_moves)
        self._takes = Takes(self._books, busy)
        gathered = (key for key, home in self._homes.items() if home.worker != NOBODY)
        self._moves.count(now, busy, self._staying, self._takes, gathered)
        looked = self._look_at_all(now, connections)
        due: list[tuple[PoolState, Home]] = []
        soon: list[tuple[PoolState, Home]] = []
        for pool, home in looked:
            if home.worker != NOBODY:
                self._think_over(pool, home, now, busy)
            elif now >= home.rests_until:
                (due if self._is_due(pool, home) else soon).append((pool, home))
        if due:
            # What is hot now has most likely become so with them; later it would find what room they left.
            due += [(p, h) for p, h in soon if self._is_due(p, h, hot=1, queued=LOOKS)]
            self._choose_all(due, now, busy)
        for pool, home in looked:
            self._relaying.look_who_stays(pool, home, now)
        return self._messages(now)

    def _look_at_all(self, now: float, connections: Connections) -> list[tuple[PoolState, Home]]:
        """The pools that can have homes, and were there at the last look."""
        books, looked = self._books, []
        for key in {**books.restless, **self._moves.rates, **self._homes}:
            pool, home = books.pools.get(key), self._homes.get(key)
            if pool is None or not self._can_have_one(pool):
                if home is not None:
                    home.end()
            elif home is None:
                self._homes[key] = Home(busy_at=now, small=self._seems_small(pool))
            else:
                self._look(pool, home, now, connections)
                looked.append((pool, home))
        return looked

    def _can_have_one(self, pool: PoolState) -> bool:
        return len(self._staying) > 1 and bool(pool.leases) and not pool.limits.session_mode

    def give_up(self, now: float) -> Sends:
        """Clients are to stay where they are."""
        self._books.moved.clear()
        for home in self._homes.values():
            home.end()
        return self._messages(now)

    def _look(self, pool: PoolState, home: Home, now: float, connections: Connections) -> None:
        home.queued = home.queued + 1 if self._queues(pool, now) else 0
        home.note_size(self._seems_small(pool))
        moves = self._moves.of(pool)
        hot = moves > MOVES and (home.small or self._moves.matter_to(pool, self._takes))
        hot = hot or (home.small and pool.fixed and _waits_elsewhere(pool))
        home.looks = home.looks + 1 if hot else 0
        if hot or pool.wants:
            home.busy_at = now
        if home.worker not in self._staying or now - home.busy_at > KEEP:
            home.worker = NOBODY
        if home.queued and self._relaying.applies_to(pool):
            home.connected = dict(connections(pool.key))
        self._relaying.look_who_comes(pool, home, now)

    def _is_due(
        self, pool: PoolState, home: Home, hot: int = LOOKS, queued: int = QUEUED_LOOKS
    ) -> bool:
        """Whether it is time to choose a home; ``hot``, ``queued``: how many looks are enough."""
        if not home.small and self._relaying.applies_to(pool):
            hot = queued = QUEUED_LOOKS  # who comes depends on whether clients queue
        if home.comers is not None and not home.comers:
            return False
        if home.looks >= hot or home.queued < queued:
            return home.looks >= hot
        pays = self._takes.whole(pool) >= LITTLE
        if pays and sum(pool.clients.values()) <= MOST_CLIENTS:
            return True
        home.queued = 0  # it may have more to do, or fewer clients, in as many looks
        return False

    def _queues(self, pool: PoolState, now: float) -> bool:
        """Whether clients wait for servers that there are, as a limit allows no more."""
        waits = pool.wants and pool.connected and not pool.satisfied
        return bool(waits and self._books.tally.blocker(pool, now))

    def _choose_all(
        self, due: Iterable[tuple[PoolState, Home]], now: float, busy: Mapping[int, float]
    ) -> None:
        """Homes for these. Wherever their work is now, it is not in the way: it goes."""
        works = sorted(self._works(due), key=lambda work: -work.whole)[:MOST_NEW]
        going: Counter[int] = Counter()
        for work in works:
            going.update(work.parts)
        for work in works:
            going.subtract(work.parts)
            rest = {worker: share - going[worker] for worker, share in busy.items()}
            self._choose(work, now, rest)

    def _works(self, due: Iterable[tuple[PoolState, Home]]) -> list[Work]:
        """What each takes: small ones, and larger ones whose servers move, by their servers."""
        small: list[Work] = []
        moving: list[Work] = []
        works: list[Work] = []
        for pool, home in due:
            work = Work.of(pool, home, self._takes)
            kind = moving if home.looks else works
            (small if home.small else kind).append(work)
        return by_servers(small) + by_servers(moving) + works

    def _choose(self, work: Work, now: float, busy: Mapping[int, float]) -> None:
        """``busy``: without the pools that are to be thought of yet."""
        pool, home, whole = work.pool, work.home, work.whole
        moves = self._moves.of(pool)
        relayed = self._relaying.applies_to(pool)
        stays = (1 - RELAYED_PART) * whole if relayed else 0.0
        together = 1.0 if relayed else TOGETHER
        loads = self._loads(work, now, busy, spared=MOVE_TIME * moves + stays, together=together)
        if not loads:
            return
        least, shares = min(loads.values()), Shares(pool)
        if least > CAPACITY:
            home.rests_until = now + REST
            return
        about = least + (min(MUCH_ROOM, whole / 2) if relayed else min(ABOUT_EQUAL, whole / 4))
        sparing = self._relaying.sparing(pool, home, loads, now)
        if sparing:
            about = least + MUCH_ROOM
        if home.stayers:
            about = CAPACITY  # what comes is little: the more servers are there, the better
        able = [worker for worker, load in loads.items() if load <= min(about, CAPACITY)]
        worker = max(able, key=lambda w: (w in sparing, shares.of(w), pool.clients.get(w, 0), -w))
        home.patience = ARRIVED
        self._settle(work, worker, now)

    def _better(
        self, pool: PoolState, home: Home, loads: Mapping[int, float], now: float
    ) -> list[int]:
        """Where a small pool that has no keepers could have some. None of them is so much busier that the
        home would leave it again.
        """
        sparing = self._relaying.sparing(pool, home, loads, now)
        if home.kept.keepers or home.worker in sparing:
            return []
        most = min(CAPACITY, loads[home.worker] + ABOUT_EQUAL)
        return [worker for worker in sparing if loads[worker] <= most]

    def _seems_small(self, pool: PoolState) -> bool:
        return len(pool.leases) < len(self._staying)

    def _think_over(
        self, pool: PoolState, home: Home, now: float, busy: Mapping[int, float]
    ) -> None:
        """Whether it is the right home still: clients come, and there is no better one."""
        used = busy.get(home.worker, 0.0)
        if now - home.counted_at >= COMING:
            away = home.yet_to_come(pool.clients)
            # Where only some are to come it costs nothing that others don't.
            stay_away = not home.stayers and 2 * away > sum(pool.clients.values())
            if (stay_away and away > 0.9 * home.away) or (used >= FULL and not home.small):
                home.end(now + REST)
                return
            home.away, home.counted_at = away, now
        if now >= home.think_at and not home.stayers:
            self._think_again(pool, home, now, busy)

    def _think_again(
        self, pool: PoolState, home: Home, now: float, busy: Mapping[int, float]
    ) -> None:
        """Whether another worker has so much more room that it is worth a change."""
        home.patience = min(HOLD, 2 * home.patience)
        home.think_at = now + home.patience
        if now < home.since + HOLD:
            home.think_at = min(home.think_at, home.since + HOLD)
        work = Work.of(pool, home, self._takes)
        loads = self._loads(work, now, busy)
        if home.worker not in loads:
            return
        least_busy = min(loads, key=lambda worker: (loads[worker], worker))
        room = MUCH_ROOM if self._relaying.applies_to(pool) else min(MUCH_ROOM, ROOM * work.whole)
        better = self._better(pool, home, loads, now)
        if better:
            self._settle(work, max(better, key=lambda w: (home.connected.get(w, 0), -w)), now)
            return
        uneven = loads[home.worker] >= max(
            NEXT_TO_NOTHING, UNEVEN * sum(busy.values()) / len(loads)
        )
        if uneven and loads[least_busy] <= loads[home.worker] - room:
            self._settle(work, least_busy, now)
        elif busy.get(home.worker, 0.0) >= OVERLOADED and now - home.since >= HOLD:
            home.end(now + REST)

    def _settle(self, work: Work, worker: int, now: float) -> None:
        pool, home, parts = work.pool, work.home, work.parts
        home.kept.end(now)
        home.worker = worker
        home.since = home.counted_at = now
        home.think_at = now + home.patience
        home.away = home.yet_to_come(pool.clients)
        home.shift = {w: -part for w, part in parts.items()}
        home.shift[worker] += work.whole

    def _loads(
        self,
        work: Work,
        now: float,
        busy: Mapping[int, float],
        spared: float = 0.0,
        together: float = 1.0,
    ) -> dict[int, float]:
        """How busy each worker would be as the home of the pool, less ``spared``, if it can be. None is a
        worker of which nothing is known, unless all are.
        """
        parts, whole = work.parts, work.whole
        known = busy.keys() & parts.keys() or parts.keys()
        if work.home.stayers:
            known = known & work.home.stayers
        loads = {worker: busy.get(worker, 0.0) - parts[worker] for worker in known}
        for home in self._homes.values():
            if home.worker != NOBODY and now - home.since < ARRIVED:
                unseen = min(1.0, (ARRIVED - now + home.since) / (ARRIVED - ARRIVING))
                for worker, shift in home.shift.items():
                    if worker in loads:
                        loads[worker] += unseen * shift
        for worker in loads:
            part = min(parts[worker], whole)
            loads[worker] += max(0.0, part + together * (whole - part) - spared)
        return loads

    def _messages(self, now: float) -> Sends:
        sends: Sends = []
        for key, home in list(self._homes.items()):
            pool = self._books.pools.get(key)
            interested = pool.interested if pool is not None else ()
            nowhere = Gather(key, NOBODY, here=False)
            relay = home.small or pool is None or self._relaying.applies_to(pool)
            lone = pool is not None and len(pool.leases) == 1
            for worker in sorted({*interested, *home.told, home.worker} & self._books.workers):
                order = nowhere
                if home.worker != NOBODY and (worker == home.worker or home.takes_from(worker)):
                    order = Gather(key, home.worker, worker == home.worker, relay, lone)
                if order != home.told.get(worker, nowhere):
                    home.told[worker] = order
                    sends.append((worker, order))
            home.told = {w: order for w, order in home.told.items() if order.home != NOBODY}
            moves = key in self._moves.rates or key in self._books.restless
            restless = moves or home.looks or now < home.rests_until
            if home.worker == NOBODY and not home.told and not restless:
                del self._homes[key]
        return sends


def _waits_elsewhere(pool: PoolState) -> bool:
    """Whether clients wait at one worker while another one has servers, and not for a further one to open."""
    return not pool.opening and any(pool.held(worker) < pool.in_use for worker in pool.wants)
