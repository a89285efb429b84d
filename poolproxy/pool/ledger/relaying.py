"""Where clients can only be relayed to the home of their pool: which of them are.

Of a larger pool those come whose worker has hardly a server for them, see ``coming``; of a small one all but
those of its keepers, see ``keeping``. Which worker the home is, and whether there is one, is decided in
``gathering``.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from poolproxy.pool.ledger.books import Books
from poolproxy.pool.ledger.coming import long_ones, note_short, who_comes
from poolproxy.pool.ledger.home import QUEUED_LOOKS, Home
from poolproxy.pool.ledger.keeping import AMISS, OPENED, REST, Ring
from poolproxy.pool.ledger.moves import MOVES, Moves
from poolproxy.pool.ledger.state import NOBODY, PoolState


class Relaying:
    """Asked at each look of :class:`~poolproxy.pool.ledger.gathering.Gathering`."""

    def __init__(self, books: Books, moves: Moves) -> None:
        self._books = books
        self._moves = moves
        self._client_moves = True
        self._staying: Set[int] = frozenset()

    def begin(self, staying: Set[int], *, client_moves: bool) -> None:
        """A look. ``staying``: the workers that don't leave; ``client_moves``: clients may go themselves."""
        self._staying, self._client_moves = staying, client_moves

    def applies_to(self, pool: PoolState) -> bool:
        """Whether clients of it are relayed even if it is not small."""
        return pool.fixed or not self._client_moves

    def look_who_comes(self, pool: PoolState, home: Home, now: float) -> None:
        """Of a larger pool all clients do where they can move, and where to relay them is cheaper than to
        move servers. Where only some do it is thought over while they queue: else servers may be missing, and
        parts seem small.
        """
        relays = not home.small and self.applies_to(pool)
        partly = home.comers is not None and (home.worker != NOBODY or home.queued > 0)
        if not (relays and (partly or home.queued)):
            home.comers, home.stayers = None, frozenset()
        if not (relays and home.queued):
            home.short = {}
            return
        note_short(pool, home)
        if partly or home.queued >= QUEUED_LOOKS:
            self._let_come(pool, home, now)

    def _let_come(self, pool: PoolState, home: Home, now: float) -> None:
        books, parts = self._books, home.connected
        home.comers = who_comes(pool, home, books.workers, books.retired)
        home.stayers = long_ones(parts, len(pool.leases)) & self._staying - home.comers
        if home.stayers and home.worker not in home.stayers:
            home.worker = NOBODY
        elsewhere = any(count for worker, count in parts.items() if worker != home.worker)
        if home.worker != NOBODY and elsewhere and not (home.comers or home.short):
            home.end(now + REST)

    def look_who_stays(self, pool: PoolState, home: Home, now: float) -> None:
        """Of a small pool that has a home."""
        if home.worker == NOBODY or home.comers is not None or not self.applies_to(pool):
            home.kept.end(now)
        elif home.small:
            own, served = home.connected, pool.clients
            strange = {w for w in self._staying if served.get(w, 0) > own.get(w, 0)}
            ring = self._ring(pool, home, home.worker, strange)
            new, amiss = home.since == now, self._amiss(pool, home)
            home.kept.look(ring, now, queued=home.queued > 0, new=new, amiss=amiss)
        else:
            home.kept.keepers &= self._staying

    def sparing(
        self, pool: PoolState, home: Home, workers: Iterable[int], now: float
    ) -> frozenset[int]:
        """Those of the workers that can be a small pool's home without all clients being relayed."""
        relays = home.small and self.applies_to(pool)
        if not (relays and home.queued and now >= home.kept.rests_until):
            return frozenset()
        return frozenset(w for w in workers if self._ring(pool, home, w).keepers())

    def _ring(
        self, pool: PoolState, home: Home, worker: int, strange: Set[int] = frozenset()
    ) -> Ring:
        return Ring(home.connected, len(pool.leases), worker, self._staying, strange)

    def _amiss(self, pool: PoolState, home: Home) -> int:
        """Whether servers move much, are closed here and opened there, or are idle while others' clients
        wait.
        """
        opened = any(lease.granted >= self._moves.before for lease in pool.leases.values())
        places = (home.worker, *home.kept.keepers)
        idle = home.queued and any(pool.held(w) and w not in pool.wants for w in places)
        moves = self._moves.of(pool) > MOVES
        return OPENED * (opened and pool.fixed) + AMISS * bool(moves or idle)
