"""What is measured: one class for each kind of run, one field for each figure.

The report is made from the metadata of the fields: a figure is added here and where it is
measured, nowhere else.
"""

from __future__ import annotations

from typing import Any

import attrs

_KEY = "figure"


@attrs.frozen
class Goal:
    """What poolproxy is held to in the cells marked as acceptance.

    ``limit`` is for the ratio to PgBouncer, or with ``absolute`` for the figure itself.
    """

    limit: float
    at_most: bool
    absolute: bool = False

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{sign} {self.limit:g}" if self.absolute else f"{sign} {self.limit:g} × PgBouncer"


@attrs.frozen
class Figure:
    """How a field is shown; ``digits`` are those behind the point."""

    title: str
    digits: int
    goal: Goal | None = None


def _figure(title: str, digits: int, goal: Goal | None = None) -> Any:
    return attrs.field(metadata={_KEY: Figure(title, digits, goal)})


@attrs.frozen
class Transactions:
    """One run of pgbench; a figure is None where the target has no process of its own."""

    tps: float = _figure("Transactions per second", 0, Goal(0.85, at_most=False))
    cpu_us: float | None = _figure(
        "CPU of the pooler per transaction, µs", 1, Goal(1.4, at_most=True)
    )
    p50_ms: float = _figure("Latency, median, ms", 3)
    p99_ms: float = _figure("Latency, 99th percentile, ms", 3)


@attrs.frozen
class Transfer:
    """One stream of large results."""

    mb_per_s: float = _figure("Large results, MB/s", 0, Goal(0.95, at_most=False))
    cpu_ms: float | None = _figure("CPU of the pooler per MB, ms", 2)


@attrs.frozen
class Memory:
    """Many clients that have logged in and do nothing."""

    client_bytes: float = _figure(
        "Memory per idle client, bytes (PSS)", 0, Goal(6000, at_most=True, absolute=True)
    )
    base_mb: float = _figure("Memory before they came, MB (PSS)", 1)
    logins: float = _figure("Log-ins per second while they came", 0)


@attrs.frozen
class Sharing:
    """200 clients on a small pool, unevenly spread over several processes, beside one process."""

    tps: float = _figure("Transactions per second, spread over processes", 0)
    tps_ratio: float = _figure(
        "Transactions per second, as a part of one process's", 2, Goal(0.9, False, absolute=True)
    )
    p99_ms: float = _figure("Latency with the wait, 99th percentile, spread, ms", 1)
    p99_ratio: float = _figure(
        "The same latency, as a multiple of one process's", 2, Goal(1.5, True, absolute=True)
    )
    least: float = _figure(
        "Transactions of the least-served client, as a part of the median client's",
        2,
        Goal(0.8, False, absolute=True),
    )


Sample = Transactions | Transfer | Memory | Sharing


def figures(kind: type[Sample]) -> list[tuple[str, Figure]]:
    """The figures of a kind of run by name, in the order of the report."""
    return [(field.name, field.metadata[_KEY]) for field in attrs.fields(kind)]
