"""Where clients can connect to: several addresses at once, IPv4 and IPv6."""

from __future__ import annotations

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import RawClient
from tests.system.support import eventually, sample, tables

ADDRESSES = ("127.0.0.1", "127.0.0.2", "::1")


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, one_postgres: PostgresServer) -> ProxyProcess:
    """A proxy that listens on all of ADDRESSES, two of IPv4 and one of IPv6."""
    databases = {"db": {"pool_mode": "transaction"}}
    settings = {"listen_addr": list(ADDRESSES), "application_name_add_host": True}
    return start_module_proxy(tables(one_postgres, databases, **settings))


def with_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@pytest.mark.parametrize("address", ADDRESSES)
def test_each_address_serves(proxy: ProxyProcess, address: str) -> None:
    """libpq is served on every address, and metrics and log tell them apart."""
    shown = with_port(address, proxy.port)
    before = accepted(proxy, shown)
    target = {"host": address, "port": proxy.port, "user": "postgres", "dbname": "db"}
    with psycopg.connect(**target, connect_timeout=10) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    eventually(lambda: accepted(proxy, shown) == before + 1, "the connection is counted")
    assert f"listening on {shown}" in proxy.log


def accepted(proxy: ProxyProcess, listener: str) -> float:
    return sample(proxy, "poolproxy_accepted_connections_total", listener=listener)


@pytest.mark.parametrize("address", ADDRESSES)
def test_names_of_clients(proxy: ProxyProcess, address: str) -> None:
    """Log and application_name name a client by address and port, an IPv6 address in brackets."""
    with RawClient((address, proxy.port), "db", application_name="app") as one:
        shown = with_port(*one.sock.getsockname()[:2])
        name = one.value("show application_name")
    assert name == f"app - {shown}"
    assert f"db/postgres@{shown} login attempt" in proxy.log


def test_clients_of_all_addresses_share_one_pool(proxy: ProxyProcess) -> None:
    """A pool belongs to database and user: where its clients came from makes no difference."""
    found = set()
    for address in ADDRESSES:
        with RawClient((address, proxy.port), "db") as one:
            found.add(one.backend())
    assert len(found) <= 2, "more servers than workers"
