"""What Prometheus gets of a proxy under load, against the console, dashboards and PgBouncer's exporter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.consoles import give, one
from tests.system.protocol_client import query
from tests.system.support import client, eventually, tables

ROOT = Path(__file__).parents[2]

STATS = {
    "queries_pooled_total",
    "queries_duration_seconds_total",
    "received_bytes_total",
    "sent_bytes_total",
    "client_wait_seconds_total",
    "sql_transactions_pooled_total",
    "server_in_transaction_seconds_total",
}
# The names, types and labels of prometheus-community/pgbouncer_exporter: collector.go. It has stats_totals_
# since 0.11, and stats_ before. (Its stats_queries_total has no column in PgBouncer 1.8 and later.)
DATABASE_LABELS = {"name", "host", "port", "database", "force_user", "pool_mode"}
EXPORTED: dict[str, tuple[str, set[str]]] = {
    **{
        f"pgbouncer_{name}": ("gauge", set())
        for name in (
            *("up", "databases", "users", "pools", "free_clients", "used_clients", "login_clients"),
            *("free_servers", "used_servers", "cached_dns_names", "cached_dns_zones"),
            *("in_flight_dns_queries", "config_max_client_connections"),
            "config_max_user_connections",
        )
    },
    "pgbouncer_version_info": ("gauge", {"version"}),
    **{
        f"pgbouncer_databases_{name}": ("gauge", DATABASE_LABELS)
        for name in (
            *("pool_size", "reserve_pool", "max_connections", "current_connections"),
            *("paused", "disabled"),
        )
    },
    **{
        f"pgbouncer_stats_totals_{name}": ("counter", {"database"})
        for name in STATS | {"client_parses_total", "server_parses_total", "binds_total"}
    },
    **{f"pgbouncer_stats_{name}": ("counter", {"database"}) for name in STATS},
    **{
        f"pgbouncer_pools_{name}": ("gauge", {"database", "user"})
        for name in (
            *("client_active_connections", "client_active_cancel_connections"),
            *("client_waiting_connections", "client_waiting_cancel_connections"),
            *("server_active_connections", "server_active_cancel_connections"),
            *("server_being_canceled_connections", "server_idle_connections"),
            *("server_used_connections", "server_testing_connections"),
            *("server_login_connections", "client_maxwait_seconds"),
        )
    },
}


@pytest.fixture(scope="module")
def proxy(one_postgres: PostgresServer, start_module_proxy: StartProxy) -> ProxyProcess:
    """Two workers that have seen prepared statements, an error and a cancel request."""
    proxy = start_module_proxy(
        tables(
            one_postgres,
            {"shop": {"pool_size": 2, "reserve_pool_size": 1}, "quiet": {}},
            {"boss": {}},
            workers=2,
            pool_mode="transaction",
            admin_users=["boss"],
            max_client_conn=60,
            max_user_connections=9,
            reserve_pool_timeout=60,
        )
    )
    for _ in range(4):
        _use(proxy, one_postgres)
    return proxy


def _use(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    url = proxy.url(user=postgres.user, password=postgres.password, database="shop")
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        for number in range(5):
            connection.execute("select %s::int", [number])
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("select 1 / 0")
        connection.cancel_safe()


@pytest.fixture
def crowd(proxy: ProxyProcess) -> Iterator[None]:
    """Two clients in a transaction, one that waits and three idle ones."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client(proxy, "shop")) for _ in range(6)]
        for busy in clients[:2]:
            busy.query("begin")
        clients[2].send(query("select 3"))
        eventually(lambda: _pool(proxy)["cl_waiting"] == 1, "one client waits")
        yield
        for busy in clients[:2]:
            busy.query("commit")
        clients[2].results()


def _pool(proxy: ProxyProcess) -> dict[str, Any]:
    return one(give(proxy, "show pools"), database="shop")


def families(proxy: ProxyProcess, path: str) -> dict[str, Metric]:
    """What a page has, by the names that its samples have."""
    status, text = proxy.get(path)
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family
    return found


def value(family: Metric, **labels: str) -> float:
    """That of the one sample with these labels."""
    (found,) = [s.value for s in family.samples if labels.items() <= s.labels.items()]
    return found


def test_the_exporters_names_types_and_labels(proxy: ProxyProcess) -> None:
    """What dashboards and alerts for PgBouncer's exporter ask for is there, and nothing else."""
    found = families(proxy, "/metrics/pgbouncer")
    shapes = {name: (f.type, set(f.samples[0].labels)) for name, f in found.items()}
    assert shapes == EXPORTED
    assert all(family.documentation for family in found.values())


@pytest.mark.usefixtures("crowd")
def test_the_exporters_pools_and_databases_are_the_consoles(proxy: ProxyProcess) -> None:
    """With clients in every state on two workers; and NULL is an empty label."""
    found = families(proxy, "/metrics/pgbouncer")
    pool = _pool(proxy)
    assert (pool["cl_active"], pool["sv_active"]) == (5, 2)
    for column, name in {
        "cl_active": "client_active_connections",
        "cl_waiting": "client_waiting_connections",
        "sv_active": "server_active_connections",
        "sv_idle": "server_idle_connections",
    }.items():
        family = found[f"pgbouncer_pools_{name}"]
        assert value(family, database="shop", user="postgres") == pool[column]
    for row in give(proxy, "show databases"):
        labels = {name: str(row[name] or "") for name in DATABASE_LABELS}
        for column, name in {
            "pool_size": "pool_size",
            "reserve_pool_size": "reserve_pool",
            "current_connections": "current_connections",
        }.items():
            assert value(found[f"pgbouncer_databases_{name}"], **labels) == row[column]


def test_the_exporters_counts_and_times_are_the_consoles(proxy: ProxyProcess) -> None:
    """Once all is quiet; the console's microseconds are seconds here."""
    found = families(proxy, "/metrics/pgbouncer")
    row = one(give(proxy, "show stats_totals"), database="shop")
    assert row["query_count"] >= 4 * 6
    assert row["client_parse_count"] > 0
    for column, (name, unit) in {
        "query_count": ("queries_pooled_total", 1),
        "xact_count": ("sql_transactions_pooled_total", 1),
        "bytes_sent": ("sent_bytes_total", 1),
        "query_time": ("queries_duration_seconds_total", 1_000_000),
        "xact_time": ("server_in_transaction_seconds_total", 1_000_000),
        "wait_time": ("client_wait_seconds_total", 1_000_000),
    }.items():
        expected = pytest.approx(float(row[column]) / unit)
        assert value(found[f"pgbouncer_stats_totals_{name}"], database="shop") == expected
        assert value(found[f"pgbouncer_stats_{name}"], database="shop") == expected
    parses = found["pgbouncer_stats_totals_client_parses_total"]
    assert value(parses, database="shop") == row["client_parse_count"]


def test_the_exporters_lists_and_settings(proxy: ProxyProcess) -> None:
    """Those of SHOW LISTS, SHOW CONFIG and SHOW VERSION."""
    found = families(proxy, "/metrics/pgbouncer")
    lists = {row["list"]: row["items"] for row in give(proxy, "show lists")}
    for name in ("databases", "users", "pools", "used_servers"):
        assert value(found[f"pgbouncer_{name}"]) == lists[name]
    assert value(found["pgbouncer_config_max_client_connections"]) == 60
    assert value(found["pgbouncer_config_max_user_connections"]) == 9
    (version,) = give(proxy, "show version")
    assert value(found["pgbouncer_version_info"], **version) == 1
    assert value(found["pgbouncer_up"]) == 1


def _panels() -> Iterator[tuple[str, str]]:
    """The titles of panels and the names of metrics that they ask for."""
    top = json.loads((ROOT / "grafana" / "dashboard.json").read_text())["panels"]
    for panel in [*top, *(inner for row in top for inner in row.get("panels", ()))]:
        for target in panel.get("targets", ()):
            for name in re.findall(r"poolproxy_\w+", target["expr"]):
                yield panel["title"], name


def test_every_panel_of_the_dashboard_has_data(proxy: ProxyProcess) -> None:
    """After an ordinary start and a little load each metric has a sample, what has not happened yet zeros."""
    samples = {s.name for family in families(proxy, "/metrics").values() for s in family.samples}
    empty = {(title, name) for title, name in _panels() if name not in samples}
    assert not empty
