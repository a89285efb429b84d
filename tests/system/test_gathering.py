"""The clients of a small pool come to be on one worker: real processes, real clients."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.ownership import owners
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import RawClient
from tests.system.support import client, eventually, sample, tables

WORKERS, CLIENTS = 4, 24


def test_busy_clients_of_a_pool_of_one_are_gathered(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """They are spread over four workers; those that work and those that are quiet go to one of them, new
    ones, too. None sees an error, and the server does not move any more.
    """
    databases = {"small": {"pool_mode": "transaction", "pool_size": 1}}
    proxy = start_proxy(tables(one_postgres, databases, workers=WORKERS))
    over = threading.Event()

    def work(one: RawClient) -> int:
        done = 0
        while not over.is_set():
            assert one.value(f"select {done}") == str(done)
            done += 1
        return done

    with ExitStack() as stack, ThreadPoolExecutor(CLIENTS) as threads:
        clients = [stack.enter_context(client(proxy, "small")) for _ in range(CLIENTS)]
        assert len(Counter(owners(proxy).values())) == WORKERS
        working = clients[: CLIENTS // 2]
        busy = [threads.submit(work, one) for one in working]
        try:
            eventually(lambda: len(set(owners(proxy).values())) == 1, "all are on one worker")
            eventually(lambda: rests(proxy, over), "the server stays")
            late = [stack.enter_context(client(proxy, "small")) for _ in range(WORKERS)]
            eventually(
                lambda: list(Counter(owners(proxy).values()).values()) == [CLIENTS + WORKERS],
                "new clients go there, too",
            )
            assert [one.value("select 7") for one in late] == ["7"] * WORKERS
        finally:
            over.set()
        assert all(one.result() > 10 for one in busy)
        assert [one.value("select 8") for one in clients] == ["8"] * CLIENTS
    assert sample(proxy, "poolproxy_client_moves_total", outcome="lost") == 0


def rests(proxy: ProxyProcess, over: threading.Event) -> bool:
    """Whether no server moves for a while in which hundreds of transactions are served."""
    before = sample(proxy, "poolproxy_server_moves_total", outcome="taken")
    over.wait(0.5)
    return sample(proxy, "poolproxy_server_moves_total", outcome="taken") <= before + 1
