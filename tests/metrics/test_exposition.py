"""The text that a scraper reads, parsed back by Prometheus's own Python parsers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from poolproxy.metrics.exposition import Exposition, page
from poolproxy.metrics.merge import Totals
from poolproxy.metrics.registry import Kind, metrics_of
from poolproxy.metrics.schema import (
    CLASSES,
    LedgerMetrics,
    PoolMetrics,
    ProxyMetrics,
    WorkerMetrics,
)
from poolproxy.metrics.snapshot import WorkerSnapshot

from .rows import rows, snapshots

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
HOSTILE = [
    '"',
    "\\",
    "\n",
    '"} 1\nfake_total 9',
    "\\n",
    "\r\n",
    "a\x00b",
    "{}",
    "ü€😀",
    "\u2028",
    "",
]


def exposition(*pools, proxy=None, ledger=()):
    """What is shown when worker 0 has reported these pools."""
    totals = Totals()
    totals.update(0, WorkerSnapshot(WorkerMetrics(0), pools))
    return Exposition(proxy or ProxyMetrics(), totals.view(ledger))


def samples(collector, accept=""):
    """Every sample of the page: (name, labels) to value."""
    parse = parse_openmetrics if accept else parse_text
    text = page(collector, accept).body.decode()
    found = [
        (s.name, tuple(sorted(s.labels.items())), s.value) for f in parse(text) for s in f.samples
    ]
    assert len({(name, labels) for name, labels, _ in found}) == len(found)
    return {(name, labels): value for name, labels, value in found}


POOL = (("database", "shop"), ("user", "alice"))


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_counters_histograms_and_states_are_shown(accept):
    """Each kind of metric comes out in its form in both formats."""
    row = PoolMetrics("shop", "alice", xact_count=3, wait_time=0.75, clients={"waiting": 2})
    row.wait_hist[0] = 2
    row.wait_hist[3] = 1
    row.errors["query_wait_timeout"] += 4
    found = samples(exposition(row), accept)
    assert found["poolproxy_pool_transactions_total", POOL] == 3
    assert found["poolproxy_pool_clients", (POOL[0], ("state", "waiting"), POOL[1])] == 2
    assert (
        found["poolproxy_pool_errors_total", (POOL[0], ("reason", "query_wait_timeout"), POOL[1])]
        == 4
    )
    assert found["poolproxy_pool_wait_seconds_sum", POOL] == 0.75
    assert found["poolproxy_pool_wait_seconds_count", POOL] == 3
    bucket = "poolproxy_pool_wait_seconds_bucket"
    values = {
        le: found[bucket, (POOL[0], ("le", le), POOL[1])] for le in ("0.0001", "0.001", "+Inf")
    }
    assert values == {"0.0001": 2, "0.001": 3, "+Inf": 3}


def test_what_has_not_happened_yet_is_shown_as_zeros():
    """The first time shows as an increase: of the values that are known, and else there is "other"."""
    found = samples(exposition(PoolMetrics("shop", "alice", violations={"malformed": 2})))
    assert {
        dict(labels)["kind"]: value
        for (name, labels), value in found.items()
        if name == "poolproxy_pool_violations_total"
    } == {"unasked": 0, "unexpected": 0, "malformed": 2}
    errors = "poolproxy_pool_errors_total"
    assert found[errors, (POOL[0], ("reason", "other"), POOL[1])] == 0


def test_limits_infos_and_workers_are_shown():
    """What the acceptor itself knows stands beside what the workers report."""
    proxy = ProxyMetrics(build={"version": "0.1.0"}, max_client_conn=100)
    proxy.accepted["127.0.0.1:6432"] += 1
    found = samples(
        exposition(proxy=proxy, ledger=[LedgerMetrics("shop", "alice", pool_size=20)]), OPENMETRICS
    )
    assert found["poolproxy_build_info", (("version", "0.1.0"),)] == 1
    assert found["poolproxy_pool_size", POOL] == 20
    assert found["poolproxy_max_client_conn", ()] == 100
    assert found["poolproxy_accepted_connections_total", (("listener", "127.0.0.1:6432"),)] == 1
    assert found["poolproxy_worker_clients", (("worker", "0"),)] == 0


def test_every_metric_of_the_table_is_a_family_of_its_name_kind_and_doc():
    """Nothing in the table is left out and nothing else is shown."""
    shown = {family.name: family for family in exposition().collect()}
    table = [m for cls in CLASSES for m in metrics_of(cls) if m.kind is not Kind.SUM]
    assert len(shown) == len(table)
    for metric in table:
        family = shown[metric.name.removesuffix("_total").removesuffix("_info")]
        assert (family.type, family.documentation) == (metric.kind.value, metric.doc)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_inside_their_label(name, accept):
    """Quotes, newlines and backslashes in a database's name make no series but its own."""
    plain = samples(exposition(PoolMetrics("shop", "alice")), accept)
    found = samples(exposition(PoolMetrics(name, "alice")), accept)
    assert len(found) == len(plain)
    assert found["poolproxy_pool_queries_total", (("database", name), ("user", "alice"))] == 0


@settings(deadline=None)
@given(snapshots(st.text(st.characters(codec=None))), rows(ProxyMetrics))
def test_any_numbers_and_names_make_a_page_that_parses(snapshot, proxy):
    """Whatever is counted under whatever name, both formats are well-formed and agree."""
    totals = Totals()
    totals.update(0, snapshot)
    shown = Exposition(proxy, totals.view())
    assert samples(shown) == samples(shown, OPENMETRICS)


def test_a_reply_is_not_changed_by_counting_on():
    """The page shows the moment of the scrape, even if it is encoded later."""
    proxy = ProxyMetrics()
    shown = Exposition(proxy, Totals().view())
    proxy.refused += 1
    proxy.accepted["unix"] += 1
    found = samples(shown)
    assert found["poolproxy_refused_connections_total", ()] == 0
    assert ("poolproxy_accepted_connections_total", (("listener", "unix"),)) not in found


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/html", "text/plain; version=0.0.4"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=x", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=99", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-textual", "text/plain; version=0.0.4"),
        ("text/plain;version=1..", "text/plain; version=0.0.4"),
        (";;,=,version==", "text/plain; version=0.0.4"),
    ],
)
def test_the_accept_header_chooses_the_format(accept, expected):
    """OpenMetrics is for those who ask for it; nonsense gets the classic text, not an error."""
    assert page(exposition(), accept).content_type.startswith(expected)
