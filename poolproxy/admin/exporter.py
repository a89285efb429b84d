"""What the console shows, under the names of pgbouncer_exporter: for dashboards and alerts made for that.

The exporter (https://github.com/prometheus-community/pgbouncer_exporter) asks PgBouncer's console, and gives
columns and keys of the answers names of its own. Here are those names; values, labels and texts come from the
SHOW commands, so both always say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from poolproxy.admin.averages import TIMES
from poolproxy.admin.column import Row
from poolproxy.admin.command import Show
from poolproxy.admin.shows.config import CONFIG
from poolproxy.admin.shows.databases import DATABASES
from poolproxy.admin.shows.lists import LISTS
from poolproxy.admin.shows.pools import POOLS
from poolproxy.admin.shows.stats import STATS_TOTALS
from poolproxy.admin.view import View
from poolproxy.metrics.merge import printable

PREFIX = "pgbouncer_"
_MICROSECOND = 1e-6


@attrs.frozen
class Columns:
    """A SHOW with a row for each thing: ``labels`` name it, and each column of ``names`` is a metric."""

    show: Show
    prefix: str
    labels: tuple[str, ...]
    names: Mapping[str, str]
    counters: bool = False

    def families(self, view: View) -> Iterator[Family]:
        """A family for each column, with a sample for each row."""
        rows = _rows(self.show, view)
        place = {column.name: number for number, column in enumerate(self.show.columns)}
        labels = [[_label(row[place[name]]) for name in self.labels] for row in rows]
        for name in self.names:
            family, scale = self._family(name), _scale(name)
            for row, label in zip(rows, labels, strict=True):
                family.add_metric(label, float(row[place[name]] or 0) * scale)
            yield family

    def _family(self, column: str) -> CounterMetricFamily | GaugeMetricFamily:
        (doc,) = [one.doc for one in self.show.columns if one.name == column]
        if column in TIMES:
            doc = doc.replace("microseconds", "seconds")
        kind = CounterMetricFamily if self.counters else GaugeMetricFamily
        return kind(f"{PREFIX}{self.prefix}{self.names[column]}", doc, labels=self.labels)


@attrs.frozen
class Keys:
    """A SHOW of keys and values: each key of ``names`` is a metric."""

    show: Show
    names: Mapping[str, str]

    def families(self, view: View) -> Iterator[Family]:
        """A family for each key, with one sample."""
        values = {str(row[0]): row[1] for row in _rows(self.show, view)}
        for key, name in self.names.items():
            doc = f"{key}, as SHOW {self.show.name} has it."
            yield GaugeMetricFamily(f"{PREFIX}{name}", doc, value=float(values[key] or 0))


_TOTALS = {
    "query_count": "queries_pooled_total",
    "query_time": "queries_duration_seconds_total",
    "bytes_received": "received_bytes_total",
    "bytes_sent": "sent_bytes_total",
    "wait_time": "client_wait_seconds_total",
    "xact_count": "sql_transactions_pooled_total",
    "xact_time": "server_in_transaction_seconds_total",
}
_PREPARED = {
    "client_parse_count": "client_parses_total",
    "server_parse_count": "server_parses_total",
    "bind_count": "binds_total",
}
TABLES: tuple[Columns | Keys, ...] = (
    Keys(
        LISTS,
        {
            "databases": "databases",
            "users": "users",
            "pools": "pools",
            "free_clients": "free_clients",
            "used_clients": "used_clients",
            "login_clients": "login_clients",
            "free_servers": "free_servers",
            "used_servers": "used_servers",
            "dns_names": "cached_dns_names",
            "dns_zones": "cached_dns_zones",
            "dns_queries": "in_flight_dns_queries",
        },
    ),
    Keys(
        CONFIG,
        {
            "max_client_conn": "config_max_client_connections",
            "max_user_connections": "config_max_user_connections",
        },
    ),
    Columns(
        DATABASES,
        "databases_",
        ("name", "host", "port", "database", "force_user", "pool_mode"),
        {
            "pool_size": "pool_size",
            "reserve_pool_size": "reserve_pool",  # the column's name before PgBouncer 1.24
            "max_connections": "max_connections",
            "current_connections": "current_connections",
            "paused": "paused",
            "disabled": "disabled",
        },
    ),
    # The newer exporters ask for STATS_TOTALS and name it; the older ones ask for STATS. Dashboards of both
    # are in use.
    Columns(STATS_TOTALS, "stats_totals_", ("database",), _TOTALS | _PREPARED, counters=True),
    Columns(STATS_TOTALS, "stats_", ("database",), _TOTALS, counters=True),
    Columns(
        POOLS,
        "pools_",
        ("database", "user"),
        {
            "cl_active": "client_active_connections",
            "cl_active_cancel_req": "client_active_cancel_connections",
            "cl_waiting": "client_waiting_connections",
            "cl_waiting_cancel_req": "client_waiting_cancel_connections",
            "sv_active": "server_active_connections",
            "sv_active_cancel": "server_active_cancel_connections",
            "sv_being_canceled": "server_being_canceled_connections",
            "sv_idle": "server_idle_connections",
            "sv_used": "server_used_connections",
            "sv_tested": "server_testing_connections",
            "sv_login": "server_login_connections",
            "maxwait": "client_maxwait_seconds",
        },
    ),
)


@attrs.frozen(eq=False)
class Exporter(Collector):
    """One scrape's numbers. A thread may encode them."""

    view: View

    def collect(self) -> Iterable[Family]:
        """All families, each once."""
        for table in TABLES:
            yield from table.families(self.view)
        version = {"version": self.view.version}
        yield InfoMetricFamily(f"{PREFIX}version", "The version, as SHOW VERSION has it.", version)
        up = any(worker.state == "ready" for worker in self.view.workers)
        yield GaugeMetricFamily(f"{PREFIX}up", "1 if a worker is ready for clients.", float(up))


def _rows(show: Show, view: View) -> list[Row]:
    assert show.rows is not None
    return list(show.rows(view))


def _label(text: str | None) -> str:
    return printable(text or "")


def _scale(column: str) -> float:
    return _MICROSECOND if column in TIMES else 1.0
