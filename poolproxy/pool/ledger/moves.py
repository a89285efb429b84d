"""How much the servers of pools move, and whether that is much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set

from poolproxy.ipc.messages import PoolKey
from poolproxy.pool.ledger.books import Books
from poolproxy.pool.ledger.state import PoolState
from poolproxy.pool.ledger.takes import Takes

MOVES = 15.0  # of servers, each second: less cost less than 5 % of a core
MOVE_TIME = 0.002  # seconds of the workers' time that one takes, as PROFILE.md has it
MUCH = 0.5  # of what a larger pool takes its moves must seem to take
MOST_CLIENTS = 1000  # that are moved for the sake of one queue


class Moves:
    """Between two looks. ``rates``: moves in a second, by pool; ``before``: when the first look was."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._now = self.before = float("-inf")
        self.rates: dict[PoolKey, float] = {}
        self._matter = False

    def of(self, pool: PoolState) -> float:
        """Moves in a second."""
        return self.rates.get(pool.key, 0.0)

    def count(
        self,
        now: float,
        busy: Mapping[int, float],
        workers: Set[int],
        takes: Takes,
        gathered: Iterable[PoolKey],
    ) -> None:
        """What has been since the last look, by ``busy``, as of :class:`Gathering`, and what pools take.
        ``gathered``: the pools that have homes. To be called before these change.
        """
        moved, self._books.moved = self._books.moved, Counter()
        self.before, self._now = self._now, now
        elapsed = now - self.before
        self.rates = {key: count / elapsed for key, count in moved.items()} if elapsed else {}
        rest = sum(busy.values())
        for key in gathered:
            pool = self._books.pools.get(key)
            if pool is not None:
                rest -= takes.whole(pool)
        moves = sum(self.rates.values())
        self._matter = workers <= busy.keys() and moves * MOVE_TIME >= MUCH * rest

    def matter_to(self, pool: PoolState, takes: Takes) -> bool:
        """Whether they are a good part of what a larger pool takes, and all moves of what workers do beside
        gathered pools. A pool may seem to take less than it does, where other pools have idle servers.
        """
        if not self._matter or sum(pool.clients.values()) > MOST_CLIENTS:
            return False
        return self.of(pool) * MOVE_TIME >= MUCH * takes.whole(pool)
