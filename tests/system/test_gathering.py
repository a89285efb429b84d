"""The clients of a small pool come to be served by one worker: real processes, real clients."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.ownership import owners
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.consoles import give
from tests.system.protocol_client import RawClient
from tests.system.support import Tables, client, eventually, sample, tables
from tests.system.watching import by_worker, process

WORKERS, CLIENTS = 4, 24
RELAYED = "poolproxy_worker_relayed_clients"


def config(server: PostgresServer, **more: object) -> Tables:
    databases = {"small": {"pool_mode": "transaction", "pool_size": 1}}
    return tables(server, databases, workers=WORKERS, admin_users=["postgres"], **more)


@contextmanager
def crowd(proxy: ProxyProcess) -> Iterator[list[RawClient]]:
    """Clients on all workers; the first half works until the end, without an error."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client(proxy, "small")) for _ in range(CLIENTS)]
        assert len(set(owners(proxy).values())) == WORKERS
        with working(proxy, clients[: CLIENTS // 2]):
            yield clients
        assert [one.value("select 8") for one in clients] == ["8"] * CLIENTS


@contextmanager
def working(proxy: ProxyProcess, clients: list[RawClient], source: str = "") -> Iterator[None]:
    """These have one transaction after the other, without an error. ``source``: what each selects from."""
    over = threading.Event()

    def work(one: RawClient) -> int:
        done = 0
        while not over.is_set():
            assert one.value(f"select {done} {source}") == str(done)
            done += 1
        return done

    with ThreadPoolExecutor(len(clients)) as threads:
        busy = [threads.submit(work, one) for one in clients]
        try:
            yield
        finally:
            over.set()
        assert all(one.result() > 10 for one in busy)
    assert sample(proxy, "poolproxy_client_moves_total", outcome="lost") == 0


def on_one(proxy: ProxyProcess, count: int) -> bool:
    """Whether one worker has all connections."""
    return list(Counter(owners(proxy).values()).values()) == [count]


def test_busy_clients_of_a_pool_of_one_are_gathered(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """They are spread over four workers; those that work and those that are quiet go to one of them, new
    ones, too. None sees an error, and the server does not move any more.
    """
    proxy = start_proxy(config(one_postgres))
    with crowd(proxy), ExitStack() as stack:
        eventually(lambda: on_one(proxy, CLIENTS), "all are on one worker")
        eventually(lambda: rests(proxy), "the server stays")
        late = [stack.enter_context(client(proxy, "small")) for _ in range(WORKERS)]
        eventually(lambda: on_one(proxy, CLIENTS + WORKERS), "new clients go there, too")
        assert [one.value("select 7") for one in late] == ["7"] * WORKERS


def rests(proxy: ProxyProcess) -> bool:
    """Whether no server moves for a while in which hundreds of transactions are served."""
    before = sample(proxy, "poolproxy_server_moves_total", outcome="taken")
    threading.Event().wait(0.5)
    return sample(proxy, "poolproxy_server_moves_total", outcome="taken") <= before + 1


def test_where_clients_are_not_to_be_moved_they_are_relayed(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """One worker serves all of them, and their connections stay, until each worker is replaced, or a reload
    lets them move: none sees an error, and then nobody is relayed any more.
    """
    proxy = start_proxy(config(one_postgres, client_moves=False))
    with crowd(proxy):
        where = owners(proxy)
        eventually(lambda: served(proxy) == [CLIENTS], "one worker serves all")
        eventually(lambda: rests(proxy), "the server stays")
        assert owners(proxy) == where
        for slot in range(WORKERS):
            pid = process(proxy, slot)
            give(proxy, f"RECYCLE WORKER {slot}", "postgres")
            eventually(gone(proxy, pid), "it has left, and so have its clients")
        eventually(lambda: by_worker(proxy, RELAYED) != {}, "clients are relayed anew")
        proxy.write_config(config(one_postgres))
        proxy.signal(signal.SIGHUP)
        eventually(lambda: on_one(proxy, CLIENTS), "all are on one worker")
        eventually(lambda: by_worker(proxy, RELAYED) == {}, "nobody is relayed")


def test_of_a_larger_pool_those_are_relayed_that_have_hardly_a_server(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """Four servers are more than three for one worker's clients, and less than one for the other one's. When
    these are many they are served where they are, and none sees an error.
    """
    databases = {"large": {"pool_mode": "transaction", "pool_size": 4}}
    proxy = start_proxy(
        tables(one_postgres, databases, workers=2, admin_users=["postgres"], client_moves=False)
    )
    with ExitStack() as stack:
        clients = [stack.enter_context(client(proxy, "large")) for _ in range(32)]
        where = owners(proxy)
        sides = {pid: [one for one in clients if where[port(one)] == pid] for pid in where.values()}
        many, few = sides.values()
        for one in few[2:]:
            one.terminate()
        with working(proxy, [*many, *few[:2]]):
            eventually(lambda: list(by_worker(proxy, RELAYED).values()) == [2], "two are relayed")
            late = [stack.enter_context(client(proxy, "large")) for _ in range(32)]
            where = owners(proxy)
            for one in late:
                if where[port(one)] == where[port(many[0])]:
                    one.terminate()
            eventually(lambda: by_worker(proxy, RELAYED) == {}, "nobody is relayed")


def test_of_a_small_pool_those_stay_that_make_up_a_server(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """Of 16 clients on three servers the 4 of one worker keep one, and the 12 others are served by one of
    their workers, which has two. None sees an error, and no server moves any more.
    """
    databases = {"small": {"pool_mode": "transaction", "pool_size": 3}}
    proxy = start_proxy(
        tables(one_postgres, databases, workers=4, admin_users=["postgres"], client_moves=False)
    )
    with ExitStack() as stack:
        clients = [stack.enter_context(client(proxy, "small")) for _ in range(32)]
        where = owners(proxy)
        sides = [[one for one in clients if where[port(one)] == pid] for pid in set(where.values())]
        left: list[RawClient] = []
        for mine, count in zip(sides, (8, 4, 2, 2), strict=True):
            left += mine[:count]
            for one in mine[count:]:
                one.terminate()
        with working(proxy, left, "from pg_sleep(0.004)"):
            eventually(lambda: sorted(served(proxy)) == [4, 12], "four stay")
            eventually(lambda: rests(proxy), "no server moves")
            assert sorted(served(proxy)) == [4, 12]


def port(one: RawClient) -> int:
    return int(one.sock.getsockname()[1])


def served(proxy: ProxyProcess) -> list[int]:
    return list(by_worker(proxy, "poolproxy_worker_clients").values())


def gone(proxy: ProxyProcess, pid: int) -> Callable[[], bool]:
    return lambda: pid not in proxy.worker_pids()
