"""The vocabulary of the metrics table: what a field of a metrics class may be.

A metrics class is a slotted, mutable attrs class. A field made by one of the helpers here is a
metric; a field without one (``database``, ``worker``) is a label of all the metrics of its class.
Values are plain ints, floats, lists and dicts, because they are changed once per query:
``stats.query_count += 1`` must cost what an attribute costs.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import attrs

PREFIX = "poolproxy_"

# One set of bounds for every time, so that a query's share of a transaction or the wait before it
# can be read off two histograms side by side. Seconds. From the 100 µs that a local query takes to
# the minute after which somebody has noticed; 1-2.5-5 steps where latency goals are set, wider
# above. Each bound is one series per pool and histogram: don't add one lightly.
BOUNDS = (
    0.0001, 0.00025, 0.0005,
    0.001, 0.0025, 0.005,
    0.01, 0.025, 0.05,
    0.1, 0.25, 0.5,
    1.0, 5.0, 15.0, 60.0,
)  # fmt: skip

# Label values come from our source, never from a peer, so the sets are small. The cap is for the
# mistake of one day letting a message text in: Prometheus would keep each as a series for weeks.
MAX_LABEL_VALUES = 40
OTHER = "other"

KEY = "metric"  # in the metadata of an attrs field


class Kind(enum.Enum):
    """What a field is to Prometheus. ``SUM`` is the sum of times that belongs to a histogram."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    SUM = "sum"


class Merge(enum.Enum):
    """How one gauge is made of those of several workers."""

    SUM = "sum"
    MAX = "max"


@attrs.frozen(kw_only=True)
class Metric:
    """One line of the table.

    ``name`` is the full Prometheus name (a counter's with ``_total``, an info's with ``_info``).
    ``label`` is set when the field is a dict of label value to number; ``values`` then lists
    the values if they are fixed; a page has zeros for these from the start, and else for "other". ``total``
    names the field that has a histogram's sum. ``panel`` is the dashboard panel that shows it; metrics with
    the same panel share it.
    """

    field: str = ""
    name: str
    kind: Kind
    doc: str
    unit: str = ""
    label: str = ""
    values: tuple[str, ...] = ()
    merge: Merge = Merge.SUM
    total: str = ""
    panel: str


def _field(metric: Metric, **how: Any) -> Any:
    return attrs.field(metadata={KEY: metric}, kw_only=True, **how)


def counter(name: str, doc: str, *, panel: str, unit: str = "") -> Any:
    """An int (or float seconds) that only grows. ``name`` goes without prefix and ``_total``."""
    full = f"{PREFIX}{name}_total"
    metric = Metric(name=full, kind=Kind.COUNTER, doc=doc, unit=unit, panel=panel)
    return _field(metric, default=0)


def labelled_counter(
    name: str, doc: str, *, panel: str, label: str, values: Sequence[str] = ()
) -> Any:
    """A dict of label value to int. A missing value counts as 0, so ``d[value] += 1`` always works."""
    full = f"{PREFIX}{name}_total"
    metric = Metric(
        name=full, kind=Kind.COUNTER, doc=doc, label=label, values=tuple(values), panel=panel
    )
    return _field(metric, factory=lambda: defaultdict(int))


def gauge(name: str, doc: str, *, panel: str, unit: str = "", merge: Merge = Merge.SUM) -> Any:
    """A number that goes up and down. Set it when a snapshot is taken: kept by += it drifts."""
    full = f"{PREFIX}{name}"
    metric = Metric(name=full, kind=Kind.GAUGE, doc=doc, unit=unit, merge=merge, panel=panel)
    return _field(metric, default=0)


def state_gauge(name: str, doc: str, *, panel: str, label: str, values: Sequence[str]) -> Any:
    """How many things are in each of a fixed set of states: a dict of state to int."""
    full = f"{PREFIX}{name}"
    metric = Metric(
        name=full, kind=Kind.GAUGE, doc=doc, label=label, values=tuple(values), panel=panel
    )
    return _field(metric, factory=lambda: defaultdict(int, dict.fromkeys(values, 0)))


def histogram(name: str, doc: str, *, panel: str, total: str) -> Any:
    """Counts of times per bucket of ``BOUNDS``, the last for all above; the sum is field ``total``.

    ``stats.wait_hist[bisect_left(BOUNDS, seconds)] += 1``: left, as Prometheus's ``le`` means ≤.
    """
    metric = Metric(
        name=PREFIX + name, kind=Kind.HISTOGRAM, doc=doc, unit="seconds", total=total, panel=panel
    )
    return _field(metric, factory=lambda: [0] * (len(BOUNDS) + 1))


def time_sum(doc: str) -> Any:
    """A float of seconds that only grows: the sum of a histogram, and SHOW STATS's total."""
    return _field(Metric(name="", kind=Kind.SUM, doc=doc, unit="seconds", panel=""), default=0.0)


def info(name: str, doc: str, *, panel: str) -> Any:
    """A dict of texts, shown as labels of a metric that is always 1."""
    full = f"{PREFIX}{name}_info"
    return _field(Metric(name=full, kind=Kind.INFO, doc=doc, panel=panel), factory=dict)


def metrics_of(cls: type) -> tuple[Metric, ...]:
    """The metrics of a class in the order of its fields, each with its field name filled in."""
    return _table(cls)


@cache
def _table(cls: type) -> tuple[Metric, ...]:
    return tuple(
        attrs.evolve(field.metadata[KEY], field=field.name)
        for field in attrs.fields(cls)
        if KEY in field.metadata
    )


def labels_of(cls: type) -> tuple[str, ...]:
    """The names of the labels that all metrics of the class carry."""
    return tuple(field.name for field in attrs.fields(cls) if KEY not in field.metadata)


def labels_in(row: object) -> tuple[Any, ...]:
    """The values of those labels in ``row``."""
    return tuple(getattr(row, name) for name in labels_of(type(row)))


T = TypeVar("T")


def copied(row: T) -> T:
    """A copy that shares nothing with ``row``: another thread may read it while ``row`` counts on."""
    values = {m.field: getattr(row, m.field) for m in metrics_of(type(row))}
    plain = {
        name: value.copy() if isinstance(value, (dict, list)) else value
        for name, value in values.items()
    }
    return type(row)(*labels_in(row), **plain)
