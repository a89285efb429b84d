"""Signals, the death of the acceptor, workers that can't start: how it all ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, Signals

import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import any_alive
from tests.fixtures.proxy import ROOT, ProxyProcess, StartProxy, free_port
from tests.fixtures.toml import to_toml
from tests.system.protocol_client import query
from tests.system.rough_client import Closed, RoughClient, ServerError
from tests.system.setups import config, role
from tests.system.watching import (
    Load,
    Sampler,
    backends_of,
    busy_backends,
    eventually,
    metric,
    texts,
)


@pytest.fixture(scope="session")
def postgres(one_postgres: PostgresServer) -> PostgresServer:
    """One version of PostgreSQL is enough for all of this module."""
    return one_postgres


def has_left(proxy: ProxyProcess) -> bool:
    return proxy.process.poll() is not None


def refuses(proxy: ProxyProcess) -> bool:
    """Whether nobody listens any more."""
    try:
        RoughClient(proxy.port, timeout=1).close()
    except OSError:
        return True
    return False


def test_sigterm_waits_for_clients(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """Without shutdown_timeout nobody new gets in, clients go on with query after query, and the last one to
    leave ends it.
    """
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, shutdown_timeout=0))
        workers = proxy.worker_pids()
        with RoughClient(proxy.port) as one, RoughClient(proxy.port) as two:
            one.log_in("limited", "db").query("begin; select 1")
            two.log_in("limited", "db")
            proxy.signal(SIGTERM)
            eventually(lambda: refuses(proxy), 15, "it listens no more")
            for _ in range(3):
                assert one.query("select 1") == [("1",)]
                assert two.query("select 2") == [("2",)]
            two.close()
            assert one.query("commit; select 3") == [("3",)]
            assert not has_left(proxy)
        eventually(lambda: has_left(proxy), 15, "it ends")
        assert proxy.process.returncode == 0
        assert not any_alive(workers)


def test_shutdown_timeout(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """SIGTERM waits no longer than shutdown_timeout, and cancels what still runs."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, shutdown_timeout=0.5))
        with RoughClient(proxy.port) as one, RoughClient(proxy.port) as two:
            one.log_in("limited", "db").send(query("select pg_sleep(60)"))
            two.log_in("limited", "db")
            eventually(lambda: busy_backends(one_postgres, "limited"), 15, "the query runs")
            proxy.signal(SIGTERM)
            eventually(lambda: has_left(proxy), 4, "it ends")
            assert proxy.process.returncode == 0
            two.until_eof()
        assert "after shutdown_timeout (0.5 s)" in proxy.log


def test_sigint_waits_for_transactions(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A transaction may end; who has none is told that the server shuts down."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres))
        with RoughClient(proxy.port) as busy, RoughClient(proxy.port) as idle:
            busy.log_in("limited", "db").query("begin; select 1")
            idle.log_in("limited", "db")
            proxy.signal(SIGINT)
            with pytest.raises(ServerError) as caught:
                idle.query("select 1")
            assert caught.value.message == "server shutting down"
            assert caught.value.sqlstate == "57P01"
            assert not has_left(proxy)
            assert busy.query("select 2; commit") == [("2",)]
            eventually(lambda: has_left(proxy), 15, "it ends")
        assert proxy.process.returncode == 0


@pytest.mark.parametrize(
    "numbers", [[SIGQUIT], [SIGTERM, SIGTERM], [SIGINT, SIGTERM]], ids=lambda n: str(len(n))
)
def test_leaving_at_once(
    start_proxy: StartProxy, one_postgres: PostgresServer, numbers: list[Signals]
) -> None:
    """SIGQUIT, or any second signal, waits for nothing, and leaves no backend that still works."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, listen_addr=["127.0.0.1"], unix_socket_dir="/tmp"))
        workers = proxy.worker_pids()
        path = Path(f"/tmp/.s.PGSQL.{proxy.port}")
        assert path.exists()
        with RoughClient(proxy.port) as client:
            client.log_in("limited", "db").send(query("select pg_sleep(60)"))
            eventually(lambda: busy_backends(one_postgres, "limited"), 15, "the query runs")
            for number in numbers:
                proxy.signal(number)
                eventually(lambda n=number: f"got {n.name}" in proxy.log, 15, "it is noticed")
            eventually(lambda: has_left(proxy), 4, "it ends")
            client.until_eof()
        assert proxy.process.returncode == 0
        assert not any_alive(workers)
        assert not path.exists()


def test_signals_under_load(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """SIGINT under load ends the clients between their transactions: none loses an answer."""
    with role(one_postgres, "limited", 4):
        proxy = start_proxy(config(one_postgres, default_pool_size=4))
        with Load(proxy.port, "limited", "db", 12) as load:
            load.wait_for_progress()
            proxy.signal(SIGINT)
            eventually(lambda: has_left(proxy), 15, "it ends")
        assert not load.wrong
        allowed = ("server shutting down", "pooler is shutting down", "Eof", "refused", "reset")
        assert not [t for t in texts(load.errors) if not any(word in t for word in allowed)]


def test_reload_under_load(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """Limits change at once, bad files change nothing, and no client sees an error."""
    with role(one_postgres, "limited", 6):
        tables = config(one_postgres, default_pool_size=6)
        proxy = start_proxy(tables)
        with (
            Load(proxy.port, "limited", "db", 12) as load,
            Sampler(one_postgres, "limited") as seen,
        ):
            load.wait_for_progress()
            for number, size in enumerate((2, 6, 1, 3)):
                tables["poolproxy"]["default_pool_size"] = size
                proxy.write_config(tables)
                proxy.signal(SIGHUP)
                eventually(
                    lambda n=number: proxy.log.count("configuration reloaded") == n + 1,
                    15,
                    "reload",
                )
                eventually(
                    lambda s=size: backends_of(one_postgres, "limited") <= s, 15, f"at most {size}"
                )
                load.wait_for_progress(2)
                assert backends_of(one_postgres, "limited") <= size
            for number, bad in enumerate(
                ("[poolproxy", "[poolproxy]\ndefault_pool_sise = 3\n", "")
            ):
                proxy.config_path.write_text(bad)
                proxy.signal(SIGHUP)
                eventually(lambda n=number: proxy.log.count("not reloaded") == n + 1, 15, "refusal")
            assert "default_pool_sise" in proxy.log
            load.wait_for_progress()
            assert metric(proxy, "poolproxy_config_last_reload_successful") == 0
        assert not texts(load.errors)
        assert not load.wrong
        assert not seen.refusals
        proxy.stop()


def test_databases_come_and_go(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """A removed database tells its clients, waiting ones too, and gives back all it had."""
    with role(one_postgres, "limited", 2):
        tables = config(one_postgres, default_pool_size=1)
        target = tables["databases"]["db"]
        proxy = start_proxy(tables)
        with RoughClient(proxy.port) as stays:
            stays.log_in("limited", "db").query("select 1")
            for number in range(1, 3):
                reload(
                    proxy, tables | {"databases": {"db": target, "more": target}}, 2 * number - 1
                )
                with RoughClient(proxy.port) as idle, RoughClient(proxy.port) as busy:
                    idle.log_in("limited", "more")
                    busy.log_in("limited", "more").query("begin; select 1")
                    reload(proxy, tables, 2 * number)
                    for client in (idle, busy):
                        with pytest.raises(ServerError, match="database removed"):
                            client.query("select 1")
                    with RoughClient(proxy.port) as late, pytest.raises(ServerError) as caught:
                        late.log_in("limited", "more")
                    assert caught.value.sqlstate == "3D000"
                eventually(lambda: backends_of(one_postgres, "limited") == 1, 15, "its servers end")
            assert stays.query("select 1") == [("1",)]
        proxy.stop()


def reload(proxy: ProxyProcess, tables: dict[str, object], count: int) -> None:
    """Put a configuration into use, the ``count``-th one; all workers have it afterwards."""
    proxy.write_config(tables)
    proxy.signal(SIGHUP)
    eventually(lambda: proxy.log.count("configuration reloaded") == count, 15, "reloaded")
    metric(proxy, "poolproxy_clients")  # its answer comes behind the configuration


def test_what_takes_effect_at_a_restart_does_nothing_now(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """Another track_extra_parameters is warned of, and clients old and new go on undisturbed."""
    with role(one_postgres, "limited"):
        tables = config(one_postgres)
        proxy = start_proxy(tables)
        with RoughClient(proxy.port) as old:
            old.log_in("limited", "db", TimeZone="Asia/Tokyo").query("select 1")
            tables["poolproxy"]["track_extra_parameters"] = ["search_path", "IntervalStyle"]
            reload(proxy, tables, 1)
            with RoughClient(proxy.port) as new:
                new.log_in("limited", "db", TimeZone="Asia/Seoul")
                for _ in range(3):
                    assert old.query("show timezone") == [("Asia/Tokyo",)]
                    assert new.query("show timezone") == [("Asia/Seoul",)]
        assert "takes effect when poolproxy is restarted" in proxy.log
        proxy.stop()


def test_the_acceptor_is_killed(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """Its workers let a transaction end, leave by orphan_timeout, and no backend goes on working."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, orphan_timeout=1.5))
        workers = proxy.worker_pids()
        with (
            RoughClient(proxy.port) as idle,
            RoughClient(proxy.port) as brief,
            RoughClient(proxy.port) as busy,
        ):
            idle.log_in("limited", "db")
            brief.log_in("limited", "db").query("begin; select 1")
            busy.log_in("limited", "db").send(query("select pg_sleep(60)"))
            eventually(lambda: busy_backends(one_postgres, "limited"), 15, "the query runs")
            os.kill(proxy.pid, SIGKILL)
            proxy.process.wait()
            assert brief.query("select 2; commit") == [("2",)]
            with pytest.raises((ServerError, Closed)):
                idle.query("select 1")
            eventually(lambda: not any_alive(workers), 4, "the workers leave")
            busy.until_eof()
        eventually(lambda: not backends_of(one_postgres, "limited"), 15, "no backend is left")


def test_the_acceptor_is_killed_under_load(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """Another instance can take the port over at once."""
    with role(one_postgres, "limited"):
        tables = config(one_postgres, orphan_timeout=2.0)
        first = start_proxy(tables)
        workers = first.worker_pids()
        with Load(first.port, "limited", "db", 8) as load:
            load.wait_for_progress()
            os.kill(first.pid, SIGKILL)
            first.process.wait()
            tables["poolproxy"]["listen_port"] = first.port
            second = start_proxy(tables)
            load.wait_for_progress()
            eventually(lambda: not any_alive(workers), 4, "the old workers leave")
        assert not load.wrong
        second.stop()


def test_a_worker_that_cannot_boot(one_postgres: PostgresServer, tmp_path: Path) -> None:
    """At the first start the server ends with status 3, names the cause, and leaves nothing behind."""
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'poolproxy.worker' in sys.orig_argv:\n"
        "    os.write(2, b'poisoned on purpose')\n"
        "    os._exit(7)\n"
    )
    path = tmp_path / "poolproxy.toml"
    tables = config(one_postgres, listen_port=free_port(), metrics_listen="", unix_socket_dir="")
    path.write_text(to_toml(tables))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "poolproxy", "run", str(path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(poison)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "could not start: exit status 7" in done.stderr
    assert "poisoned on purpose" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 10
