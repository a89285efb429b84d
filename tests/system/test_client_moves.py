"""Clients go to other workers and notice nothing: real processes, real clients."""

from __future__ import annotations

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import (
    SYNC,
    bind,
    execute,
    parse,
)
from tests.system.support import client, eventually, sample, tables

MOVES = "poolproxy_client_moves_total"
REPLACEMENTS = "poolproxy_worker_replacements_total"
DATABASES = {
    "transaction": {"pool_mode": "transaction", "pool_size": 4},
    "session": {"pool_mode": "session", "pool_size": 4},
}


@pytest.fixture
def restless(start_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Two workers, each of which is replaced about every second."""
    return start_proxy(tables(postgres, DATABASES, workers=2, worker_max_lifetime=0.8, verbose=2))


def moves(proxy: ProxyProcess) -> float:
    return sample(proxy, MOVES, outcome="done")


def after_moves(proxy: ProxyProcess, count: int) -> None:
    """Wait until clients have moved so often from now on."""
    then = moves(proxy) + count
    eventually(lambda: moves(proxy) >= then, f"{count} moves")


def url(proxy: ProxyProcess, database: str = "transaction") -> str:
    return proxy.url(user="postgres", password="unused", database=database)


def test_an_idle_client_comes_along_when_its_worker_is_replaced(restless: ProxyProcess) -> None:
    """Parameters, prepared statements and cancel key are as before, time and again."""
    with client(restless, "transaction", application_name="traveller") as one:
        one.query("set timezone = 'Asia/Tokyo'")
        one.send(parse("mine", "select $1 || current_setting('timezone')") + SYNC)
        one.results()
        for _ in range(3):
            after_moves(restless, 1)
            one.send(bind("mine", b"in ") + execute() + SYNC)
            assert one.results() == [("in Asia/Tokyo",)]
            assert one.value("show application_name") == "traveller"
    eventually(lambda: sample(restless, "poolproxy_clients") == 0, "no client is left")
