"""The running program from outside: its log, its Unix socket, its signals."""

from __future__ import annotations

import grp
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGTERM

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import StartProxy
from tests.system.protocol_client import RawClient, refusal
from tests.system.support import client, eventually, tables

DATABASE = {"a": {"pool_mode": "transaction"}}


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder for Unix sockets: their paths must be short."""
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as folder:
        yield Path(folder)


def test_log_lines(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """Lines look as PgBouncer's do, and tell of log-ins, errors and departures."""
    proxy = start_proxy(tables(one_postgres, DATABASE, workers=1))
    with client(proxy, "a") as one:
        one.query("select 1")
    refusal((proxy.host, proxy.port), "no such", "postgres")
    eventually(lambda: "closing because: client close request (age=" in proxy.log, "it is logged")
    lines = proxy.log.splitlines()
    pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ \[\d+\] (FATAL|ERROR|WARNING|LOG) \S.*"
    warning = "poolproxy: warning: running as root"
    odd = [line for line in lines if not re.fullmatch(pattern, line)]
    assert [line for line in odd if not line.startswith(warning)] == []
    for expected in (
        r"LOG C-\d+: a/postgres@127\.0\.0\.1:\d+ login attempt: db=a user=postgres tls=no",
        rf"LOG S-\d+: a/postgres@127\.0\.0\.1:{one_postgres.port} pid=\d+ new connection to server",
        r"LOG C-\d+: a/postgres@127\.0\.0\.1:\d+ closing because: client close request \(age=0s\)",
        r"WARNING C-\d+: no such/postgres@127\.0\.0\.1:\d+ pooler error: no such database: no such",
        rf"listening on 127\.0\.0\.1:{proxy.port}",
    ):
        assert re.search(expected, proxy.log), expected
    assert one_postgres.password not in proxy.log


def test_quiet_log(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """Each kind of line can be turned off."""
    off = {"log_connections": False, "log_disconnections": False, "log_pooler_errors": False}
    proxy = start_proxy(tables(one_postgres, DATABASE, workers=1, **off))
    with client(proxy, "a") as one:
        one.query("select 1")
    refusal((proxy.host, proxy.port), "no such", "postgres")
    assert proxy.stop() == 0
    for words in ("login attempt", "new connection", "closing because", "pooler error"):
        assert words not in proxy.log


def test_unix_socket(start_proxy: StartProxy, one_postgres: PostgresServer, sockets: Path) -> None:
    """Mode and group are as set, clients get in, and the file goes with the proxy."""
    group = grp.getgrgid(os.getgroups()[-1] if os.getgroups() else os.getgid()).gr_name
    proxy = start_proxy(
        tables(
            one_postgres,
            DATABASE,
            workers=1,
            unix_socket_dir=str(sockets),
            unix_socket_mode="0750",
            unix_socket_group=group,
        )
    )
    path = sockets / f".s.PGSQL.{proxy.port}"
    assert path.stat().st_mode & 0o777 == 0o750
    assert grp.getgrgid(path.stat().st_gid).gr_name == group
    with psycopg.connect(
        host=str(sockets), port=proxy.port, user="postgres", dbname="a"
    ) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert "a/postgres@unix:" in proxy.log
    assert proxy.stop(SIGTERM) == 0
    assert not path.exists()


def test_stale_unix_socket(
    start_proxy: StartProxy, one_postgres: PostgresServer, sockets: Path
) -> None:
    """The file that a killed process has left is replaced."""
    config = tables(
        one_postgres,
        DATABASE,
        workers=1,
        unix_socket_dir=str(sockets),
        listen_port=65432,
        listen_addr=[],
    )
    path = str(sockets / ".s.PGSQL.65432")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    start_proxy(config)
    with RawClient(path, "a") as one:
        assert one.value("select 1") == "1"


def test_live_unix_socket(
    start_proxy: StartProxy, one_postgres: PostgresServer, sockets: Path
) -> None:
    """The socket of a process that lives is not taken away from it."""
    config = tables(
        one_postgres,
        DATABASE,
        workers=1,
        unix_socket_dir=str(sockets),
        listen_port=65432,
        listen_addr=[],
    )
    start_proxy(config)
    second = start_proxy(config, wait=False)
    assert second.process.wait(20) == 1
    assert "unix socket is in use, cannot continue" in second.log
    with RawClient(str(sockets / ".s.PGSQL.65432"), "a") as one:
        assert one.value("select 1") == "1"


def test_several_addresses(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """Every address of listen_addr is served."""
    proxy = start_proxy(
        tables(one_postgres, DATABASE, workers=1, listen_addr=["127.0.0.1", "127.0.0.2"])
    )
    for host in ("127.0.0.1", "127.0.0.2"):
        with RawClient((host, proxy.port), "a") as one:
            assert one.value("select 1") == "1"


def test_reload(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """SIGHUP takes new settings over for clients that are there and that come; a bad file changes nothing."""
    proxy = start_proxy(tables(one_postgres, DATABASE, workers=2))
    with client(proxy, "a") as one:
        one.query("select 1")
        refusal((proxy.host, proxy.port), "b", "postgres")
        proxy.write_config(tables(one_postgres, {**DATABASE, "b": {}}, workers=2))
        proxy.signal(SIGHUP)

        def enters() -> bool:
            try:
                with client(proxy, "b") as two:
                    return two.value("select 1") == "1"
            except Exception:
                return False

        eventually(enters, "the new database is there")
        proxy.write_config("[poolproxy]\npool_mod = 'nonsense'\n")
        proxy.signal(SIGHUP)
        eventually(lambda: "did you mean" in proxy.log, "the mistake is logged")
        assert one.value("select 2") == "2"
        assert enters()
