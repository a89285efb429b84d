"""SHOW STATS and its variants: what was counted, and its averages, derived from the table of figures."""

from __future__ import annotations

from collections.abc import Iterator

from poolproxy.admin.averages import FIGURES, Figure, by_database, summed
from poolproxy.admin.column import Column, Row, Type, text_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import View
from poolproxy.metrics.registry import metrics_of
from poolproxy.metrics.schema import PoolMetrics

_DOCS = {metric.field: metric.doc.rstrip(".") for metric in metrics_of(PoolMetrics)}
_DATABASE = Column("database", Type.TEXT, "The database.")
# In SHOW STATS_AVERAGES some have the names that they have in SHOW STATS.
_PREFIXED = 4


def _total(figure: Figure, name: str) -> Column:
    unit = ", in microseconds" if figure.per else ""
    return Column(name, Type.NUMERIC, f"{_DOCS[figure.field]}{unit}; since the start.")


def _average(figure: Figure, name: str) -> Column:
    if figure.per:
        doc = f"{_DOCS[figure.field]}: the mean in microseconds over the last stats_period."
    else:
        doc = f"{_DOCS[figure.field]}: per second, over the last stats_period."
    return Column(name, Type.NUMERIC, doc)


def _stats(view: View) -> Iterator[Row]:
    for database, counts in sorted(by_database(view.pools).items()):
        averages = view.averages.of(database)
        values = [counts[f.field] for f in FIGURES] + [averages[f.field] for f in FIGURES]
        yield (database, *(text_of(value) for value in values))


def _totals(view: View) -> Iterator[Row]:
    for database, counts in sorted(by_database(view.pools).items()):
        yield (database, *(text_of(counts[f.field]) for f in FIGURES))


def _averages(view: View) -> Iterator[Row]:
    for database in sorted(by_database(view.pools)):
        averages = view.averages.of(database)
        yield (database, *(text_of(averages[f.field]) for f in FIGURES))


def _sums(view: View) -> Iterator[Row]:
    counts, averages = summed(by_database(view.pools).values()), view.averages.of_all()
    for prefix, values in (("total", counts), ("avg", averages)):
        for figure in FIGURES:
            yield f"{prefix}_{figure.in_list}", text_of(values[figure.field])


STATS = Show(
    "STATS",
    (
        _DATABASE,
        *(_total(f, f.in_total) for f in FIGURES),
        *(_average(f, f.in_average) for f in FIGURES),
    ),
    "What was counted for each database that has a pool, and the averages of the last stats_period. The row"
    " of database pgbouncer is this console's.",
    _stats,
)
STATS_TOTALS = Show(
    "STATS_TOTALS",
    (_DATABASE, *(_total(f, f.field) for f in FIGURES)),
    "The totals of SHOW STATS.",
    _totals,
)
STATS_AVERAGES = Show(
    "STATS_AVERAGES",
    (
        _DATABASE,
        *(_average(f, f.field) for f in FIGURES[:-_PREFIXED]),
        *(_average(f, f.in_average) for f in FIGURES[-_PREFIXED:]),
    ),
    "The averages of SHOW STATS.",
    _averages,
)
TOTALS = Show(
    "TOTALS",
    (
        Column("name", Type.TEXT, "total_ or avg_, and what is counted."),
        Column("value", Type.NUMERIC, "The sum over all databases."),
    ),
    "The same over all databases.",
    _sums,
)
