"""The admin console over two real workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest

import poolproxy
from poolproxy.admin.command import Order, Show
from poolproxy.admin.registry import ORDERS, SHOWS
from poolproxy.demo.postgres import PostgresServer
from tests.admin import pgbouncer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.consoles import console, give, one
from tests.system.protocol_client import ErrorAnswer, RawClient, query
from tests.system.rough_client import RoughClient
from tests.system.support import client, eventually, tables

USERS = {"boss": {}, "looker": {}, "anybody": {}}
VISIBLE = [show for show in SHOWS.values() if not show.hidden]


@pytest.fixture(scope="module")
def proxy(one_postgres: PostgresServer, start_module_proxy: StartProxy) -> ProxyProcess:
    databases = {"shop": {"pool_size": 3}, "other": {"pool_mode": "session"}}
    config = tables(
        one_postgres,
        databases,
        USERS,
        workers=2,
        pool_mode="transaction",
        admin_users=["boss"],
        stats_users=["looker"],
        max_client_conn=60,
        stats_period=0.5,
    )
    return start_module_proxy(config)


@pytest.fixture
def crowd(proxy: ProxyProcess) -> Iterator[list[RawClient]]:
    """Eight clients of database shop, some on each worker; the first two are in a transaction."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client(proxy, "shop")) for _ in range(8)]
        for one_ in clients[:2]:
            one_.query("begin")
        yield clients


# -- access ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["pgbouncer", "poolproxy"])
def test_both_names_lead_to_the_console(proxy: ProxyProcess, database: str) -> None:
    """PgBouncer's name and ours; the server's version is PgBouncer's, as drivers see it there."""
    with console(proxy, database=database) as connection:
        assert connection.execute("show version").fetchone() == {
            "version": f"PgBouncer {poolproxy.PGBOUNCER_VERSION} (poolproxy {poolproxy.__version__})"
        }
        version = connection.info.parameter_status("server_version")
        assert version == f"{poolproxy.PGBOUNCER_VERSION}/bouncer"


def test_others_are_not_allowed(proxy: ProxyProcess) -> None:
    """A user that may use databases may not use the console."""
    with pytest.raises(psycopg.OperationalError, match="not allowed"):
        give(proxy, "show version", "anybody")


@pytest.mark.parametrize("show", VISIBLE, ids=lambda show: show.name)
def test_rights_of_shows(proxy: ProxyProcess, show: Show) -> None:
    """stats_users may give every SHOW but SHOW FDS; each has its columns, in order and of its types."""
    name = show.name
    with console(proxy) as connection:
        cursor = connection.execute(f"show {name}")
        described = [(c.name, c.type_code) for c in cursor.description or ()]
    assert described == (pgbouncer.columns(name) if name in pgbouncer.COLUMNS else described)
    assert described == [(c.name, c.type.value) for c in show.columns]
    with console(proxy, "looker") as connection:
        if name == "FDS":
            with pytest.raises(psycopg.Error, match="admin access needed"):
                connection.execute("show fds")
        else:
            connection.execute(f"show {name}")


@pytest.mark.parametrize("order", ORDERS.values(), ids=lambda order: order.verb)
def test_stats_users_may_change_nothing(proxy: ProxyProcess, order: Order) -> None:
    """Every order needs admin_users, and the connection goes on after the refusal."""
    words = {
        "SET": "SET verbose = 0",
        "DISABLE": "DISABLE shop",
        "ENABLE": "ENABLE shop",
        "DRAIN": "DRAIN shop",
    }
    words |= {"KILL_CLIENT": "KILL_CLIENT 1", "RECYCLE WORKER": "RECYCLE WORKER 0"}
    verb = order.verb
    with console(proxy, "looker") as connection:
        with pytest.raises(psycopg.Error, match="admin access needed") as caught:
            connection.execute(words.get(verb, verb))
        assert caught.value.sqlstate == "42501"
        assert connection.execute("show state").fetchall()


def test_the_owner_needs_no_password(one_postgres: PostgresServer, start_proxy: StartProxy) -> None:
    """At the Unix socket, by the name pgbouncer, who runs as the pooler does; nobody else by that name."""
    config = tables(one_postgres, {"shop": {}}, workers=1, auth_type="scram-sha-256")
    folder = tempfile.mkdtemp(prefix="poolproxy-console-")
    Path(folder).chmod(0o777)
    config["poolproxy"]["unix_socket_dir"] = folder
    with_socket = start_proxy(config)
    uid = os.stat(f"/proc/{with_socket.worker_pids()[0]}").st_uid
    psql = one_postgres.binaries.tool("psql")
    command = [str(psql), "-X", "-h", folder, "-p", str(with_socket.port)]
    command += ["-U", "pgbouncer", "-w", "-Atc", "show fds", "pgbouncer"]

    def run(user: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, user=user, capture_output=True, text=True, check=False, timeout=30
        )

    assert run(uid).returncode == 0
    if os.geteuid() == 0:
        stranger = run(uid + 1)
        assert "password" in stranger.stderr
    with_socket.stop()
    Path(folder).rmdir()


def test_the_log_names_consoles_as_all_clients(proxy: ProxyProcess) -> None:
    """Both lines of one begin as those that tools for PgBouncer's log look for."""
    give(proxy, "show version")
    line = r"\] LOG C-\d+: pgbouncer/boss@127\.0\.0\.1:\d+ "
    for text in ("login attempt: db=pgbouncer", "closing because: client close request"):
        eventually(lambda text=text: re.search(line + text, proxy.log), text)


# -- what they show -------------------------------------------------------------------------------


def items(proxy: ProxyProcess, name: str) -> int:
    return int(one(give(proxy, "show lists"), list=name)["items"])


def test_counts_are_of_all_workers(proxy: ProxyProcess, crowd: list[RawClient]) -> None:
    """Eight clients on two workers are eight clients, and the two transactions two servers."""
    workers = give(proxy, "show workers")
    assert len(workers) == 2
    assert all(row["clients"] >= 3 for row in workers)
    pool = one(give(proxy, "show pools"), database="shop")
    assert (pool["cl_active"], pool["cl_waiting"], pool["sv_active"]) == (8, 0, 2)
    assert pool["pool_mode"] == "transaction"
    clients = [r for r in give(proxy, "show clients") if r["database"] == "shop"]
    assert sorted(r["state"] for r in clients) == ["active"] * 2 + ["idle"] * 6
    assert len({r["id"] for r in clients}) == 8
    servers = [r for r in give(proxy, "show servers") if r["database"] == "shop"]
    linked = {r["link"] for r in servers if r["state"] == "active"}
    assert linked == {r["ptr"] for r in clients if r["state"] == "active"}
    database = one(give(proxy, "show databases"), name="shop")
    assert database["current_client_connections"] == 8
    assert (
        database["current_connections"]
        == one(give(proxy, "show ledger"), database="shop")["permits"]
    )
    assert [row["list"] for row in give(proxy, "show lists")] == pgbouncer.LISTS
    # The eight and this console; the one before it may not have gone yet.
    eventually(lambda: items(proxy, "used_clients") == 9, "clients of all workers are counted")


def test_a_waiting_client_shows(proxy: ProxyProcess) -> None:
    """It is in cl_waiting, and maxwait grows."""

    def waits() -> bool:
        row = one(give(proxy, "show pools"), database="shop")
        return bool(row["cl_waiting"] == 1 and row["maxwait"] * 10**6 + row["maxwait_us"] > 50_000)

    with ExitStack() as stack:
        holders = [stack.enter_context(client(proxy, "shop")) for _ in range(3)]
        for holder in holders:
            holder.query("begin")
        waiter = stack.enter_context(client(proxy, "shop"))
        waiter.send(query("select 1"))
        eventually(waits, "one client waits")
        rows = give(proxy, "show active_sockets")
        assert len([r for r in rows if r["state"] == "cl_waiting"]) == 1


def test_stats_count_and_average(proxy: ProxyProcess) -> None:
    """Totals grow with the work, over both workers, and the averages follow after a stats_period."""
    before = one(give(proxy, "show stats_totals"), database="shop")
    for _ in range(4):
        with client(proxy, "shop") as worker:
            for _ in range(10):
                worker.query("select 1")

    def counted() -> bool:
        now = one(give(proxy, "show stats"), database="shop")
        return bool(now["total_xact_count"] - before["xact_count"] >= 40)

    eventually(counted, "40 transactions more")
    with console(proxy) as connection:
        names = [row["name"] for row in connection.execute("show totals").fetchall()]
        assert names == pgbouncer.TOTALS
        rows = connection.execute("show stats").fetchall()
        assert one(rows, database="pgbouncer")["total_query_count"] > 0

        def averaged() -> bool:
            rows = connection.execute("show stats_averages").fetchall()
            return bool(one(rows, database="pgbouncer")["query_count"] > 0)

        eventually(averaged, "an average of the console's own queries")


def test_config_shows_settings_as_pgbouncer_does(proxy: ProxyProcess) -> None:
    """Numbers in seconds, booleans as 1 and 0; what a restart takes is not changeable."""
    rows = {row["key"]: row for row in give(proxy, "show config")}
    assert rows["max_client_conn"]["value"] == "60"
    assert rows["query_wait_timeout"]["value"] == "120"
    assert (rows["tcp_keepalive"]["value"], rows["unix_socket_mode"]["default"]) == ("1", "0777")
    assert (rows["user"]["changeable"], rows["listen_port"]["changeable"]) == ("no", "yes")
    assert rows["admin_users"]["value"] == "boss"


def test_prepared_statements(proxy: ProxyProcess) -> None:
    """A statement that a client has prepared, with its text."""
    with psycopg.connect(
        proxy.url(user="postgres", password="x", database="shop"), autocommit=True
    ) as connection:
        connection.prepare_threshold = 0
        connection.execute("select 4711 + %s", [1])
        rows = give(proxy, "show prepared_statements")
        found = [r for r in rows if "4711" in r["query"]]
        assert [(r["database"], r["clients"], r["servers"]) for r in found] == [("shop", 1, 1)]
        assert one(
            [r for r in give(proxy, "show clients") if r["database"] == "shop"],
            prepared_statements=1,
        )


# -- clients and their habits ---------------------------------------------------------------------


def test_asyncpg(proxy: ProxyProcess) -> None:
    """Extended protocol, with every value in binary."""

    async def look() -> None:
        connection = await asyncpg.connect(
            host=proxy.host, port=proxy.port, user="looker", database="pgbouncer"
        )
        rows = await connection.fetch("SHOW DATABASES")
        assert {row["name"]: row["pool_size"] for row in rows}["shop"] == 3
        stats = await connection.fetchrow("SHOW STATS")
        assert stats["total_query_count"] >= 0
        await connection.close()

    asyncio.run(look())


def test_psycopg2_and_psql(one_postgres: PostgresServer, proxy: ProxyProcess) -> None:
    """The simple protocol, as exporters and people use it."""
    connection = psycopg2.connect(
        host=proxy.host, port=proxy.port, user="looker", dbname="pgbouncer"
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SHOW STATS;")
        assert next(column.name for column in cursor.description) == "database"
    connection.close()
    psql = [one_postgres.binaries.tool("psql"), "-X", "-h", proxy.host, "-p", str(proxy.port)]
    shown = subprocess.run(
        [*psql, "-U", "boss", "pgbouncer"],
        input="set application_name = 'x';\nshow help;\n;\nshow nothing;\nshow state;\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "NOTICE:  SET ignored" in shown.stderr
    assert "Console usage" in shown.stderr
    assert "invalid command 'show nothing;', use SHOW HELP;" in shown.stderr
    assert "active    | yes" in shown.stdout


def test_garbage_ends_one_connection_only(proxy: ProxyProcess) -> None:
    """A message that is none, and one that is too long: an error, and the worker goes on."""
    pids = set(proxy.worker_pids())
    for garbage in (b"z\0\0\0\4", b"Q\xff\xff\xff\xff", b"Q\0\x10\0\0" + b"x" * 200_000):
        rough = RawClient((proxy.host, proxy.port), "pgbouncer", "boss")
        rough.send(garbage)
        assert rough.farewell().message.startswith(("unknown pkt", "bad packet header"))
    assert set(proxy.worker_pids()) == pids
    assert give(proxy, "show state")


# -- load and failure -----------------------------------------------------------------------------


def test_the_console_is_exempt_from_max_client_conn(proxy: ProxyProcess) -> None:
    """Full is full for others only; and 200 consoles leave all places to clients."""
    with ExitStack() as stack:
        address = proxy.host, proxy.port
        consoles = [
            stack.enter_context(RawClient(address, "pgbouncer", "boss")) for _ in range(200)
        ]
        for _ in range(60):
            stack.enter_context(client(proxy, "shop"))
        with pytest.raises(ErrorAnswer, match="max_client_conn"):
            client(proxy, "shop")
        assert one(give(proxy, "show pools"), database="pgbouncer")["cl_active"] >= 201
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda c: c.query("show lists"), consoles))
        assert all(answers)
    eventually(
        lambda: one(give(proxy, "show pools"), database="pgbouncer")["cl_active"] == 1,
        "all but our own console are forgotten",
    )


def test_a_console_that_does_not_read_holds_up_nobody(proxy: ProxyProcess) -> None:
    """It asks for far more than a socket takes; others are served meanwhile, and its end is noticed."""
    rough = RoughClient(proxy.port, receive_buffer=4096).log_in("boss", "pgbouncer")
    rough.send(b"Q\0\0\0\x10show config\0" * 400)
    assert give(proxy, "show clients")
    with client(proxy, "shop") as other:
        assert other.query("select 1")
    rough.close()
    eventually(
        lambda: one(give(proxy, "show pools"), database="pgbouncer")["cl_active"] == 1,
        "it is forgotten",
    )


def test_a_stopped_worker_is_left_out(
    one_postgres: PostgresServer, start_proxy: StartProxy
) -> None:
    """SHOW CLIENTS answers within bounded time without it, and says so; a killed one is replaced."""
    config = tables(one_postgres, {"shop": {}}, USERS, workers=2, admin_users=["boss"])
    two = start_proxy(config)
    notices = []
    with console(two) as connection:
        connection.add_notice_handler(lambda d: notices.append(d.message_primary))
        mine = next(r for r in give(two, "show clients"))["id"]
        assert mine

        def workers() -> list[dict[str, Any]]:
            rows = connection.execute("show workers").fetchall()
            return sorted(rows, key=lambda row: row["clients"])

        # The client of the line before may count still, and then either could be ours.
        eventually(lambda: [row["clients"] for row in workers()] == [0, 1], "one is ours")
        spare = workers()[0]
        os.kill(spare["pid"], signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert connection.execute("show clients").fetchall()
            assert connection.execute("show stats").fetchall()
            assert time.monotonic() - began < 10
        finally:
            os.kill(spare["pid"], signal.SIGKILL)
        assert notices == [f"no answer in time from worker {spare['worker']}"]

        def replaced() -> bool:
            rows = connection.execute("show workers").fetchall()
            return [row["state"] for row in rows] == ["ready", "ready"]

        eventually(replaced, "a new worker is ready")
        connection.execute("show clients")
    assert len(notices) == 1


def test_names_of_hosts_are_shown(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """SHOW DNS_HOSTS has each name of the databases' hosts that was looked up, with its addresses."""
    entries = tables(one_postgres, {"shop": {"host": "localhost"}}, USERS, admin_users=["boss"])
    proxy = start_proxy(entries)
    with client(proxy, "shop") as one:
        one.value("select 1")
    eventually(lambda: give(proxy, "show dns_hosts"), "the name is known")
    (row,) = give(proxy, "show dns_hosts")
    assert row["hostname"] == "localhost"
    assert "127.0.0.1" in row["addrs"].split(",")
