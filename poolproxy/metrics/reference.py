"""Prints docs/metrics.md, the reference of all metrics: ``python -m poolproxy.metrics.reference``."""

from __future__ import annotations

from collections.abc import Iterator

from poolproxy.metrics.merge import MAX_POOLS
from poolproxy.metrics.registry import BOUNDS, MAX_LABEL_VALUES, Kind, Metric, labels_of, metrics_of
from poolproxy.metrics.schema import (
    CLASSES,
    LedgerMetrics,
    PoolMetrics,
    ProxyMetrics,
    WorkerMetrics,
)

TITLES: dict[type, tuple[str, str]] = {
    ProxyMetrics: ("The proxy", "Counted by the acceptor process."),
    WorkerMetrics: (
        "Workers",
        "`worker` is a slot, 0 to N-1. A worker started in the place of a dead one goes on with "
        "the counts of its slot.",
    ),
    LedgerMetrics: (
        "Limits of pools",
        "From the acceptor's ledger, which grants server connections over all workers.",
    ),
    PoolMetrics: ("Pools", "Summed over all workers, those that have ended included."),
}


def render() -> str:
    """The page as Markdown."""
    return "\n".join([*_head(), *(line for cls in CLASSES for line in _section(cls))]) + "\n"


def _head() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield "<!-- Made by `python -m poolproxy.metrics.reference`; edit the table in"
    yield "     poolproxy/metrics/schema.py instead. -->"
    yield ""
    yield "Served at `/metrics` on the addresses of `metrics_listen`, in Prometheus's text format or"
    yield "OpenMetrics, whichever the scraper asks for. One scrape covers all workers."
    yield ""
    yield "`/metrics/pgbouncer` has the names of pgbouncer_exporter instead, for dashboards and alerts made"
    yield "for that; see [migrating from PgBouncer](migrating-from-pgbouncer.md#metrics)."
    yield ""
    yield "* Counters never fall while the acceptor runs: what a worker had counted stays when it ends."
    yield "  Only what a killed worker counted after its last report is lost."
    yield f"* Histograms have the bounds {', '.join(f'{bound:g}' for bound in BOUNDS)} seconds."
    yield f"* At most {MAX_POOLS} pools have series of their own, the first ones seen; the others are"
    yield '  summed under `database="other", user="other"`. A label such as `reason` has at most'
    yield f'  {MAX_LABEL_VALUES} values, then "other".'
    yield "* What has not happened yet is shown as 0: the values that are listed, and where none are"
    yield '  listed "other".'
    yield "* Labels never carry what a peer that has not logged in can choose."


def _section(cls: type) -> Iterator[str]:
    title, text = TITLES[cls]
    labels = labels_of(cls)
    yield ""
    yield f"## {title}"
    yield ""
    yield text
    if labels:
        yield f"Labels of all: {', '.join(f'`{label}`' for label in labels)}."
    yield ""
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    for metric in metrics_of(cls):
        if metric.kind is not Kind.SUM:
            yield f"| `{metric.name}` | {metric.kind.value} | {_label(metric)} | {metric.doc} |"


def _label(metric: Metric) -> str:
    if not metric.label:
        return ""
    values = f": {', '.join(metric.values)}" if metric.values else ""
    return f"`{metric.label}`{values}"


if __name__ == "__main__":
    print(render(), end="")
