"""What holders were asked to give back, and what they have been told of it.

Several pools may ask the same holder when they share a limit, but a holder hears one number for
each of its pools. A message goes out only where that number differs from the last one told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from poolproxy.ipc.messages import Message, Reclaim
from poolproxy.pool.ledger.state import Ask, Holder, PoolState

# What a holder believes is not known: it must be told again whatever the number is.
UNKNOWN = -1


class Reclaims:
    """The sums over the asks of all pools. The asks themselves stand in each :class:`PoolState`."""

    def __init__(self) -> None:
        self._asked: Counter[Holder] = Counter()
        self._told: dict[Holder, int] = {}

    def ask(self, pool: PoolState, holder: Holder, ask: Ask, now: float) -> None:
        """Ask ``holder`` on behalf of ``pool``."""
        pool.asks[holder] = ask
        pool.last_ask = now
        self._asked[holder] += ask.count

    def withdraw(self, pool: PoolState, holders: Iterable[Holder]) -> None:
        """``pool`` asks these no longer."""
        for holder in holders:
            self._asked[holder] -= pool.asks.pop(holder).count

    def given_back(self, holder: Holder, pools: Iterable[PoolState]) -> None:
        """A permit of ``holder`` has come back: if one of ``pools`` asked for it, it is promised to
        the worker for whose sake it was asked.
        """
        if self._told.get(holder):
            # It may have come back for another reason, without counting as an answer over there.
            self._told[holder] = UNKNOWN
        for pool in pools:
            ask = pool.asks.get(holder)
            if ask is not None:
                ask.count -= 1
                self._asked[holder] -= 1
                pool.promised.append(ask.beneficiary)
                if not ask.count:
                    del pool.asks[holder]
                return

    def worker_gone(self, worker: int, pools: Iterable[PoolState]) -> None:
        """A dead worker answers no more."""
        for pool in pools:
            self.withdraw(pool, [holder for holder in pool.asks if holder[0] == worker])
        for holder in [holder for holder in self._told if holder[0] == worker]:
            del self._told[holder]
            del self._asked[holder]

    def messages(self) -> list[tuple[int, Message]]:
        """What holders have to be told now."""
        sends: list[tuple[int, Message]] = []
        for holder in self._asked.keys() | self._told.keys():
            count = self._asked[holder]
            if count != self._told.get(holder, 0):
                self._told[holder] = count
                sends.append((holder[0], Reclaim(holder[1], count)))
            if not count:
                del self._asked[holder]
                self._told.pop(holder, None)
        return sends
