"""/metrics says what has happened, and /healthz and /readyz how the proxy is."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from signal import SIGTERM

import psycopg
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import SYNC, ErrorAnswer, query, run
from tests.system.support import client, eventually, sample, tables


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Two workers; each test has a database of its own."""
    sizes = {"counted": 3, "states": 2, "closed": 2, "single": 5, "errors": 1}
    databases = {
        name: {"pool_mode": "transaction", "pool_size": size} for name, size in sizes.items()
    }
    return start_module_proxy(
        tables(postgres, databases, workers=2, max_client_conn=77, reserve_pool_size=1)
    )


def get(proxy: ProxyProcess, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, content type and body."""
    address = f"http://{proxy.host}:{proxy.metrics_port}{path}"
    request = urllib.request.Request(address, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_counts_agree_with_what_was_done(proxy: ProxyProcess) -> None:
    """Log-ins, queries, transactions, assignments and bytes, over both workers."""

    def count(name: str) -> float:
        return sample(proxy, f"poolproxy_pool_{name}", database="counted")

    for _ in range(4):
        with client(proxy, "counted") as one:
            for _ in range(5):
                one.query("select 1")
            one.query("begin")
            one.query("select repeat('x', 1000)")
            one.query("commit")
            one.send(run("select 2"), SYNC)
            one.results()
    eventually(lambda: count("client_disconnects_total") == 4, "all clients are gone")
    assert count("client_logins_total") == 4
    assert count("transactions_total") == 4 * 7
    assert count("queries_total") == 4 * 9
    assert count("server_assignments_total") == 4 * 7
    assert count("wait_seconds_count") == 4 * 7
    assert count("query_seconds_count") == 4 * 9
    assert count("transaction_seconds_count") == 4 * 7
    assert count("client_sent_bytes_total") > 4 * 1000
    assert count("client_received_bytes_total") > 4 * 9 * 10
    assert count("server_connect_seconds_count") >= 1


def test_times(proxy: ProxyProcess) -> None:
    """The histograms of query and transaction time grow by what was slept."""

    def seconds(name: str) -> float:
        return sample(proxy, f"poolproxy_pool_{name}_seconds_sum", database="counted")

    before = seconds("query"), seconds("transaction")
    with client(proxy, "counted") as one:
        one.query("begin")
        one.query("select pg_sleep(0.2)")
        one.query("commit")
    eventually(lambda: seconds("transaction") > before[1], "the transaction is counted")
    assert 0.2 <= seconds("query") - before[0] < 1
    assert 0.2 <= seconds("transaction") - before[1] < 1


def test_states(proxy: ProxyProcess) -> None:
    """Clients and servers by state, at one moment."""

    def clients(state: str) -> float:
        return sample(proxy, "poolproxy_pool_clients", database="states", state=state)

    def servers(state: str) -> float:
        return sample(proxy, "poolproxy_pool_servers", database="states", state=state)

    with (
        client(proxy, "states") as one,
        client(proxy, "states") as two,
        client(proxy, "states") as three,
        client(proxy, "states"),
    ):
        one.query("begin")
        two.query("begin")
        three.send(query("select 3"))
        eventually(lambda: clients("waiting") == 1, "one client waits")
        assert (clients("active"), clients("idle")) == (2, 1)
        assert (servers("active"), servers("idle")) == (2, 0)
        assert sample(proxy, "poolproxy_pool_max_wait_seconds", database="states") > 0
        assert sample(proxy, "poolproxy_pool_waiting_clients", database="states") == 1
        one.query("commit")
        assert three.results() == [("3",)]
        two.query("commit")
        eventually(lambda: clients("idle") == 4, "all are idle")
        assert sample(proxy, "poolproxy_clients") == 4
    eventually(lambda: sample(proxy, "poolproxy_clients") == 0, "all are gone")


def test_one_client_opens_one_server(proxy: ProxyProcess) -> None:
    """A log-in that had to wait for the first server makes do with it."""
    with client(proxy, "single") as one:
        for _ in range(20):
            one.query("select 1")
        assert sample(proxy, "poolproxy_pool_permits", database="single") == 1
    assert len(re.findall(r"S-\d+: single/.* new connection to server", proxy.log)) == 1


def test_limits_and_settings(proxy: ProxyProcess) -> None:
    """What the configuration allows is there to be compared with what is used."""
    with client(proxy, "states") as one:
        one.query("select 1")
    assert sample(proxy, "poolproxy_pool_size", database="states") == 2
    assert sample(proxy, "poolproxy_max_client_conn") == 77
    assert sample(proxy, "poolproxy_workers", state="ready") == 2
    assert sample(proxy, "poolproxy_config_last_reload_successful") == 1
    assert sample(proxy, "poolproxy_build_info") == 1
    assert sample(proxy, "poolproxy_max_fds") > 100


def test_permits_are_what_postgresql_has(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """Granted less returned permits are the held ones."""
    with client(proxy, "closed") as one:
        one.query("select 1")
        granted = sample(proxy, "poolproxy_permits_granted_total")
        returned = sample(proxy, "poolproxy_permits_returned_total")
        assert granted - returned == sample(proxy, "poolproxy_pool_permits")
        admin.execute("select pg_terminate_backend(%s)", [one.backend()])
    eventually(
        lambda: sample(proxy, "poolproxy_pool_server_closes_total", database="closed") == 1,
        "the closed server is counted",
    )
    eventually(
        lambda: sample(proxy, "poolproxy_pool_permits", database="closed") == 0,
        "its permit is back",
    )


def test_errors_by_reason(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """A lost server is an error that the proxy has told its client."""
    with client(proxy, "errors") as one:
        one.query("begin")
        pid = one.backend()
        admin.execute("select pg_terminate_backend(%s)", [pid])
        with pytest.raises(ErrorAnswer, match="57P01"):
            one.query("select 1")
    eventually(
        lambda: sample(
            proxy, "poolproxy_pool_errors_total", database="errors", reason="server_lost"
        ),
        "the error is counted",
    )


PARSERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "text/plain": ("text/plain", parse_prometheus),
    "application/openmetrics-text; version=1.0.0": (
        "application/openmetrics-text",
        parse_openmetrics,
    ),
}


@pytest.mark.parametrize("accept", PARSERS)
def test_formats(proxy: ProxyProcess, accept: str) -> None:
    """The scraper gets the format that it asks for, and it is valid."""
    with client(proxy, "states") as one:
        one.query("select 1")
    expected, parse = PARSERS[accept]
    status, content_type, body = get(proxy, "/metrics", accept)
    assert status == 200
    assert content_type.startswith(expected)
    names = {family.name for family in parse(body)}  # type: ignore[attr-defined]
    assert {"poolproxy_pool_clients", "poolproxy_workers", "poolproxy_worker_clients"} <= names


def test_health_and_unknown_paths(proxy: ProxyProcess) -> None:
    """/healthz and /readyz answer 200, other paths 404."""
    assert get(proxy, "/healthz")[0] == 200
    assert get(proxy, "/readyz")[0] == 200
    assert get(proxy, "/nothing")[0] == 404


def test_not_ready_while_leaving(start_proxy: StartProxy, postgres: PostgresServer) -> None:
    """After SIGTERM the proxy is healthy but not ready, until its last client has gone."""
    proxy = start_proxy(
        tables(postgres, {"a": {"pool_mode": "transaction"}}, workers=1, shutdown_timeout=0)
    )
    with client(proxy, "a") as one:
        one.query("select 1")
        proxy.signal(SIGTERM)
        eventually(lambda: get(proxy, "/readyz")[0] == 503, "it is not ready")
        assert get(proxy, "/healthz")[0] == 200
        assert one.value("select 2") == "2"
    assert proxy.process.wait(20) == 0
