"""The totals over all workers, and why no counter ever falls.

Each worker counts from zero and reports absolute values. What a worker has counted stays in the
totals when it dies, when its successor starts at zero in the same slot, and when it drops a
pool. So ``Totals`` keeps two things: the last report of each live worker, and the sums of what
has ended. A counter that is seen to fall has been started anew, as Prometheus itself judges it.

Counts between a killed worker's last report and its death are lost: it died with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import attrs

from poolproxy.metrics.registry import (
    MAX_LABEL_VALUES,
    OTHER,
    Kind,
    Merge,
    Metric,
    copied,
    metrics_of,
)
from poolproxy.metrics.schema import LedgerMetrics, PoolMetrics, WorkerMetrics
from poolproxy.metrics.snapshot import WorkerSnapshot

Pool = tuple[str, str]  # database, user

# A pool is some 100 series, so this is 20 000: what one Prometheus target may reasonably be, and
# a reply of 2 MB, encoded in 0.3 s. A proxy with `*` for a database and
# users from auth_query can have any number of pools, and series are paid for long after. The
# first pools keep their names for good: were they ranked anew by traffic, counters would fall.
MAX_POOLS = 200

T = TypeVar("T")


@attrs.frozen
class Merged:
    """The sums to show. Shares nothing with the :class:`Totals` it was made by."""

    workers: tuple[WorkerMetrics, ...]
    pools: tuple[PoolMetrics, ...]
    ledger: tuple[LedgerMetrics, ...]


class Totals:
    """Reports of live workers and the sums of ended ones. ``slot`` is a worker's label, 0 to N-1."""

    def __init__(self, max_pools: int = MAX_POOLS) -> None:
        self._max_pools = max_pools
        self._live: dict[int, WorkerSnapshot] = {}
        self._ended_workers: dict[int, WorkerMetrics] = {}
        self._ended_pools: dict[Pool, PoolMetrics] = {}
        self._named: set[Pool] = set()

    def update(self, slot: int, snapshot: WorkerSnapshot) -> None:
        """Take in a report; it replaces the slot's last one."""
        last = self._live.get(slot)
        if last is not None:
            self._keep_what_ended(slot, last, snapshot)
        self._live[slot] = snapshot

    def retire(self, slot: int) -> None:
        """The worker is gone: keep its counts, forget its gauges. Harmless for an unknown slot."""
        last = self._live.pop(slot, None)
        if last is not None:
            self._end_worker(slot, last.worker)
            self._end_pools(last.pools)

    def merged(self, ledger: Iterable[LedgerMetrics] = ()) -> Merged:
        """Add everything up. ``ledger`` is shown under the same pool names as the counts."""
        workers = {slot: copied(row) for slot, row in self._ended_workers.items()}
        pools = {pool: copied(row) for pool, row in self._ended_pools.items()}
        limits: dict[Pool, LedgerMetrics] = {}
        for slot, snapshot in sorted(self._live.items()):
            add(workers.setdefault(slot, WorkerMetrics(slot)), snapshot.worker)
            self._add_pools(pools, snapshot.pools)
        for row in ledger:
            name = self.name_of(row.database, row.user)
            add(limits.setdefault(name, LedgerMetrics(*name)), row)
        return Merged(tuple(workers.values()), tuple(pools.values()), tuple(limits.values()))

    def name_of(self, database: str, user: str) -> Pool:
        """The label values under which a pool is shown: its own, or "other" when there are too many."""
        pool = printable(database), printable(user)
        if pool in self._named:
            return pool
        if len(self._named) >= self._max_pools:
            return OTHER, OTHER
        self._named.add(pool)
        return pool

    def _keep_what_ended(self, slot: int, last: WorkerSnapshot, now: WorkerSnapshot) -> None:
        if has_restarted(last.worker, now.worker):
            self._end_worker(slot, last.worker)
        present = {(pool.database, pool.user): pool for pool in now.pools}
        self._end_pools(
            pool
            for pool in last.pools
            if (new := present.get((pool.database, pool.user))) is None or has_restarted(pool, new)
        )

    def _end_worker(self, slot: int, row: WorkerMetrics) -> None:
        add(self._ended_workers.setdefault(slot, WorkerMetrics(slot)), row, gauges=False)

    def _end_pools(self, rows: Iterable[PoolMetrics]) -> None:
        self._add_pools(self._ended_pools, rows, gauges=False)

    def _add_pools(
        self, into: dict[Pool, PoolMetrics], rows: Iterable[PoolMetrics], *, gauges: bool = True
    ) -> None:
        for row in rows:
            name = self.name_of(row.database, row.user)
            add(into.setdefault(name, PoolMetrics(*name)), row, gauges=gauges)


def printable(name: str) -> str:
    """``name`` with what UTF-8 can't encode written as ``\\udc80``: a name's bytes may be any."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def add(into: T, row: T, *, gauges: bool = True) -> None:
    """Add the counts, and the gauges if asked for, of ``row`` to ``into``."""
    for metric in metrics_of(type(into)):
        if gauges or metric.kind is not Kind.GAUGE:
            summed = _add_value(metric, getattr(into, metric.field), getattr(row, metric.field))
            setattr(into, metric.field, summed)


def _add_value(metric: Metric, one: Any, two: Any) -> Any:
    if isinstance(one, list):
        return [a + b for a, b in zip(one, two, strict=True)]
    if isinstance(one, dict):
        return _add_labelled(one, two)
    return max(one, two) if metric.merge is Merge.MAX else one + two


def _add_labelled(into: dict[str, int], counts: dict[str, int]) -> dict[str, int]:
    for name, count in counts.items():
        known = name in into or len(into) < MAX_LABEL_VALUES
        label = name if known else OTHER
        into[label] = into.get(label, 0) + count
    return into


def has_restarted(last: T, now: T) -> bool:
    """Whether a count of ``now`` is below that of ``last``: it was started anew in between."""
    return any(
        _fell(getattr(last, metric.field), getattr(now, metric.field))
        for metric in metrics_of(type(last))
        if metric.kind is not Kind.GAUGE
    )


def _fell(last: Any, now: Any) -> bool:
    if isinstance(last, list):
        return any(b < a for a, b in zip(last, now, strict=True))
    if isinstance(last, dict):
        return any(now.get(name, 0) < count for name, count in last.items())
    return bool(now < last)
