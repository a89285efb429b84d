"""Prints grafana/dashboard.json: ``python -m poolproxy.metrics.grafana > grafana/dashboard.json``.

Metrics that name the same panel share it; the kind of a metric decides its query and the look of
its panel. The rules held to are those of https://github.com/grafana/dashboard-linter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import attrs

from poolproxy.metrics.registry import Kind, Merge, Metric, labels_of, metrics_of
from poolproxy.metrics.schema import (
    LedgerMetrics,
    PoolMetrics,
    ProxyMetrics,
    WorkerMetrics,
)

Json = dict[str, Any]

# What one looks at first comes first.
ROWS: tuple[tuple[str, type, bool], ...] = (
    ("Pools", PoolMetrics, False),
    ("Limits of pools", LedgerMetrics, False),
    ("The proxy", ProxyMetrics, False),
    ("Workers", WorkerMetrics, True),  # folded: read when something is wrong
)
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
# A label whose value alone tells nobody what it is.
_LEGENDS = {"worker": "worker {{worker}}"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@attrs.frozen
class Query:
    """One line of a panel: PromQL and the legend of its series."""

    expr: str
    legend: str


@attrs.frozen
class Panel:
    """A panel before it has a place: its metrics, all of one class."""

    title: str
    cls: type
    metrics: tuple[Metric, ...]


def render() -> str:
    """The dashboard as JSON."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def dashboard() -> Json:
    """The dashboard as Grafana's dashboard model (schema version 39, Grafana 10.4 and later)."""
    return {
        "annotations": {"list": []},
        "description": "PostgreSQL connection pooling by poolproxy.",
        "editable": False,
        "graphTooltip": 1,
        "links": [],
        "panels": _placed(),
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": ["postgresql", "poolproxy"],
        "templating": {"list": list(_variables())},
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "title": "poolproxy",
        "uid": "poolproxy",
        "version": 1,
    }


def _placed() -> list[Json]:
    placed: list[Json] = []
    y, number = 0, 1
    for title, cls, folded in ROWS:
        row = _row(title, number, y, folded)
        panels = []
        for place, panel in enumerate(panels_of(cls)):
            number += 1
            down, right = divmod(place, COLUMNS)
            grid = {"h": HEIGHT, "w": WIDTH, "x": right * WIDTH, "y": y + 1 + down * HEIGHT}
            panels.append(_panel(panel) | {"id": number, "gridPos": grid})
        placed.append(row | {"panels": panels} if folded else row)
        placed.extend([] if folded else panels)
        y += 1 + -(-len(panels) // COLUMNS) * HEIGHT
        number += 1
    return placed


def panels_of(cls: type) -> tuple[Panel, ...]:
    """The panels of one class in the order in which its metrics name them."""
    groups: dict[str, list[Metric]] = {}
    for metric in metrics_of(cls):
        if metric.kind is not Kind.SUM:
            groups.setdefault(metric.panel, []).append(metric)
    return tuple(Panel(title, cls, tuple(metrics)) for title, metrics in groups.items())


def _row(title: str, number: int, y: int, folded: bool) -> Json:
    return {
        "collapsed": folded,
        "gridPos": {"h": 1, "w": WIDTH * COLUMNS, "x": 0, "y": y},
        "id": number,
        "panels": [],
        "title": title,
        "type": "row",
    }


def _panel(panel: Panel) -> Json:
    first = panel.metrics[0]
    queries = [query for metric in panel.metrics for query in _queries(metric, panel)]
    return {
        "datasource": DATASOURCE,
        "description": "\n\n".join(f"`{m.name}`: {m.doc}" for m in panel.metrics),
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(first),
        "targets": [_target(query, chr(ord("A") + i), first) for i, query in enumerate(queries)],
        "title": panel.title,
        "type": _type(first),
    }


def _target(query: Query, ref: str, metric: Metric) -> Json:
    return {
        "datasource": DATASOURCE,
        "expr": query.expr,
        "instant": _type(metric) != "timeseries",
        "legendFormat": query.legend,
        "range": _type(metric) == "timeseries",
        "refId": ref,
    }


def _queries(metric: Metric, panel: Panel) -> Iterator[Query]:
    selector = _selector(panel.cls)
    if metric.kind is Kind.HISTOGRAM:
        rate = f"sum by (le) (rate({metric.name}_bucket{selector}[$__rate_interval]))"
        for legend, quantile in QUANTILES:
            yield Query(f"histogram_quantile({quantile}, {rate})", legend)
        return
    by = _series(metric, panel.cls)
    legend = " / ".join(_LEGENDS.get(label, f"{{{{{label}}}}}") for label in by)
    if len(panel.metrics) > 1:
        legend = f"{_short(metric)} {legend}"
    if metric.kind is Kind.INFO:
        yield Query(f"{metric.name}{selector}", legend)
    elif metric.kind is Kind.COUNTER:
        rate = f"rate({metric.name}{selector}[$__rate_interval])"
        yield Query(f"sum by ({', '.join(by)}) ({rate})", legend)
    else:
        yield Query(_gauge(metric, selector, by), legend)


def _gauge(metric: Metric, selector: str, by: tuple[str, ...]) -> str:
    how = "max" if metric.merge is Merge.MAX else "sum"
    expr = f"{how} by ({', '.join(by)}) ({metric.name}{selector})"
    return f"1000 * {expr}" if _is_date(metric) else expr  # Grafana's dates are milliseconds


def _selector(cls: type) -> str:
    matchers = ['job=~"$job"', 'instance=~"$instance"']
    if "database" in labels_of(cls):
        matchers.append('database=~"$database"')
    return "{" + ", ".join(matchers) + "}"


def _series(metric: Metric, cls: type) -> tuple[str, ...]:
    # States and reasons are summed over pools and workers: one stack that can be read, narrowed by $database.
    if metric.label:
        return (metric.label,)
    # Each instance has a worker 0: added up they would be no worker's.
    return ("instance", "worker") if cls is WorkerMetrics else labels_of(cls) or ("instance",)


def _short(metric: Metric) -> str:
    return metric.name.removeprefix("poolproxy_").removesuffix("_total").replace("_", " ")


def _is_date(metric: Metric) -> bool:
    return metric.unit == "seconds" and "time" in metric.name and metric.kind is Kind.GAUGE


def _type(metric: Metric) -> str:
    if metric.kind is Kind.INFO:
        return "table"
    return "stat" if _is_date(metric) else "timeseries"


def _unit(metric: Metric) -> str:
    if _is_date(metric):
        return "dateTimeAsIso"
    if metric.kind is Kind.COUNTER:
        return {"bytes": "Bps", "seconds": "percentunit"}.get(metric.unit, "cps")
    return {"seconds": "s", "bytes": "bytes"}.get(metric.unit, "short")


def _defaults(panel: Panel) -> Json:
    metric = panel.metrics[0]
    defaults: Json = {"unit": _unit(metric)}
    if _type(metric) == "timeseries":
        # Only the states of one thing add up to a whole.
        stacked = all(each.kind is Kind.GAUGE and each.label for each in panel.metrics)
        defaults["min"] = 0
        defaults["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 30 if stacked else 5,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        }
    return defaults


def _options(metric: Metric) -> Json:
    match _type(metric):
        case "timeseries":
            return {
                "legend": {"calcs": ["mean", "max"], "displayMode": "list", "placement": "bottom"},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case "stat":
            return {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"}
        case _:
            return {"showHeader": True}


def _variables() -> Iterator[Json]:
    yield {
        "current": {},
        "label": "Data source",
        "name": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "type": "datasource",
    }
    yield _variable("job", "Job", "poolproxy_build_info", "")
    yield _variable("instance", "Instance", "poolproxy_build_info", 'job=~"$job"')
    yield _variable(
        "database", "Database", "poolproxy_pool_size", 'job=~"$job", instance=~"$instance"'
    )


def _variable(name: str, label: str, metric: str, matchers: str) -> Json:
    query = f"label_values({metric}{{{matchers}}}, {name})"
    return {
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": DATASOURCE,
        "definition": query,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }


if __name__ == "__main__":
    print(render(), end="")
