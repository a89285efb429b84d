"""Server connections that go from worker to worker: the same backend, with all that it has."""

from __future__ import annotations

from contextlib import ExitStack

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import StartProxy
from tests.system.protocol_client import SYNC, bind, message, parse
from tests.system.support import client
from tests.system.watching import eventually, metric

EXECUTE = message("E", b"\0\0\0\0\0")


def test_the_same_backend_serves_clients_of_all_workers(
    start_proxy: StartProxy, postgres: PostgresServer
) -> None:
    """With a pool of one, in turn, each with its own statements and parameters; none is opened anew."""
    config = {
        "poolproxy": {
            "listen_addr": ["127.0.0.1"],
            "auth_type": "trust",
            "workers": 4,
            "client_moves": False,
            "default_pool_size": 1,
            "pool_mode": "transaction",
        },
        "users": {postgres.user: {"password": postgres.password}},
        "databases": {
            "db": {
                "host": postgres.host,
                "port": postgres.port,
                "dbname": "postgres",
                "user": postgres.user,
                "password": postgres.password,
            }
        },
    }
    proxy = start_proxy(config)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(client(proxy, "db", postgres.user, application_name=f"client {n}"))
            for n in range(8)
        ]
        for n, one in enumerate(clients):
            one.send(parse("mine", f"select {n}, pg_backend_pid()") + SYNC)
            one.replies()
        pids = set()
        for _ in range(3):
            for n, one in enumerate(clients):
                one.send(bind("mine") + EXECUTE + SYNC)
                number, pid = one.results()[0]
                assert number == str(n)
                pids.add(pid)
                assert one.query("show application_name") == [(f"client {n}",)]
        assert len(pids) == 1
        eventually(
            lambda: metric(proxy, r'poolproxy_server_moves_total\{outcome="taken"\}') >= 10,
            5,
            "servers move",
        )
        assert metric(proxy, r"poolproxy_permits_granted_total") == 1
    proxy.stop()
