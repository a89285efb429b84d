"""The home of a small pool: the worker at which its clients are gathered.

A pool with fewer servers than there are workers has less than one server for some worker. Where its clients
are saturated, or ask now here and now there, its servers move all the time. A move of a client costs about
as much as that of a server, but is made once. So the clients go to one worker, the pool's *home*; the
servers follow, and stay.

A home is chosen when the pool has been *hot* in two looks: its limit is reached, and clients wait or its
servers move. It is the worker that will be least busy with the pool's whole work, and among about equal
ones that with the largest share of the demand. The pool keeps it until it has not been hot for ``KEEP``.
It gets another one when the worker has died or retires, or, after ``HOLD``, when that is ``OVERLOADED`` and
another one has much room.

While a pool has a home its clients count as one block: the balancing by busy time (``acceptor.rebalance``)
leaves them there.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from poolproxy.ipc.messages import Gather, PoolKey
from poolproxy.pool.ledger.books import Books
from poolproxy.pool.ledger.news import Sends
from poolproxy.pool.ledger.sharing import Shares
from poolproxy.pool.ledger.state import NOBODY, PoolState

# With more servers than this the work of a pool may be too much for one worker.
MOST_SERVERS = 4
LOOKS = 2  # in a row in which a pool must be hot
MOVED = 3  # servers that have come to another worker between two looks: 15 a second, at five looks a second
KEEP = 30.0  # seconds
HOLD = 30.0  # seconds
# Parts of a core: of two workers whose load would differ by less the one with more of the clients is taken.
ABOUT_EQUAL = 0.1
OVERLOADED = 0.85
MUCH_ROOM = 0.3


@attrs.define
class Home:
    """``worker``: where clients are to be, as was decided at ``since``; NOBODY: they may stay where they are.
    ``hot_at``: when the pool was hot last; ``looks``: for how many looks it has been; ``moves``: those of its
    servers at the last one. ``told``: what each worker was told last.
    """

    worker: int = NOBODY
    since: float = float("-inf")
    hot_at: float = float("-inf")
    looks: int = 0
    moves: int = 0
    told: dict[int, int] = attrs.Factory(dict)


class Gathering:
    """Asked a few times a second for what is to be told of homes."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._homes: dict[PoolKey, Home] = {}

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

    def plan(self, now: float, busy: Mapping[int, float]) -> Sends:
        """``busy``: the shares of a core that workers use, of those of which that is known."""
        pools = self._books.pools
        for key in [*self._books.restless, *self._homes]:
            if key in pools:
                self._look(pools[key], now, busy)
        return self._messages()

    def give_up(self) -> Sends:
        """Clients are to stay where they are."""
        for home in self._homes.values():
            home.worker, home.looks = NOBODY, 0
        return self._messages()

    def _look(self, pool: PoolState, now: float, busy: Mapping[int, float]) -> None:
        home = self._homes.setdefault(pool.key, Home())
        hot = self._is_hot(pool, home, now)
        home.moves = pool.moves
        home.looks = home.looks + 1 if hot else 0
        home.hot_at = now if hot else home.hot_at
        staying = self._books.workers - self._books.retired
        if home.worker not in staying:
            home.worker = NOBODY
        if home.worker != NOBODY and (now - home.hot_at > KEEP or not self._is_small(pool)):
            home.worker = NOBODY
        elif hot and home.looks >= LOOKS and self._is_small(pool):
            self._settle(pool, home, now, busy)

    def _is_small(self, pool: PoolState) -> bool:
        staying = len(self._books.workers - self._books.retired)
        return len(pool.leases) <= MOST_SERVERS and len(pool.leases) < staying

    def _is_hot(self, pool: PoolState, home: Home, now: float) -> bool:
        if not pool.leases or not self._books.tally.blocker(pool, now):
            return False
        return bool(pool.wants) or pool.moves - home.moves >= MOVED

    def _settle(self, pool: PoolState, home: Home, now: float, busy: Mapping[int, float]) -> None:
        """Choose the home, or think about another one."""
        if home.worker == NOBODY:
            loads = self._loads(pool, busy)
            least, shares = min(loads.values()), Shares(pool)
            able = [worker for worker, load in loads.items() if load <= least + ABOUT_EQUAL]
            home.worker = max(able, key=lambda w: (shares.of(w), pool.clients.get(w, 0), -w))
            home.since = now
        elif now - home.since >= HOLD and busy.get(home.worker, 0.0) >= OVERLOADED:
            loads = self._loads(pool, busy)
            least_busy = min(loads, key=lambda worker: (loads[worker], worker))
            home.since = now
            if loads[least_busy] <= loads[home.worker] - MUCH_ROOM:
                home.worker = least_busy

    def _loads(self, pool: PoolState, busy: Mapping[int, float]) -> dict[int, float]:
        """How busy each worker would be as the pool's home. What a pool takes of a worker's time is estimated
        by its part of the servers that all pools have there; pools that have found a home count there.
        """
        staying = self._books.workers - self._books.retired
        parts = {worker: self._part(pool, worker) * busy.get(worker, 0.0) for worker in staying}
        whole = sum(parts.values())
        return {w: busy.get(w, 0.0) - parts[w] + whole + self._promised(w) for w in staying}

    def _part(self, pool: PoolState, worker: int) -> float:
        mine = Shares(pool).of(worker)
        others = (p for p in self._books.pools.values() if p is not pool and p.held(worker))
        total = mine + sum(other.held(worker) for other in others)
        return mine / total if total else 0.0

    def _promised(self, worker: int) -> float:
        # Pools whose clients are still on their way there are not seen in its time.
        coming = (
            key
            for key, home in self._homes.items()
            if home.worker == worker and home.told.get(worker) != worker
        )
        return ABOUT_EQUAL * sum(1 for _ in coming)

    def _messages(self) -> Sends:
        sends: Sends = []
        for key, home in list(self._homes.items()):
            pool = self._books.pools.get(key)
            interested = pool.interested if pool is not None else ()
            for worker in sorted({*interested, *home.told, home.worker} & self._books.workers):
                if home.told.get(worker, NOBODY) != home.worker:
                    home.told[worker] = home.worker
                    sends.append((worker, Gather(key, home.worker, here=worker == home.worker)))
            home.told = {w: h for w, h in home.told.items() if h != NOBODY}
            if home.worker == NOBODY and not home.told and not home.looks:
                del self._homes[key]
        return sends
