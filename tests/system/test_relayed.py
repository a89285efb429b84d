"""Encrypted clients of a small pool of encrypted servers come to be served by one worker: real processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.ownership import kill_worker, owners
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates
from tests.system.consoles import give
from tests.system.protocol_client import Eof, ErrorAnswer, RawClient, cancel_request, query
from tests.system.setups import PASSWORD, role
from tests.system.support import eventually, sample
from tests.system.tls_support import connect, settings
from tests.system.watching import Sampler, busy_backends

pytestmark = pytest.mark.needs_system_postgres

WORKERS, CLIENTS = 4, 16
CANCELLED = "57014"
RELAYED = "poolproxy_worker_relayed_clients"


@pytest.fixture
def limited(tls_postgres: PostgresServer) -> Iterator[str]:
    """A role that PostgreSQL allows one connection."""
    with role(tls_postgres, "relayed", 1) as name:
        yield name


@pytest.fixture
def proxy(
    limited: str, start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates
) -> ProxyProcess:
    """Four workers and a pool of one, with TLS on both sides; clients in the clear don't move."""
    more: dict[str, object] = {"workers": WORKERS, "client_moves": False, "verbose": 2}
    more |= {"server_tls_sslmode": "require", "client_tls_sslmode": "require"}
    pem = certificates.issue("relayed", HOST)
    config = settings(tls_postgres, pem, certificates, admin_users=["postgres"], **more)
    config["databases"]["transaction"]["pool_size"] = 1
    config["users"][limited] = {"password": PASSWORD}
    return start_proxy(config)


@pytest.fixture
def watched(tls_postgres: PostgresServer, limited: str, proxy: ProxyProcess) -> Iterator[Sampler]:
    """PostgreSQL has never seen a second connection, and has refused none."""
    with Sampler(tls_postgres, limited) as sampler:
        yield sampler
    assert sampler.most <= 1
    assert sampler.refusals == 0


def client(proxy: ProxyProcess, certificates: Certificates) -> RawClient:
    """A client that has logged in over TLS."""
    one = connect(proxy, certificates.context())
    one.log_in({"user": "relayed", "database": "transaction"})
    return one


class Busy:
    """Clients, each in a thread of its own, which look at each answer. ``counts``: how many they got."""

    def __init__(self, proxy: ProxyProcess, certificates: Certificates) -> None:
        self.clients = [client(proxy, certificates) for _ in range(CLIENTS)]
        self.ports = [one.sock.getsockname()[1] for one in self.clients]
        self.counts = [0] * CLIENTS
        self.lost: dict[int, str] = {}
        self.over = threading.Event()

    def work(self, number: int) -> None:
        one = self.clients[number]
        try:
            while not self.over.is_set():
                done = self.counts[number]
                assert one.value(f"select '{number}.{done}'") == f"{number}.{done}"
                self.counts[number] += 1
        except (Eof, ErrorAnswer) as error:
            self.lost[number] = str(error)

    def served(self, numbers: set[int], times: int) -> None:
        """Wait until each of these was served so many times more."""
        goals = {number: self.counts[number] + times for number in numbers}
        eventually(
            lambda: all(self.counts[n] >= goal for n, goal in goals.items()), "they are served"
        )


@contextmanager
def busy(proxy: ProxyProcess, certificates: Certificates) -> Iterator[Busy]:
    """They work until the end, and none may have seen a row of another one."""
    them = Busy(proxy, certificates)
    with ExitStack() as stack, ThreadPoolExecutor(CLIENTS) as threads:
        for one in them.clients:
            stack.callback(one.close)
        running = [threads.submit(them.work, number) for number in range(CLIENTS)]
        try:
            yield them
        finally:
            them.over.set()
        for task in running:
            task.result()


def by_worker(proxy: ProxyProcess, metric: str) -> dict[int, int]:
    """The workers' slots with a number that is not 0."""
    counts = {slot: int(sample(proxy, metric, worker=str(slot))) for slot in range(WORKERS)}
    return {slot: count for slot, count in counts.items() if count}


def gathered(proxy: ProxyProcess, count: int) -> int:
    """Wait until all are served by one worker; its slot."""
    serving = "poolproxy_worker_clients"
    eventually(lambda: list(by_worker(proxy, serving).values()) == [count], "one worker serves all")
    return next(iter(by_worker(proxy, serving)))


def process(proxy: ProxyProcess, slot: int) -> int:
    """The worker's process; 0 while it has none that is ready."""
    found = give(proxy, "SHOW WORKERS", "postgres")
    ready = [row for row in found if int(row["worker"]) == slot and row["state"] == "ready"]
    return int(ready[0]["pid"]) if ready else 0


def test_all_are_served_at_the_home(
    proxy: ProxyProcess, certificates: Certificates, watched: Sampler
) -> None:
    """Busy clients on four workers are served by one, new ones, too; their connections stay where they were,
    the server is opened anew no more, and the console shows each client as it is.
    """
    with busy(proxy, certificates) as them, ExitStack() as stack:
        assert len(set(owners(proxy).values())) == WORKERS
        gathered(proxy, CLIENTS)
        late = [stack.enter_context(client(proxy, certificates)) for _ in range(WORKERS)]
        gathered(proxy, CLIENTS + WORKERS)
        assert len(set(owners(proxy).values())) == WORKERS
        them.served(set(range(CLIENTS)), 1)  # by the server that the home has now
        opened = sample(proxy, "poolproxy_permits_granted_total")
        them.served(set(range(CLIENTS)), 30)
        assert sample(proxy, "poolproxy_permits_granted_total") == opened
        assert sample(proxy, RELAYED) >= (CLIENTS + WORKERS) // 2
        assert sample(proxy, "poolproxy_worker_tls_clients") == CLIENTS + WORKERS
        shown = {int(row["port"]): row for row in give(proxy, "SHOW CLIENTS", "postgres")}
        for port in [*them.ports, *(one.sock.getsockname()[1] for one in late)]:
            assert (shown[port]["addr"], shown[port]["local_addr"]) == (HOST, HOST)
            assert int(shown[port]["local_port"]) == proxy.port
            assert shown[port]["tls"].startswith("TLS")
        assert [one.value("select 7") for one in late] == ["7"] * WORKERS
    assert not them.lost
    eventually(lambda: not by_worker(proxy, RELAYED), "nothing is left of them")
    assert sample(proxy, "poolproxy_client_moves_total", outcome="lost") == 0


@pytest.mark.parametrize("victim", ["home", "other"])
def test_a_worker_dies(
    proxy: ProxyProcess, certificates: Certificates, watched: Sampler, victim: str
) -> None:
    """The home: all clients are gone. Another one: those that it relays, and no others. Who connects again
    is served.
    """
    with busy(proxy, certificates) as them:
        home = gathered(proxy, CLIENTS)
        slot = home if victim == "home" else next(iter(by_worker(proxy, RELAYED)))
        pid, whose = process(proxy, slot), owners(proxy)
        gone = {n for n in range(CLIENTS) if victim == "home" or whose[them.ports[n]] == pid}
        assert kill_worker(proxy, pid) is not None
        eventually(lambda: them.lost.keys() == gone, "the right ones are disconnected")
        them.served(set(range(CLIENTS)) - gone, 5)
        with client(proxy, certificates) as again:
            assert again.value("select 5") == "5"
        assert them.lost.keys() == gone


def test_a_cancel_request_finds_a_relayed_client(
    proxy: ProxyProcess, certificates: Certificates, tls_postgres: PostgresServer, watched: Sampler
) -> None:
    """Its query ends, or its wait for a server, and nobody else's."""
    with ExitStack() as stack:
        with busy(proxy, certificates):
            ones = [stack.enter_context(client(proxy, certificates)) for _ in range(WORKERS)]
            gathered(proxy, CLIENTS + WORKERS)
        for one, other in zip(ones, [*ones[1:], ones[0]], strict=True):
            one.send(query("select pg_sleep(60)"))
            eventually(lambda: busy_backends(tls_postgres, "relayed") == 1, "it runs")
            other.send(query("select 'other'"))
            with RawClient((proxy.host, proxy.port), log_in=False) as canceller:
                canceller.send(cancel_request(one.key))
                assert canceller.at_end()
            with pytest.raises(ErrorAnswer, match=CANCELLED):
                one.results()
            assert other.results() == [("other",)]
            assert one.value("select 1") == "1"


def test_a_replaced_worker_stays_while_it_relays(
    proxy: ProxyProcess, certificates: Certificates, watched: Sampler
) -> None:
    """The home is replaced: another one serves all, also those whose connections the old one has, and none
    sees an error.
    """
    with busy(proxy, certificates) as them:
        home = gathered(proxy, CLIENTS)
        pid = process(proxy, home)
        give(proxy, f"RECYCLE WORKER {home}", "postgres")
        eventually(lambda: process(proxy, home) not in (0, pid), "there is a successor")
        gathered(proxy, CLIENTS)
        them.served(set(range(CLIENTS)), 5)
        assert pid in proxy.worker_pids()
    assert not them.lost
    eventually(lambda: pid not in proxy.worker_pids(), "the old one leaves when its clients have")
