"""One worker's metrics as bytes, on their way to the acceptor.

The column names are sent once, then one row of values per pool: small, and a reader with a newer
or older table picks the columns that it knows (an upgraded acceptor reads the old workers until
they have left). Zeros at a histogram's end and zero counts are left out.
"""

from __future__ import annotations

from typing import Any, TypeVar

import attrs
import msgspec

from poolproxy.metrics.registry import BOUNDS, Kind, Metric, labels_in, metrics_of
from poolproxy.metrics.schema import PoolMetrics, WorkerMetrics

Value = int | float | list[int] | dict[str, int]
T = TypeVar("T")


@attrs.frozen
class WorkerSnapshot:
    """All that one worker has counted since it started, and its gauges now."""

    worker: WorkerMetrics
    pools: tuple[PoolMetrics, ...]


class _Wire(msgspec.Struct, array_like=True):
    worker_columns: list[str]
    worker: tuple[int, list[Value]]
    pool_columns: list[str]
    pools: list[tuple[str, str, list[Value]]]


def encode(snapshot: WorkerSnapshot) -> bytes:
    """The snapshot as bytes."""
    wire = _Wire(
        _columns(WorkerMetrics),
        (snapshot.worker.worker, _values(snapshot.worker)),
        _columns(PoolMetrics),
        [(*labels_in(pool), _values(pool)) for pool in snapshot.pools],
    )
    return msgspec.msgpack.encode(wire)


def decode(data: bytes) -> WorkerSnapshot:
    """The snapshot that :func:`encode` made; raises ``ValueError`` if ``data`` is anything else."""
    wire = msgspec.msgpack.decode(data, type=_Wire)
    slot, values = wire.worker
    worker = _row(WorkerMetrics(slot), wire.worker_columns, values)
    return WorkerSnapshot(
        worker,
        tuple(
            _row(PoolMetrics(database, user), wire.pool_columns, values)
            for database, user, values in wire.pools
        ),
    )


def _columns(cls: type) -> list[str]:
    return [metric.field for metric in metrics_of(cls)]


def _values(row: object) -> list[Value]:
    return [_sparse(getattr(row, metric.field)) for metric in metrics_of(type(row))]


def _sparse(value: Value) -> Value:
    if isinstance(value, list):
        used = next((i for i in range(len(value), 0, -1) if value[i - 1]), 0)
        return value[:used]
    if isinstance(value, dict):
        return {name: count for name, count in value.items() if count}
    return value or 0  # 0.0 would take nine bytes


def _row(row: T, columns: list[str], values: list[Value]) -> T:
    if len(columns) != len(values):
        raise ValueError(f"{len(values)} values for {len(columns)} columns")
    known: dict[str, Metric] = {metric.field: metric for metric in metrics_of(type(row))}
    for name, value in zip(columns, values, strict=True):
        if name in known:
            _fill(row, known[name], value)
    return row


def _fill(row: object, metric: Metric, value: Value) -> None:
    present: Any = getattr(row, metric.field)
    if isinstance(present, dict) and isinstance(value, dict):
        present.update(value)
    elif isinstance(present, list) and isinstance(value, list) and len(value) <= len(BOUNDS) + 1:
        present[: len(value)] = value
    elif metric.kind is not Kind.HISTOGRAM and not metric.label and isinstance(value, int | float):
        setattr(row, metric.field, value)
    else:
        raise ValueError(f"{metric.field} can't be {value!r}"[:200])
