"""More than there is room for: silent sockets, too many clients, no descriptors, slow readers."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import SYNC, bind, execute, message, parse, query
from tests.system.rough_client import Closed, RoughClient, ServerError
from tests.system.setups import config, role
from tests.system.watching import Load, descriptors, eventually, metric, private_bytes

MEGABYTE = 1024 * 1024
SILENT = 3000


@pytest.fixture(scope="session")
def postgres(one_postgres: PostgresServer) -> PostgresServer:
    """One version of PostgreSQL is enough for all of this module."""
    return one_postgres


def silent_sockets(proxy: ProxyProcess, count: int, stack: ExitStack) -> list[socket.socket]:
    """Connections that never send a byte."""
    return [
        stack.enter_context(socket.create_connection((proxy.host, proxy.port), timeout=10))
        for _ in range(count)
    ]


def test_silent_sockets_block_no_login(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """With thousands of sockets that say nothing a log-in takes no longer than usual."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(
            config(
                one_postgres,
                max_client_conn=SILENT + 100,
                max_logins=SILENT,
                client_login_timeout=60.0,
            )
        )
        family = (proxy.pid, *proxy.worker_pids())
        with ExitStack() as stack:
            silent_sockets(proxy, SILENT, stack)
            eventually(lambda: metric(proxy, "poolproxy_clients") == SILENT, 30, "all are accepted")
            began = time.monotonic()
            with RoughClient(proxy.port) as client:
                assert client.log_in("limited", "db").query("select 1") == [("1",)]
            assert time.monotonic() - began < 10
        eventually(lambda: metric(proxy, "poolproxy_clients") == 0, 10, "all are forgotten")
        eventually(lambda: sum(map(descriptors, family)) < 200, 15, "all are closed")
        proxy.stop()


def test_max_client_conn(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """The client that is one too many reads PgBouncer's text; when one leaves, the next gets in."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, max_client_conn=5))
        with ExitStack() as stack:
            clients = [
                stack.enter_context(RoughClient(proxy.port)).log_in("limited", "db")
                for _ in range(5)
            ]
            for _ in range(30):
                with RoughClient(proxy.port) as late, pytest.raises(ServerError) as caught:
                    late.log_in("limited", "db")
                assert caught.value.message == "no more connections allowed (max_client_conn)"
                assert caught.value.sqlstate == "53300"
            clients[0].close()
            eventually(lambda: admitted(proxy), 15, "a place is free")
        assert metric(proxy, "poolproxy_refused_connections_total") >= 30
        proxy.stop()


def admitted(proxy: ProxyProcess) -> bool:
    with RoughClient(proxy.port) as client:
        try:
            return client.log_in("limited", "db").query("select 1") == [("1",)]
        except ServerError:
            return False


def test_out_of_descriptors(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """With RLIMIT_NOFILE used up nobody dies; it is logged, and when sockets go all works again."""
    with role(one_postgres, "limited", 2):
        tables = config(one_postgres, max_client_conn=5000, default_pool_size=2, workers=2)
        proxy = start_proxy(tables)
        workers = proxy.worker_pids()
        with RoughClient(proxy.port) as client:
            client.log_in("limited", "db").query("select 1")
            for pid in (proxy.pid, *workers):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (60, 60))
            with ExitStack() as stack:
                silent_sockets(proxy, 300, stack)
                eventually(lambda: "out of file descriptors" in proxy.log, 15, "the log says so")
                assert client.query("select 1") == [("1",)]
            eventually(lambda: served(proxy), 10, "new clients are served")
        assert proxy.worker_pids() == workers
        proxy.stop()


def test_the_acceptor_is_out_of_descriptors(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """The accept loop survives EMFILE, and goes on when there are descriptors again."""
    with role(one_postgres, "limited", 2):
        proxy = start_proxy(config(one_postgres, default_pool_size=2))
        with RoughClient(proxy.port) as client:
            client.log_in("limited", "db").query("select 1")
            soft, hard = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (3, hard))
            with socket.create_connection((proxy.host, proxy.port)):
                eventually(lambda: "Too many open files" in proxy.log, 15, "the log says so")
                assert client.query("select 1") == [("1",)]
                resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (soft, hard))
                eventually(lambda: served(proxy), 15, "new clients are served")
        assert metric(proxy, r'poolproxy_accept_errors_total\{error="EMFILE"\}') >= 1
        proxy.stop()


def served(proxy: ProxyProcess) -> bool:
    """Whether a new client gets an answer."""
    try:
        with RoughClient(proxy.port, timeout=5) as client:
            return client.log_in("limited", "db").query("select 1") == [("1",)]
    except (Closed, OSError, ServerError):
        return False


def test_a_slow_reader_costs_little_memory(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A result of 200 MB is not stored, whether its reader stops or goes on; others are served."""
    sql = "select repeat('x', 100000) from generate_series(1, 2000)"
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, workers=1, default_pool_size=3))
        worker = proxy.worker_pids()[0]
        with (
            RoughClient(proxy.port, receive_buffer=4096) as slow,
            Load(proxy.port, "limited", "db", 4) as load,
        ):
            load.wait_for_progress(20)
            before = private_bytes(worker)
            slow.log_in("limited", "db").send(query(sql))
            load.wait_for_progress(100)
            assert private_bytes(worker) - before < 30 * MEGABYTE
            rows = sum(m.code == "D" for m in slow.replies())
            assert private_bytes(worker) - before < 30 * MEGABYTE
        assert rows == 2000
        assert not load.errors
        proxy.stop()


def test_a_slow_sender_costs_little_memory(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A query of 100 MB, sent with a pause in it, is not stored by the proxy; others are served."""
    text = b"select length('" + b"x" * (100 * MEGABYTE) + b"')\0"
    packet = message(b"Q", text)
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, workers=1, default_pool_size=3))
        worker = proxy.worker_pids()[0]
        with (
            RoughClient(proxy.port, timeout=60) as slow,
            Load(proxy.port, "limited", "db", 4) as load,
        ):
            load.wait_for_progress(20)
            before = private_bytes(worker)
            slow.log_in("limited", "db").send(packet[: 50 * MEGABYTE])
            load.wait_for_progress(50)
            assert private_bytes(worker) - before < 30 * MEGABYTE
            slow.send(packet[50 * MEGABYTE :])
            codes = [m.code for m in slow.replies()]
            assert private_bytes(worker) - before < 30 * MEGABYTE
        assert codes == ["T", "D", "C", "Z"]
        assert not load.errors
        proxy.stop()


def test_a_large_bind_and_its_row_cost_little_memory(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """100 MB for a named statement, whose Bind is rewritten, and the row that repeats them are not stored."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, workers=1, default_pool_size=3))
        worker = proxy.worker_pids()[0]
        with RoughClient(proxy.port, timeout=60) as client:
            client.log_in("limited", "db").send(parse("big", "select $1::text") + SYNC)
            client.replies()
            before = private_bytes(worker)
            client.send(bind("big", b"x" * (100 * MEGABYTE)) + execute() + SYNC)
            assert private_bytes(worker) - before < 30 * MEGABYTE
            answer = client.replies()
            assert private_bytes(worker) - before < 30 * MEGABYTE
        assert [m.code for m in answer] == ["2", "D", "C", "Z"]
        assert len(answer[1].body) == 100 * MEGABYTE + 6
        proxy.stop()


def test_many_clients_that_never_read(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A hundred clients that ask for much and read nothing keep neither memory nor the pool."""
    with role(one_postgres, "limited"):
        proxy = start_proxy(config(one_postgres, workers=1, default_pool_size=5, query_timeout=1.0))
        worker = proxy.worker_pids()[0]
        with ExitStack() as stack:
            deaf = [
                stack.enter_context(RoughClient(proxy.port, receive_buffer=4096))
                for _ in range(100)
            ]
            for client in deaf:
                client.log_in("limited", "db")
            before = private_bytes(worker)
            for client in deaf:
                client.send(query("select repeat('x', 1000000) from generate_series(1, 100)"))
            with RoughClient(proxy.port, timeout=60) as client:
                began = time.monotonic()
                client.log_in("limited", "db")
                assert time.monotonic() - began < 10
                assert private_bytes(worker) - before < 30 * MEGABYTE
        proxy.stop()
