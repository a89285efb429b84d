"""The metrics as Prometheus families and as the text that a scraper reads.

All is derived from the table; prometheus_client does the two text formats and their escaping.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

import attrs
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from poolproxy.metrics.merge import View, printable
from poolproxy.metrics.registry import (
    BOUNDS,
    OTHER,
    Kind,
    Metric,
    copied,
    labels_in,
    labels_of,
    metrics_of,
)
from poolproxy.metrics.schema import LedgerMetrics, PoolMetrics, ProxyMetrics, WorkerMetrics

_OPENMETRICS = "application/openmetrics-text"
_LE = (*(str(bound) for bound in BOUNDS), "+Inf")


class Exposition(Collector):
    """One scrape's numbers. Shares nothing that changes, so a thread may add it up and encode it while the
    acceptor counts on.
    """

    def __init__(self, proxy: ProxyMetrics, view: View) -> None:
        self._proxy = copied(proxy)
        self._view = view

    def collect(self) -> Iterator[Family]:
        """All families, each once."""
        merged = self._view.merged()
        yield from families(ProxyMetrics, (self._proxy,))
        yield from families(WorkerMetrics, merged.workers)
        yield from families(LedgerMetrics, merged.ledger)
        yield from families(PoolMetrics, merged.pools)


@attrs.frozen
class Page:
    """A reply to a scraper."""

    content_type: str
    body: bytes


def page(collector: Collector, accept: str) -> Page:
    """Encode for an Accept header: OpenMetrics if it names that, else the classic text format."""
    types = {choice.partition(";")[0].strip() for choice in accept.split(",")}
    # choose_encoder gets a header of ours: it raises on versions that are no numbers, and echoes
    # what it can't do ("version=99") as if it had done it.
    encoder, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in types else "")
    return Page(content_type, encoder(collector))


def families(cls: type, rows: Iterable[object]) -> Iterator[Family]:
    """The families of one metrics class with a sample, or several, for each row."""
    rows = tuple(rows)
    for metric in metrics_of(cls):
        if metric.kind is not Kind.SUM:
            family = _family(metric, labels_of(cls))
            for row in rows:
                _add(family, metric, row)
            yield family


def _family(metric: Metric, labels: tuple[str, ...]) -> Family:
    names = (*labels, metric.label) if metric.label else labels
    match metric.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.doc, labels=names, unit=metric.unit)
        case Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.doc, labels=names, unit=metric.unit)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(metric.name, metric.doc, labels=names, unit=metric.unit)
        case _:
            return InfoMetricFamily(metric.name.removesuffix("_info"), metric.doc, labels=names)


def _add(family: Any, metric: Metric, row: object) -> None:
    labels = tuple(str(value) for value in labels_in(row))
    value = getattr(row, metric.field)
    match metric.kind:
        case Kind.HISTOGRAM:
            counts = tuple(zip(_LE, accumulate(value), strict=True))
            family.add_metric(labels, counts, getattr(row, metric.total))
        case Kind.INFO:
            family.add_metric(labels, {key: printable(text) for key, text in value.items()})
        case _ if metric.label:
            # With zeros for what has not happened yet: else rate() and increase() miss the first time that
            # it does, and a panel has no data on a good day.
            for name, count in (dict.fromkeys(metric.values or (OTHER,), 0) | value).items():
                family.add_metric((*labels, printable(name)), count)
        case _:
            family.add_metric(labels, value)
