"""Many connections that do not log in."""

from __future__ import annotations

import resource
import select
import time
from collections.abc import Iterator

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import StartProxy
from tests.system.protocol_client import Connection, ErrorAnswer, RawClient
from tests.system.roles import target
from tests.system.support import eventually, sample


def test_silent_sockets_keep_nobody_out(
    start_proxy: StartProxy, one_postgres: PostgresServer, roles: None
) -> None:
    """As many silent connections as max_client_conn: the slowest are closed, and clients get in."""
    tables = {
        "poolproxy": {"auth_type": "any", "max_client_conn": 40, "workers": 1},
        "databases": {"db": target(one_postgres) | {"user": "forced", "password": "f"}},
        "users": {"ann": {"password": "x"}},
    }
    proxy = start_proxy(tables)
    address = (proxy.host, proxy.port)
    silent = [Connection(address) for _ in range(40)]

    def gets_in() -> bool:
        try:
            with RawClient(address, "db", "ann") as one:
                return one.query("select 1") == [("1",)]
        except ErrorAnswer:
            return False

    try:
        eventually(gets_in, "a client gets in")
        failures = "poolproxy_worker_login_failures_total"
        eventually(lambda: sample(proxy, failures, reason="max_logins") >= 15, "they are counted")
        told, _, _ = select.select([one.sock for one in silent], [], [], 10)
        farewell = next(one for one in silent if one.sock in told).read()
        assert farewell.error().message == "too many clients are logging in (max_logins)"
    finally:
        for one in silent:
            one.close()


@pytest.fixture
def descriptors() -> Iterator[int]:
    """As many file descriptors as the system allows; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_silent_sockets(
    start_proxy: StartProxy, one_postgres: PostgresServer, roles: None, descriptors: int
) -> None:
    """Thousands of silent connections slow nobody's log-in down."""
    many = min(10_000, descriptors - 500)
    tables = {
        "poolproxy": {
            "auth_type": "any",
            "max_client_conn": 11_000,
            "max_logins": 11_000,
            "listen_backlog": 4096,
        },
        "databases": {"db": target(one_postgres) | {"user": "forced", "password": "f"}},
        "users": {"ann": {"password": "x"}},
    }
    proxy = start_proxy(tables)
    address = (proxy.host, proxy.port)
    silent: list[Connection] = []
    try:
        silent.extend(Connection(address) for _ in range(many))
        eventually(lambda: sample(proxy, "poolproxy_clients") >= many, "they are accepted")
        began = time.monotonic()
        for _ in range(20):
            with RawClient(address, "db", "ann") as one:
                assert one.query("select 1") == [("1",)]
        assert time.monotonic() - began < 10
    finally:
        for one in silent:
            one.close()
