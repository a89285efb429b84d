"""A page of very many pools takes its time; the ledger has others to answer meanwhile."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle

import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.metrics.merge import MAX_POOLS
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import RawClient
from tests.system.support import client, tables

POOLS = 2000
SERVERS = 20


@pytest.fixture
def clients(
    one_postgres: PostgresServer, start_proxy: StartProxy
) -> Iterator[tuple[ProxyProcess, list[RawClient]]]:
    """A proxy with a client in each of its pools, and servers for a hundredth of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    databases = {f"d{number}": {"pool_size": 2} for number in range(POOLS)}
    proxy = start_proxy(
        tables(
            one_postgres,
            databases,
            {one_postgres.user: {"max_user_connections": SERVERS}},
            workers=2,
            pool_mode="transaction",
            max_client_conn=POOLS + 10,
        )
    )
    with ExitStack() as stack:
        yield proxy, [stack.enter_context(client(proxy, name)) for name in databases]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _queries_during(page: Future[str], clients: list[RawClient]) -> int:
    """How many clients got an answer before the page came. Each is another pool's, so that it needs a server
    connection which the ledger has to take from another pool before.
    """
    for answers, one in enumerate(cycle(clients)):
        assert one.value("select 1") == "1"
        if page.done():
            return answers
    raise AssertionError("there are no clients")


@pytest.mark.timeout(300)
def test_the_ledger_answers_while_a_page_of_2000_pools_is_made(
    clients: tuple[ProxyProcess, list[RawClient]],
) -> None:
    """Clients of many pools get server connections, one after the other, before a scrape is through."""
    proxy, everybody = clients
    with ThreadPoolExecutor(1) as scraper:
        page = scraper.submit(proxy.metrics)
        answers = _queries_during(page, everybody)
        pools = page.result().count("\npoolproxy_pool_size{")
    assert pools == MAX_POOLS + 1  # the rest is one row
    assert answers >= 3
