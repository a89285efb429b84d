"""Random rows of any metrics class, derived from the table as everything else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from poolproxy.metrics.registry import BOUNDS, Kind, Metric, metrics_of
from poolproxy.metrics.schema import PoolMetrics, WorkerMetrics
from poolproxy.metrics.snapshot import WorkerSnapshot

counts = st.integers(0, 2**53)
words = st.sampled_from(["idle", "timeout", "login", "auth", "eof"])


def value_of(metric: Metric) -> st.SearchStrategy[Any]:
    """Values that the field of ``metric`` may have."""
    if metric.kind is Kind.HISTOGRAM:
        return st.lists(counts, min_size=len(BOUNDS) + 1, max_size=len(BOUNDS) + 1)
    if metric.kind is Kind.INFO:
        return st.dictionaries(words, st.text())
    if metric.label:
        return st.dictionaries(st.sampled_from(metric.values) if metric.values else words, counts)
    if metric.unit == "seconds":
        return st.floats(0, 1e9)
    return counts


def rows(cls: type, *labels: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Rows of ``cls`` with any values."""
    fields = {metric.field: value_of(metric) for metric in metrics_of(cls)}
    return st.builds(cls, *labels, **fields)


def snapshots(names: st.SearchStrategy[str]) -> st.SearchStrategy[WorkerSnapshot]:
    """Snapshots of one worker with a few pools, each once."""
    pools = st.lists(
        rows(PoolMetrics, names, names), max_size=3, unique_by=lambda row: (row.database, row.user)
    )
    build: Callable[..., WorkerSnapshot] = lambda worker, found: WorkerSnapshot(  # noqa: E731
        worker, tuple(found)
    )
    return st.builds(build, rows(WorkerMetrics, st.integers(0, 63)), pools)


def as_dict(row: object) -> dict[str, Any]:
    """The metrics of a row, zero counts of labels left out."""
    values = {metric.field: getattr(row, metric.field) for metric in metrics_of(type(row))}
    return {
        name: {k: v for k, v in value.items() if v} if isinstance(value, dict) else value
        for name, value in values.items()
    }
