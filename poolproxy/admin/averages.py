"""The averages of SHOW STATS: what was counted in the last whole stats_period. Pure: times are arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from poolproxy.metrics.schema import PoolMetrics

Counts = Mapping[str, float]


@attrs.frozen
class Figure:
    """A number of SHOW STATS. ``field`` is the one of PoolMetrics; the others its names in the commands.

    ``per``: an average is not per second but per one of these: the mean time of what took time.
    """

    field: str
    total: str = ""
    average: str = ""
    listed: str = ""
    per: str = ""

    @property
    def in_total(self) -> str:
        return f"total_{self.total or self.field}"

    @property
    def in_average(self) -> str:
        return f"avg_{self.average or self.total or self.field}"

    @property
    def in_list(self) -> str:
        """Its name in SHOW TOTALS, behind total_ or avg_."""
        return self.listed or self.field


# The order is that of SHOW STATS.
FIGURES = (
    Figure("server_assignment_count"),
    Figure("xact_count"),
    Figure("query_count"),
    Figure("bytes_received", total="received", average="recv", listed="client_bytes"),
    Figure("bytes_sent", total="sent", listed="server_bytes"),
    Figure("xact_time", per="xact_count"),
    Figure("query_time", per="query_count"),
    Figure("wait_time", per="server_assignment_count"),
    Figure("client_parse_count", listed="ps_client_parse_count"),
    Figure("server_parse_count", listed="ps_server_parse_count"),
    Figure("bind_count", listed="ps_bind_count"),
    Figure("client_login_count"),
)
ZERO: Counts = {figure.field: 0 for figure in FIGURES}
TIMES = frozenset(figure.field for figure in FIGURES if figure.per)
_MICROSECONDS = 1_000_000


def by_database(pools: Iterable[PoolMetrics]) -> dict[str, Counts]:
    """The sums over the pools of each database; times in microseconds."""
    sums: dict[str, dict[str, float]] = {}
    for pool in pools:
        counts = sums.setdefault(pool.database, dict(ZERO))
        for figure in FIGURES:
            unit = _MICROSECONDS if figure.field in TIMES else 1
            counts[figure.field] += getattr(pool, figure.field) * unit
    return {name: {k: round(v) for k, v in counts.items()} for name, counts in sums.items()}


def summed(counts: Iterable[Counts]) -> Counts:
    """The sum over databases."""
    result = dict(ZERO)
    for one in counts:
        for name in result:
            result[name] += one[name]
    return result


class Averages:
    """Two samples of the counts, a stats_period apart."""

    def __init__(self, now: float) -> None:
        self._last: dict[str, Counts] = {}
        self._before: dict[str, Counts] = {}
        self._last_at = now
        self._seconds = 0.0

    def sample(self, counts: dict[str, Counts], now: float) -> None:
        """A period is over; these are the counts at its end."""
        self._before, self._last = self._last, counts
        self._seconds, self._last_at = now - self._last_at, now

    def of(self, database: str) -> Counts:
        """The averages of a database, per second or as mean times; zeros before the first period's end."""
        return self._averages(self._last.get(database, ZERO), self._before.get(database, ZERO))

    def of_all(self) -> Counts:
        """The averages over all databases."""
        return self._averages(summed(self._last.values()), summed(self._before.values()))

    def _averages(self, last: Counts, before: Counts) -> Counts:
        grown = {name: max(0, last[name] - before[name]) for name in ZERO}
        averages = {}
        for figure in FIGURES:
            divisor = grown[figure.per] if figure.per else self._seconds
            averages[figure.field] = grown[figure.field] / divisor if divisor else 0
        return {name: int(value) for name, value in averages.items()}


def stats_line(averages: Counts) -> str:
    """PgBouncer's line for the log, in which times are in microseconds."""
    a = averages
    return (
        f"stats: {a['xact_count']} xacts/s, {a['query_count']} queries/s, "
        f"{a['client_parse_count']} client parses/s, {a['server_parse_count']} server parses/s, "
        f"{a['bind_count']} binds/s, in {a['bytes_received']} B/s, out {a['bytes_sent']} B/s, "
        f"xact {a['xact_time']} us, query {a['query_time']} us, wait {a['wait_time']} us"
    )
