"""Limits are exact: with CONNECTION LIMIT equal to the pool's, PostgreSQL never says 53300."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from signal import SIGKILL

import attrs
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import message, query
from tests.system.rough_client import Closed, RoughClient, ServerError
from tests.system.setups import config, role
from tests.system.watching import (
    Load,
    Sampler,
    backends_of,
    busy_backends,
    eventually,
    metric,
    permits_in,
    samples,
    superuser,
    texts,
)

LIMIT = 3


@attrs.frozen
class Scene:
    """What a trouble has to play with; ``stack`` closes what it opens."""

    server: PostgresServer
    proxy: ProxyProcess
    load: Load
    random: random.Random
    stack: ExitStack

    def client(self) -> RoughClient:
        """A new connection."""
        return self.stack.enter_context(RoughClient(self.proxy.port))

    def wait_for_answers(self) -> None:
        """Let the load get on, so that the next strike meets a pool that works."""
        goal = self.load.done + len(self.load.runners)
        eventually(lambda: self.load.done >= goal, 10, "the load gets on")


def leave_by_reset(scene: Scene) -> None:
    """An RST in the middle of a query, of a pipeline, of a transaction or of a message."""
    client = scene.client().log_in("limited", "db")
    client.send(
        scene.random.choice(
            [
                query("select pg_sleep(60)"),
                query("select pg_sleep(60)") * 3,
                query("begin; select 1"),
                query("select repeat('x', 1000) from generate_series(1, 100000)"),
                message(b"Q", b"select 'half of a message" + bytes(100_000))[:90_000],
                message(b"P", b"\0select pg_sleep(60)\0\0\0") + message(b"B", bytes(8)),
            ]
        )
    )
    time.sleep(scene.random.uniform(0, 0.02))  # the moment is random, not one to be waited for
    scene.random.choice([client.reset, client.close])()


def leave_while_copying(scene: Scene) -> None:
    """A cut connection inside COPY in both directions."""
    client = scene.client().log_in("limited", "db")
    client.send(query("create temp table t (a text); copy t from stdin"))
    time.sleep(scene.random.uniform(0, 0.01))  # the moment is random, not one to be waited for
    client.send(message(b"d", b"a row\n"))
    client.reset()


def terminate_servers(scene: Scene) -> None:
    """pg_terminate_backend for all servers, again when the load has got new ones."""
    with superuser(scene.server) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'limited'"
        )
    scene.wait_for_answers()


def kill_a_worker(scene: Scene) -> None:
    """SIGKILL for a worker, again when its successor is there."""
    workers = scene.proxy.worker_pids()
    victim = scene.random.choice(workers)
    os.kill(victim, SIGKILL)
    eventually(
        lambda: len({*scene.proxy.worker_pids()} - {victim}) == len(workers), 10, "a successor"
    )
    scene.wait_for_answers()


def storm(scene: Scene) -> None:
    """Twenty clients come at once, ask and leave."""
    clients = [scene.client() for _ in range(20)]
    for client in clients:
        client.log_in("limited", "db")
        client.send(query("select 1"))
    for client in clients:
        client.close()


def kill_a_client_process(scene: Scene) -> None:
    """kill -9 of a process in the middle of a query."""
    code = (
        "from tests.system.protocol_client import query\n"
        "from tests.system.rough_client import RoughClient\n"
        f"c = RoughClient({scene.proxy.port}).log_in('limited', 'db')\n"
        "c.send(query('select pg_sleep(60)')); print('sent', flush=True); c.until_eof()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()


TROUBLES: list[list[Callable[[Scene], None]]] = [
    [leave_by_reset],
    [leave_while_copying],
    [terminate_servers],
    [storm],
    [kill_a_client_process],
    [kill_a_worker],
    [leave_by_reset, terminate_servers, kill_a_worker, storm, leave_while_copying],
]


@pytest.mark.parametrize("troubles", TROUBLES, ids=lambda t: "+".join(f.__name__ for f in t[:2]))
def test_no_trouble_exceeds_the_limit(
    start_proxy: StartProxy,
    one_postgres: PostgresServer,
    troubles: list[Callable[[Scene], None]],
) -> None:
    """Whatever clients, workers and servers do, PostgreSQL sees at most LIMIT, and all get served."""
    with role(one_postgres, "limited", LIMIT):
        proxy = start_proxy(
            config(one_postgres, workers=3, default_pool_size=LIMIT, server_lifetime=0.2)
        )
        with Sampler(one_postgres, "limited") as seen, Load(proxy.port, "limited", "db", 8) as load:
            load.wait_for_progress(1)
            makers = [
                threading.Thread(
                    target=make_trouble, args=(one_postgres, proxy, load, seed, trouble)
                )
                for seed, trouble in enumerate(troubles)
            ]
            for maker in makers:
                maker.start()
            for maker in makers:
                maker.join()
            load.wait_for_progress(3, 15)
        assert not seen.refusals
        assert seen.most <= LIMIT
        assert not load.wrong
        assert load.longest_gap < 15
        assert metric(proxy, "poolproxy_permits_timed_out_total") == 0
        check_accounts(one_postgres, proxy)
        proxy.stop()


def make_trouble(
    server: PostgresServer,
    proxy: ProxyProcess,
    load: Load,
    seed: int,
    trouble: Callable[[Scene], None],
) -> None:
    """The same trouble for some time; what it does to its own connections is part of it."""
    chance = random.Random(seed)
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        try:
            with ExitStack() as stack:
                trouble(Scene(server, proxy, load, chance, stack))
        except (ServerError, Closed, OSError):
            time.sleep(0.02)  # a pause between attempts, lest they take the load's share of CPU


def check_accounts(server: PostgresServer, proxy: ProxyProcess) -> None:
    """In the end nobody is counted who is not there."""
    eventually(lambda: metric(proxy, "poolproxy_clients") == 0, 15, "no client is counted")

    def balanced() -> bool:
        now = samples(proxy.metrics())
        granted, returned = (
            now[f"poolproxy_permits_{kind}_total"] for kind in ("granted", "returned")
        )
        return granted - returned == permits_in(now) == backends_of(server, "limited")

    eventually(balanced, 15, "permits are right")


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_nobody_starves(
    start_proxy: StartProxy, one_postgres: PostgresServer, size: int, mode: str
) -> None:
    """Twelve busy clients over three workers share a pool smaller than that: each gets on."""
    per_connection = 5 if mode == "session" else 1_000_000
    with role(one_postgres, "limited", size):
        proxy = start_proxy(config(one_postgres, workers=3, default_pool_size=size, pool_mode=mode))
        with (
            Sampler(one_postgres, "limited") as seen,
            Load(proxy.port, "limited", "db", 12, per_connection=per_connection) as load,
        ):
            load.wait_for_progress(1, 15)
            for runner in load.runners:
                runner.longest_gap = 0
            load.wait_for_progress(60, 30)
        assert not texts(load.errors)
        assert not load.wrong
        assert load.longest_gap < 10
        assert seen.most <= size
        assert not seen.refusals
        proxy.stop()


def test_an_unanswered_cancel_is_repeated(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A client leaves several long queries behind: each is cancelled, the permit comes back soon."""
    with role(one_postgres, "limited", 1):
        proxy = start_proxy(config(one_postgres, workers=1, default_pool_size=1))
        with Sampler(one_postgres, "limited") as seen, RoughClient(proxy.port) as patient:
            patient.log_in("limited", "db")
            with RoughClient(proxy.port) as client:
                client.log_in("limited", "db")
                client.send(query("select pg_sleep(60)") * 4)
                eventually(lambda: busy_backends(one_postgres, "limited"), 15, "the query runs")
                client.reset()
            began = time.monotonic()
            assert patient.query("select 1") == [("1",)]
            assert time.monotonic() - began < 20
        assert not seen.refusals
        assert metric(proxy, "poolproxy_permits_timed_out_total") == 0
        proxy.stop()
