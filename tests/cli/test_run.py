from __future__ import annotations

from signal import SIGINT, SIGQUIT, SIGTERM, Signals
from typing import Any

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import is_alive
from tests.fixtures.proxy import StartProxy


def config(server: PostgresServer, **proxy: object) -> dict[str, Any]:
    """A configuration with one database in front of the server."""
    return {
        "poolproxy": {"auth_file": "userlist.txt", **proxy},
        "databases": {"postgres": {"host": server.host, "port": server.port}},
    }


def userlist(server: PostgresServer) -> dict[str, str]:
    """The auth_file with the server's superuser."""
    return {"userlist.txt": f'"{server.user}" "{server.password}"\n'}


@pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGQUIT], ids=lambda number: number.name)
def test_a_run_from_start_to_end(
    start_proxy: StartProxy, one_postgres: PostgresServer, number: Signals
) -> None:
    """Clients get answers, metrics are there, and a signal ends all processes with status 0."""
    proxy = start_proxy(config(one_postgres, workers=2), userlist(one_postgres))
    url = proxy.url(user=one_postgres.user, password=one_postgres.password, database="postgres")
    with psycopg.connect(url, connect_timeout=10) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    workers = proxy.worker_pids()
    assert len(workers) == 2
    assert "poolproxy_" in proxy.metrics()
    assert proxy.stop(number) == 0
    assert not any(is_alive(pid) for pid in workers)


@pytest.mark.needs_root
def test_root_is_warned(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """As root without `user` the log names the setting."""
    proxy = start_proxy(config(one_postgres), userlist(one_postgres))
    assert "running as root; set `user`" in proxy.log


def test_a_taken_port_is_an_error(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """A second proxy on the same port ends with status 1 and names the address."""
    first = start_proxy(config(one_postgres), userlist(one_postgres))
    text = config(one_postgres, listen_port=first.port)
    second = start_proxy(text, userlist(one_postgres), wait=False)
    assert second.process.wait(20) == 1
    assert f"127.0.0.1:{first.port}" in second.log
