"""Encrypted clients of a small pool of encrypted servers come to be served by one worker: real processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.ownership import owners
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates
from tests.system.consoles import give
from tests.system.protocol_client import Eof, ErrorAnswer
from tests.system.support import eventually, sample
from tests.system.tls_support import client, settings

pytestmark = pytest.mark.needs_system_postgres

WORKERS, CLIENTS = 4, 16
CANCELLED = "57014"
RELAYED = "poolproxy_worker_relayed_clients"


@pytest.fixture
def proxy(
    start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates
) -> ProxyProcess:
    """Four workers and a pool of one, with TLS on both sides; clients don't move."""
    more: dict[str, object] = {
        "workers": WORKERS,
        "server_tls_sslmode": "require",
        "client_moves": False,
    }
    more["admin_users"] = ["postgres"]
    pem = certificates.issue("relayed", HOST)
    config = settings(tls_postgres, pem, certificates, client_tls_sslmode="require", **more)
    config["databases"]["transaction"]["pool_size"] = 1
    return start_proxy(config)


class Busy:
    """Clients, each in a thread of its own, which look at each answer. ``counts``: how many they got."""

    def __init__(self, proxy: ProxyProcess, certificates: Certificates, count: int) -> None:
        self.clients = [client(proxy, certificates.context(), "transaction") for _ in range(count)]
        self.ports = [one.sock.getsockname()[1] for one in self.clients]
        self.counts = [0] * count
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
            one.close()


@contextmanager
def busy(proxy: ProxyProcess, certificates: Certificates, count: int = CLIENTS) -> Iterator[Busy]:
    """They work until the end, and none may have seen a row of another one."""
    them = Busy(proxy, certificates, count)
    with ThreadPoolExecutor(count) as threads:
        running = [threads.submit(them.work, number) for number in range(count)]
        try:
            yield them
        finally:
            them.over.set()
        for one in running:
            one.result()
        for sock in them.clients:
            sock.close()


def at(proxy: ProxyProcess) -> dict[int, int]:
    """By workers' slots: how many clients they serve."""
    counts = {n: sample(proxy, "poolproxy_worker_clients", worker=str(n)) for n in range(WORKERS)}
    return {slot: int(count) for slot, count in counts.items() if count}


def gathered(proxy: ProxyProcess, count: int) -> None:
    eventually(lambda: list(at(proxy).values()) == [count], "all are served by one worker")


def test_all_are_served_at_the_home(proxy: ProxyProcess, certificates: Certificates) -> None:
    """Busy clients on four workers are served by one, new ones, too; their connections stay where they were,
    the server is opened anew no more, and the console shows each client as it is.
    """
    with busy(proxy, certificates) as them, ExitStack() as stack:
        assert len(set(owners(proxy).values())) == WORKERS
        gathered(proxy, CLIENTS)
        late = [
            stack.enter_context(client(proxy, certificates.context(), "transaction"))
            for _ in range(WORKERS)
        ]
        gathered(proxy, CLIENTS + WORKERS)
        assert len(set(owners(proxy).values())) == WORKERS
        connected = sample(proxy, "poolproxy_permits_granted_total")
        then = sum(them.counts)
        eventually(lambda: sum(them.counts) > then + 500, "they are served")
        assert sample(proxy, "poolproxy_permits_granted_total") <= connected + 1
        assert sample(proxy, RELAYED) >= (CLIENTS + WORKERS) // 2
        assert sample(proxy, "poolproxy_worker_tls_clients") == CLIENTS + WORKERS
        shown = {
            int(row["port"]): row for row in give(proxy, "SHOW CLIENTS", "postgres") if row["tls"]
        }
        for port in [*them.ports, *(one.sock.getsockname()[1] for one in late)]:
            assert shown[port]["addr"] == HOST
            assert shown[port]["tls"].startswith("TLS")
            assert int(shown[port]["local_port"]) == proxy.port
        assert [one.value("select 7") for one in late] == ["7"] * WORKERS
    assert not them.lost
    eventually(lambda: not at(proxy) and not sample(proxy, RELAYED), "nothing is left of them")
    assert sample(proxy, "poolproxy_client_moves_total", outcome="lost") == 0
