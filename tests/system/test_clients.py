"""Connections as such: protocol versions, TCP options, storms. Clients have files in ``tests/clients``."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess

import asyncpg
import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.support import eventually, tables

POOL = 8


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Two workers, a small pool in each mode, SCRAM, and unusual TCP settings."""
    databases = {
        "transaction": {"pool_mode": "transaction", "pool_size": POOL},
        "session": {"pool_mode": "session", "pool_size": POOL},
    }
    return start_module_proxy(
        tables(
            postgres,
            databases,
            workers=2,
            auth_type="scram-sha-256",
            tcp_keepidle="123s",
            tcp_keepintvl="45s",
            tcp_keepcnt=6,
        )
    )


@pytest.fixture(params=["transaction", "session"])
def url(request: pytest.FixtureRequest, proxy: ProxyProcess, postgres: PostgresServer) -> str:
    """A URL in each mode."""
    return proxy.url(user=postgres.user, password=postgres.password, database=request.param)


@pytest.mark.parametrize(
    "postgres_binaries",
    [pytest.param("wheel", marks=pytest.mark.needs_wheel_postgres)],  # 18 or later: libpq can ask
    indirect=True,
)
def test_newest_protocol_version(postgres: PostgresServer, url: str) -> None:
    """A libpq that offers the newest protocol version falls back to 3.0."""
    command = [str(postgres.binaries.tool("psql")), "-XAtc", "select 'in'"]
    done = subprocess.run(
        [*command, f"{url}?max_protocol_version=latest"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("in\n", "")


def test_socket_options(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """Both sides of the proxy have keepalive with the settings' times; ss(8) shows the timers."""
    url = proxy.url(user=postgres.user, password=postgres.password, database="session")
    with psycopg.connect(url) as connection:
        connection.execute("select 1")
        local = socket.socket(fileno=os.dup(connection.fileno()))
        try:
            port = local.getsockname()[1]
        finally:
            local.close()
        for condition in (
            f"( sport = :{proxy.port} and dport = :{port} )",
            f"dport = :{postgres.port}",
        ):
            eventually(
                lambda c=condition: _keeps_alive(c), f"a keepalive timer of 123 s, {condition}"
            )


def _keeps_alive(condition: str) -> bool:
    shown = subprocess.run(
        ["ss", "-tnoH", condition], capture_output=True, text=True, check=True
    ).stdout
    return bool(re.search(r"timer:\(keepalive,(1min\d+sec|2min\S*),0\)", shown))


def test_many_clients_come_at_once(proxy: ProxyProcess, postgres: PostgresServer) -> None:
    """A storm of connections is accepted and answered, each with its own result."""

    async def one(number: int) -> int:
        connection = await asyncpg.connect(
            proxy.url(user=postgres.user, password=postgres.password, database="transaction"),
            ssl=False,
            statement_cache_size=0,
        )
        try:
            return int(await connection.fetchval("select $1::int", number))
        finally:
            await connection.close()

    async def storm() -> list[int]:
        return await asyncio.gather(*(one(i) for i in range(150)))

    assert asyncio.run(storm()) == list(range(150))
