"""Workers that die: only their clients notice, and nothing is lost or counted wrongly."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from signal import SIGKILL, SIGSTOP

import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import is_alive
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import query
from tests.system.rough_client import Closed, RoughClient
from tests.system.setups import config, role
from tests.system.watching import (
    Load,
    Sampler,
    backends_of,
    busy_backends,
    client_ports,
    descriptors,
    eventually,
    fallen_counters,
    metric,
    permits_out,
    samples,
)


def replaced(proxy: ProxyProcess, victim: int, count: int) -> bool:
    """Whether the victim is gone and ``count`` workers are ready."""
    ready = metric(proxy, r'poolproxy_workers\{state="ready"\}')
    return not is_alive(victim) and ready == count


def noticed(proxy: ProxyProcess, victims: list[int]) -> bool:
    """Whether the acceptor has buried them: what it accepts from now on it gives to their successors."""
    return all(f"(pid {victim}) ended" in proxy.log for victim in victims)


def kill_only_worker(proxy: ProxyProcess) -> None:
    victims = proxy.worker_pids()
    assert len(victims) == 1
    os.kill(victims[0], SIGKILL)
    eventually(lambda: noticed(proxy, victims), 10, "the death is noticed")


@pytest.mark.parametrize("workers", [2, 4])
def test_a_killed_worker_costs_its_own_clients_only(
    start_proxy: StartProxy, one_postgres: PostgresServer, workers: int
) -> None:
    """Clients of other workers see no error, a successor is there soon, counters never fall.

    Soon: 0.3 s where a processor is free; here the load, the server and the scrapes want all there are.
    """
    with role(one_postgres, "limited", 4):
        settings = {"workers": workers, "default_pool_size": 4, "verbose": 2}
        proxy = start_proxy(config(one_postgres, **settings))
        with (
            Sampler(one_postgres, "limited") as seen,
            Load(proxy.port, "limited", "db", 16) as load,
        ):
            load.wait_for_progress()
            before = samples(proxy.metrics())
            for victim in proxy.worker_pids()[:2]:
                began = time.monotonic()
                os.kill(victim, SIGKILL)
                eventually(lambda v=victim: replaced(proxy, v, workers), 10, "a new worker")
                load.wait_for_progress()
                told = {port for when, port, _ in load.errors if when >= began}
                assert told == client_ports(proxy, victim)
                after = samples(proxy.metrics())
                assert not fallen_counters(before, after)
                before = after
            eventually(
                lambda: metric(proxy, r"poolproxy_clients") == 16,
                5,
                "the gauge of clients is right",
            )
            assert permits_out(proxy) <= 4
        assert not load.wrong
        assert load.errors
        assert seen.most <= 4
        assert not seen.refusals
        eventually(lambda: metric(proxy, r"poolproxy_clients") == 0, 15, "no client is counted")
        eventually(
            lambda: permits_out(proxy) == backends_of(one_postgres, "limited"),
            5,
            "permits are right",
        )
        proxy.stop()


def test_busy_backends_of_a_dead_worker_end(
    start_proxy: StartProxy, postgres: PostgresServer
) -> None:
    """A query of a minute is cancelled when its worker dies, and its permit serves another client."""
    with role(postgres, "limited", 1):
        proxy = start_proxy(config(postgres, workers=1, default_pool_size=1))
        with RoughClient(proxy.port) as client, Sampler(postgres, "limited") as seen:
            client.log_in("limited", "db")
            client.send(query("select pg_sleep(60)") * 3)
            eventually(lambda: busy_backends(postgres, "limited"), 15, "the query runs")
            kill_only_worker(proxy)
            with pytest.raises(Closed):
                client.replies()
            with RoughClient(proxy.port, timeout=10) as other:
                assert other.log_in("limited", "db").query("select 1") == [("1",)]
        assert not seen.refusals
        assert seen.most == 1
        proxy.stop()


def test_a_silent_worker_is_killed_and_replaced(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A stopped process is found by worker_timeout, and the others serve meanwhile."""
    with role(one_postgres, "limited", 2):
        proxy = start_proxy(
            config(one_postgres, default_pool_size=2, worker_timeout=1.0, verbose=2)
        )
        with Load(proxy.port, "limited", "db", 6) as load:
            load.wait_for_progress()
            victim = proxy.worker_pids()[0]
            os.kill(victim, SIGSTOP)
            eventually(lambda: replaced(proxy, victim, 2), 15, "a new worker")
            load.wait_for_progress()
            assert {port for _, port, _ in load.errors} <= client_ports(proxy, victim)
        assert "silent for 1 s (worker_timeout)" in proxy.log
        assert metric(proxy, r'poolproxy_worker_deaths_total\{cause="silent"\}') == 1
        proxy.stop()


@pytest.mark.parametrize("workers", [1, 3])
def test_clients_that_a_killed_worker_had_not_taken_are_served(
    start_proxy: StartProxy, one_postgres: PostgresServer, workers: int
) -> None:
    """Those who came while it was stopped notice nothing, whoever serves them in its place."""
    with role(one_postgres, "limited", 3):
        proxy = start_proxy(config(one_postgres, workers=workers, default_pool_size=3))
        before = descriptors(proxy.pid)
        victim = proxy.worker_pids()[0]
        os.kill(victim, SIGSTOP)
        with ExitStack() as stack:
            # More than there are workers, and than one message carries.
            clients = [stack.enter_context(RoughClient(proxy.port)) for _ in range(150)]
            accepted = r"poolproxy_accepted_connections_total\{.*\}"
            eventually(lambda: metric(proxy, accepted) >= len(clients), 15, "all are accepted")
            os.kill(victim, SIGKILL)
            for client in clients:
                assert client.log_in("limited", "db").query("select 1") == [("1",)]
            assert metric(proxy, "poolproxy_clients") == len(clients)
        # At first a connection to metrics_listen may not be closed yet.
        eventually(
            lambda: descriptors(proxy.pid) <= before + permits_out(proxy),
            15,
            "the acceptor has its own and those of servers",
        )
        assert f"(pid {victim}) had not read of go to others" in proxy.log
        eventually(lambda: metric(proxy, "poolproxy_clients") == 0, 15, "none is counted any more")
        proxy.stop()


def test_all_workers_killed_at_once(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """Clients that come while there is no worker wait for one, and are served."""
    with role(one_postgres, "limited", 3):
        proxy = start_proxy(config(one_postgres, workers=3, default_pool_size=3))
        with Load(proxy.port, "limited", "db", 9) as load, Sampler(one_postgres, "limited") as seen:
            for _ in range(3):
                load.wait_for_progress()
                victims = proxy.worker_pids()
                for victim in victims:
                    os.kill(victim, SIGKILL)
                eventually(lambda v=victims: noticed(proxy, v), 10, "all deaths are noticed")
                with RoughClient(proxy.port) as client:
                    began = time.monotonic()
                    assert client.log_in("limited", "db").query("select 1") == [("1",)]
                    assert time.monotonic() - began < 10
            load.wait_for_progress()
        assert seen.most <= 3
        assert not seen.refusals
        assert not load.wrong
        proxy.stop()


def test_a_host_with_several_addresses(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """The first address of the host refuses: the connection to the second is the one that is ended."""
    with role(one_postgres, "limited", 1):
        proxy = start_proxy(config(one_postgres, host="localhost", workers=1, default_pool_size=1))
        with RoughClient(proxy.port) as client, Sampler(one_postgres, "limited") as seen:
            client.log_in("limited", "db").query("select 1")
            client.send(query("select pg_sleep(60)"))
            eventually(lambda: busy_backends(one_postgres, "limited"), 15, "the query runs")
            kill_only_worker(proxy)
            with RoughClient(proxy.port, timeout=10) as other:
                assert other.log_in("limited", "db").query("select 1") == [("1",)]
        assert not seen.refusals
        assert "does not hold permit" not in proxy.log
        proxy.stop()
