"""Which worker is to give up how much of its work, and to whom. Pure.

New clients go to the worker with the fewest (``balancer``), but ten clients may do nothing and the eleventh
keep a core busy. So the workers tell how much processor time they have used, and the busiest gives clients
to the least busy. What keeps clients from going to and fro:

* nothing moves while the busiest is within ``TOLERANCE`` of the mean, or has little to do at all;
* where there is more work than the processors can do, half a second's shares of workers that have the same to
  do differ by a third (benchmarks/PROFILE.md). So a great imbalance is acted on at once, a small one when it
  has lasted: ``NOISE`` is allowed for, the less of it the longer the window (``WINDOWS``);
* a worker's share is measured anew after each round, once what was moved has settled;
* a round that has not helped (one client makes all the work, or the work is log-ins) is followed by a
  pause that doubles each time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import attrs

from poolproxy.ipc.messages import Load, Shed

TOLERANCE = 1.1  # busiest by mean: a tenth more than its part
NOISE = 0.15  # seconds: by the window, what the busiest may seem to be above that
LITTLE = 0.1  # of a core: not worth any trouble
WINDOW = 0.5  # seconds over which a share is measured
WINDOWS = (WINDOW, 1.0, 2.0, 4.0)
STALE = 1.5  # seconds without a report: that worker's share is not known
SETTLE = 0.4  # seconds that a round takes: looking who works, catching them, moving
MOST_PAUSE = 30.0
HELPED = 0.85  # of the excess over the mean: what is left must be less than that
MOST_MOVED = 100  # clients that one worker gives to one other in a round
KEPT = 48  # reports of one worker, who sends up to ten a second


@attrs.frozen
class Balance:
    """``shares``: of a core, by worker. ``most``: the busiest one's. ``imbalance``: that by the mean, 1 where
    nothing is done.
    """

    shares: Mapping[int, float]

    @property
    def mean(self) -> float:
        return sum(self.shares.values()) / len(self.shares) if self.shares else 0.0

    @property
    def most(self) -> float:
        return max(self.shares.values())

    @property
    def imbalance(self) -> float:
        return self.most / self.mean if self.mean else 1.0


class Rebalancer:
    """Is told each :class:`Load`; asked for a plan a few times a second."""

    def __init__(self) -> None:
        self._reports: dict[int, deque[Load]] = {}
        self._since = 0.0  # what was measured before this says nothing
        self._pause = 0.0
        self._before = 0.0  # the excess that the last round was to take away

    def told(self, worker: int, load: Load) -> None:
        """A worker's report."""
        self._reports.setdefault(worker, deque(maxlen=KEPT)).append(load)

    def worker_gone(self, worker: int) -> None:
        """It is dead, or is not to be reckoned with any more."""
        self._reports.pop(worker, None)

    def shares(self, now: float) -> dict[int, float]:
        """The latest share of each worker that is known."""
        known = {worker: self._share(worker, now, 0.0) for worker in self._reports}
        return {worker: share for worker, share in known.items() if share is not None}

    def plan(self, now: float, workers: Mapping[int, int]) -> list[tuple[int, Shed]]:
        """What to tell whom. ``workers``: those that clients can be given to, and how many they have."""
        if len(workers) < 2:
            return []
        for window in WINDOWS:
            balance = self._balance(workers, now, window)
            if balance is None:
                return []
            if balance.most < LITTLE:
                break
            if balance.imbalance > TOLERANCE + NOISE / window:
                self._begin_round(balance.most - balance.mean, now)
                return _orders(balance, workers)
        self._pause = self._before = 0.0
        return []

    def _begin_round(self, excess: float, now: float) -> None:
        helped = not self._before or excess < HELPED * self._before
        self._pause = SETTLE if helped else min(MOST_PAUSE, 2 * self._pause)
        self._before = excess
        self._since = now + self._pause

    def _balance(self, workers: Iterable[int], now: float, window: float) -> Balance | None:
        """None if the share of any, since the last round, is not known."""
        shares = {}
        for worker in workers:
            share = self._share(worker, now, self._since, window)
            if share is None:
                return None
            shares[worker] = share
        return Balance(shares)

    def _share(self, worker: int, now: float, since: float, window: float = WINDOW) -> float | None:
        """The share of a core in the last ``window``; None if that, since ``since``, is not known."""
        reports = self._reports.get(worker)
        if not reports or now - reports[-1].at > STALE:
            return None
        last = reports[-1]
        first = next((r for r in reversed(reports) if r.at <= last.at - window), None)
        if first is None or first.at < since:
            return None
        return (last.cpu - first.cpu) / (last.at - first.at)


def _orders(balance: Balance, workers: Mapping[int, int]) -> list[tuple[int, Shed]]:
    """The busiest gives to the least busy, until all would be at the mean."""
    over = {w: share - balance.mean for w, share in balance.shares.items()}
    givers = sorted((w for w in over if over[w] > 0 and workers[w]), key=lambda w: -over[w])
    takers = sorted((w for w in over if over[w] < 0), key=lambda w: over[w])
    orders = []
    for giver in givers:
        for taker in takers:
            amount = min(over[giver], -over[taker])
            if amount > 0:
                share = amount / balance.shares[giver]
                orders.append((giver, Shed(taker, share, MOST_MOVED)))
                over[giver] -= amount
                over[taker] += amount
    return orders
