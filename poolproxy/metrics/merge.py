"""The totals over all workers, and why no counter ever falls.

Each worker counts from zero and reports absolute values. What a worker has counted stays in the
totals when it dies, when its successor starts at zero in the same slot, and when it drops a
pool. So ``Totals`` keeps two things: the last row of each pool of each live worker, and the sums of what
has ended.

Counts between a killed worker's last report and its death are lost: it died with them.

Adding up thousands of pools takes a good part of a second, so it is left to the thread that encodes the
page: it gets a :class:`View`.
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


@attrs.define(eq=False)
class _Live:
    """What a live worker has reported. Rows are replaced, never changed."""

    worker: WorkerMetrics
    pools: dict[Pool, PoolMetrics] = attrs.Factory(dict)


@attrs.frozen
class View:
    """The rows as they were at one moment; may be added up in another thread."""

    workers: tuple[WorkerMetrics, ...]
    pools: tuple[tuple[Pool, PoolMetrics], ...]
    ledger: tuple[tuple[Pool, LedgerMetrics], ...]

    def merged(self) -> Merged:
        """Add everything up; what is shown under one name is one row."""
        workers: dict[int, WorkerMetrics] = {}
        for row in self.workers:
            add(workers.setdefault(row.worker, WorkerMetrics(row.worker)), row)
        pools: dict[Pool, PoolMetrics] = {}
        for name, pool in self.pools:
            add(pools.setdefault(name, PoolMetrics(*name)), pool)
        limits: dict[Pool, LedgerMetrics] = {}
        for name, limit in self.ledger:
            add(limits.setdefault(name, LedgerMetrics(*name)), limit)
        ordered = tuple(workers[slot] for slot in sorted(workers))
        return Merged(ordered, tuple(pools.values()), tuple(limits.values()))


class Totals:
    """Reports of live workers and the sums of ended ones.

    A worker is named by a number that is never used again; the slot in its rows, 0 to N-1, is its label.
    """

    def __init__(self, max_pools: int = MAX_POOLS) -> None:
        self._max_pools = max_pools
        self._live: dict[int, _Live] = {}
        self._ended_workers: dict[int, WorkerMetrics] = {}
        self._ended_pools: dict[Pool, PoolMetrics] = {}
        self._named: set[Pool] = set()

    def update(self, worker: int, snapshot: WorkerSnapshot) -> list[Pool]:
        """Take in a report: what it has replaces what was, what it has not is as before.

        Returns the pools that no worker has any more.
        """
        live = self._live.setdefault(worker, _Live(snapshot.worker))
        live.worker = snapshot.worker
        for key in snapshot.dropped:
            ended = live.pools.pop(key, None)
            if ended is not None:
                self._end_pool(ended)
        for row in snapshot.pools:
            self.name_of(row.database, row.user)
            live.pools[row.database, row.user] = row
        if not snapshot.dropped:
            return []
        names = self.names()
        return [key for key in snapshot.dropped if key not in names]

    def retire(self, worker: int) -> None:
        """The worker is gone: keep its counts, forget its gauges. Harmless for an unknown one."""
        live = self._live.pop(worker, None)
        if live is not None:
            slot = live.worker.worker
            ended = self._ended_workers.setdefault(slot, WorkerMetrics(slot))
            add(ended, live.worker, gauges=False)
            for row in live.pools.values():
                self._end_pool(row)

    def view(self, ledger: Iterable[LedgerMetrics] = ()) -> View:
        """All that there is to show. ``ledger`` is shown under the same pool names as the counts."""
        workers = [copied(row) for row in self._ended_workers.values()]
        pools = [(name, copied(row)) for name, row in self._ended_pools.items()]
        for live in self._live.values():
            workers.append(live.worker)
            pools += [(self.name_of(*key), row) for key, row in live.pools.items()]
        limits = tuple((self.name_of(row.database, row.user), row) for row in ledger)
        return View(tuple(workers), tuple(pools), limits)

    def merged(self, ledger: Iterable[LedgerMetrics] = ()) -> Merged:
        """Add everything up, here and now."""
        return self.view(ledger).merged()

    def worker(self, worker: int) -> WorkerMetrics | None:
        """The last report of a live worker."""
        live = self._live.get(worker)
        return None if live is None else live.worker

    def names(self) -> frozenset[Pool]:
        """The pools that live workers have."""
        return frozenset(key for live in self._live.values() for key in live.pools)

    def rows(self) -> list[PoolMetrics]:
        """The rows of all pools, several for one pool, those of live workers all by their own names; for
        :func:`summed`, in whatever thread.
        """
        rows = [copied(row) for row in self._ended_pools.values()]
        for live in self._live.values():
            rows += live.pools.values()
        return rows

    def name_of(self, database: str, user: str) -> Pool:
        """The label values under which a pool is shown: its own, or "other" when there are too many."""
        pool = printable(database), printable(user)
        if pool in self._named:
            return pool
        if len(self._named) >= self._max_pools:
            return OTHER, OTHER
        self._named.add(pool)
        return pool

    def _end_pool(self, row: PoolMetrics) -> None:
        name = self.name_of(row.database, row.user)
        add(self._ended_pools.setdefault(name, PoolMetrics(*name)), row, gauges=False)


def summed(rows: Iterable[PoolMetrics]) -> tuple[PoolMetrics, ...]:
    """One row for each pool."""
    pools: dict[Pool, PoolMetrics] = {}
    for row in rows:
        name = printable(row.database), printable(row.user)
        add(pools.setdefault(name, PoolMetrics(*name)), row)
    return tuple(pools.values())


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
