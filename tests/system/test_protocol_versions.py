"""Protocol 3.0 and 3.2 on both sides, and cancel keys of any length."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from poolproxy.demo.identity import choose_identity
from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import wait_for
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy, free_port
from tests.system.fake_database import (
    AUTHENTICATED,
    READY,
    Conversation,
    FakeDatabase,
    error,
    parameter,
    result,
)
from tests.system.protocol_client import (
    ErrorAnswer,
    RawClient,
    cancel_request,
    message,
    query,
    startup,
)
from tests.system.rough_client import RoughClient
from tests.system.support import eventually, tables

V3 = 3 << 16
SECRETS = {0: 4, 1: 4, 2: 32, 9999: 32}


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Two workers, so that a cancel request often arrives at the other one."""
    databases = {mode: {"pool_mode": mode, "pool_size": 2} for mode in ("transaction", "session")}
    return start_module_proxy(tables(postgres, databases, workers=2))


@contextmanager
def speaking(
    proxy: ProxyProcess, minor: int, database: str = "transaction", **more: str
) -> Iterator[tuple[RawClient, list[bytes]]]:
    """A client of this protocol; with the bodies of the NegotiateProtocolVersions that it was sent."""
    with RawClient((proxy.host, proxy.port), log_in=False) as one:
        asked = {"user": "postgres", "database": database, **more}
        one.send(startup(asked, version=V3 + minor))
        replies = one.read_until("Z")
        assert all(reply.code != "v" for reply in replies[1:])
        yield one, [reply.body for reply in replies if reply.code == "v"]


def cancel(proxy: ProxyProcess, key: tuple[int, bytes]) -> None:
    with RawClient((proxy.host, proxy.port), log_in=False) as one:
        one.send(cancel_request(key))
        assert one.at_end()


@pytest.mark.parametrize("minor", SECRETS)
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_cancel_by_keys_of_every_protocol(
    proxy: ProxyProcess, admin: psycopg.Connection, mode: str, minor: int
) -> None:
    """From 3.2 on a client gets a long key; it cancels, and a part of it does not."""
    with speaking(proxy, minor, mode) as (one, negotiated):
        assert negotiated == ([b"\0\3\0\2\0\0\0\0"] if minor > 2 else [])
        pid, secret = one.key
        assert len(secret) == SECRETS[minor]
        tag = f"{mode} {minor}"
        one.send(query(f"select pg_sleep(60) /* {tag} */"))

        def runs() -> bool:
            sql = "select 1 from pg_stat_activity where state = 'active' and query like %s"
            return bool(admin.execute(sql, [f"%pg_sleep% /* {tag} */%"]).fetchone())

        eventually(runs, "the query runs")
        for wrong in (
            secret[:4] + bytes(28),
            secret[:-1] + bytes((secret[-1] ^ 1,)),
            secret + b"x",
        ):
            cancel(proxy, (pid, wrong))
            assert runs()
        cancel(proxy, one.key)
        with pytest.raises(ErrorAnswer, match="57014"):
            one.results()
        assert one.value("select 1") == "1"


@pytest.mark.parametrize(
    ("minor", "told"), [(0, b"\0\3\0\0"), (2, b"\0\3\0\2"), (9999, b"\0\3\0\2")]
)
def test_protocol_options_are_negotiated(proxy: ProxyProcess, minor: int, told: bytes) -> None:
    """A client is told once which of its options are not known, and let in."""
    more = {"_pq_.future": "1", "_pq_.test_protocol_negotiation": ""}
    with speaking(proxy, minor, **more) as (one, negotiated):
        names = b"_pq_.future\0_pq_.test_protocol_negotiation\0"
        assert negotiated == [told + b"\0\0\0\2" + names]
        assert one.value("select 1") == "1"


@pytest.mark.needs_wheel_postgres
def test_psql_with_the_newest_protocol(
    proxy: ProxyProcess, postgres: PostgresServer, admin: psycopg.Connection
) -> None:
    """libpq 18 is content with what it is told, and cancels by Ctrl-C."""
    if postgres.version < 18:
        return
    url = proxy.url(user="postgres", password="unused", database="transaction")
    with subprocess.Popen(
        [postgres.binaries.tool("psql"), "-XAt", f"{url}?max_protocol_version=latest"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as psql:
        assert psql.stdin is not None
        psql.stdin.write("select pg_sleep(60) /* newest */;\n")
        psql.stdin.flush()
        sql = "select 1 from pg_stat_activity where state = 'active' and query like '%newest */%'"
        eventually(
            lambda: admin.execute(f"{sql} and pid <> pg_backend_pid()").fetchone(), "it runs"
        )
        psql.send_signal(signal.SIGINT)
        assert "canceling statement due to user request" in psql.communicate(timeout=20)[1]


# -- towards the server -------------------------------------------------------------------------------


def database_config(port: int) -> dict[str, Any]:
    return databases_config({"db": port})


def databases_config(ports: Mapping[str, int]) -> dict[str, Any]:
    return {
        "poolproxy": {"auth_type": "trust", "workers": 1, "pool_mode": "transaction"},
        "databases": {
            name: {"host": HOST, "port": port, "pool_size": 2} for name, port in ports.items()
        },
        "users": {"ann": {"password": "unused"}},
    }


def greeting(secret: bytes) -> bytes:
    key = message(b"K", (4711).to_bytes(4, "big") + secret)
    return AUTHENTICATED + parameter("server_version", "18.0") + key + READY


class Recorder:
    """A server that says ``reply(version)`` to a start-up packet, and then goes on if ``accepts`` it.

    A query with "sleep" in it lasts until ``awake`` is set, whatever becomes of its client.
    """

    def __init__(self, reply: Callable[[int], bytes], accepts: Callable[[int], bool]) -> None:
        self.reply = reply
        self.accepts = accepts
        self.versions: list[int] = []
        self.cancels: list[bytes] = []
        self.awake = threading.Event()

    def __call__(self, talk: Conversation) -> None:
        packet = talk.packet_or_cancel()
        if packet.startswith((80877102).to_bytes(4, "big")):
            self.cancels.append(packet[4:])
            return
        version = int.from_bytes(packet[:4], "big")
        self.versions.append(version)
        talk.send(self.reply(version))
        while self.accepts(version):
            code, body = talk.message()
            assert code == b"Q"
            if b"sleep" in body:
                self.awake.wait(10)
            talk.send(result(body.rstrip(b"\0").decode()))


def newer(version: int) -> bool:
    return version != V3


TOO_NEW = error(S="FATAL", C="0A000", M="unsupported frontend protocol 3.2")
REFUSALS = {
    "as old PostgreSQLs": TOO_NEW,
    "as old PgBouncers": error(S="FATAL", C="08P01", M="bad packet header: '0000'"),
    "without a word": b"",
    "with something else": b"?",
}


# Neither a newer version than was asked for makes sense, nor options that nobody has named.
NONSENSE = {
    "newer": b"\0\3\0\3\0\0\0\0",
    "older": b"\0\2\0\0\0\0\0\0",
    "options": b"\0\3\0\0\0\0\0\1a\0",
    "cut": b"\0\3",
}


@pytest.fixture(scope="module")
def odd(start_module_proxy: StartProxy) -> Iterator[tuple[ProxyProcess, dict[str, Recorder]]]:
    """A proxy before a database for each of these."""
    servers = {
        name: Recorder(
            lambda version, said=said: said if newer(version) else greeting(b"abcd"),
            lambda version: not newer(version),
        )
        for name, said in REFUSALS.items()
    } | {
        name: Recorder(
            lambda version, body=body: message(b"v", body) + greeting(b"abcd"), lambda version: True
        )
        for name, body in NONSENSE.items()
    }
    with ExitStack() as stack:
        ports = {n: stack.enter_context(FakeDatabase(one)).port for n, one in servers.items()}
        yield start_module_proxy(databases_config(ports)), servers


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_that_knows_only_the_old_protocol(
    odd: tuple[ProxyProcess, dict[str, Recorder]], refusal: str
) -> None:
    """It is tried with the newer one once, and then asked for what it knows."""
    proxy, behave = odd[0], odd[1][refusal]
    with RoughClient(proxy.port) as one, RoughClient(proxy.port) as two:
        one.log_in("ann", refusal)
        two.log_in("ann", refusal)
        one.send(query("begin; sleep"))
        eventually(lambda: len(behave.versions) == 2, "it is busy")
        assert two.query("select 2") == [("select 2",)]
        behave.awake.set()
    assert behave.versions == [V3 + 2, V3, V3]


def test_a_server_that_hangs_at_the_newer_protocol(start_proxy: StartProxy) -> None:
    """It is asked for the old one after the time-out, and from then on."""
    asked = threading.Event()

    def reply(version: int) -> bytes:
        if newer(version):
            asked.wait(20)  # until the pooler has given up
            return b""
        return greeting(b"abcd")

    behave = Recorder(reply, lambda version: not newer(version))
    with FakeDatabase(behave) as database:
        config = database_config(database.port)
        config["poolproxy"] |= {"server_connect_timeout": 0.5, "server_login_retry": 0.1}
        proxy = start_proxy(config)
        with RoughClient(proxy.port) as one, suppress(Exception):
            one.log_in("ann", "db")
        with RoughClient(proxy.port) as two:
            two.log_in("ann", "db")
            assert two.query("select 2") == [("select 2",)]
        asked.set()
        assert behave.versions[0] == V3 + 2
        assert behave.versions[-1] == V3
        proxy.stop()


@pytest.mark.parametrize(("minor", "size"), [(0, 4), (2, 32), (2, 256)])
def test_the_servers_key_is_sent_back_whole(start_proxy: StartProxy, minor: int, size: int) -> None:
    """Whichever version it settles for; also by the acceptor, after a worker's death."""
    secret = bytes(range(size % 256)) or bytes(range(255)) + b"\0"
    negotiation = message(b"v", (V3 + minor).to_bytes(4, "big") + bytes(4)) if minor < 2 else b""
    behave = Recorder(lambda version: negotiation + greeting(secret), lambda version: True)
    key = (4711).to_bytes(4, "big") + secret
    with FakeDatabase(behave) as database:
        proxy = start_proxy(database_config(database.port))
        with RawClient((HOST, proxy.port), "db", "ann") as one:
            one.send(query("sleep"))
            eventually(lambda: _cancelled(proxy, one, behave), "the cancel arrives")
            assert behave.cancels[0] == key
            behave.cancels.clear()
            os.kill(proxy.worker_pids()[0], signal.SIGKILL)
            eventually(lambda: behave.cancels, "the acceptor cancels")
            assert behave.cancels[0] == key
            behave.awake.set()
        assert set(behave.versions) == {V3 + 2}
        proxy.stop()


def _cancelled(proxy: ProxyProcess, one: RawClient, behave: Recorder) -> bool:
    """Once more until it arrives: a cancel before the query is sent on has nothing to cancel."""
    cancel(proxy, one.key)
    return bool(behave.cancels)


@pytest.mark.parametrize("name", NONSENSE)
def test_a_negotiation_that_makes_no_sense(
    odd: tuple[ProxyProcess, dict[str, Recorder]], name: str
) -> None:
    """The server can't speak a newer version than it was asked for, nor miss options that nobody named."""
    proxy, _ = odd
    line = rf"S-\d+: {name}/ann\S* .*unsupported protocol version"
    with RoughClient(proxy.port) as one:
        one.send(startup({"user": "ann", "database": name}))
        eventually(lambda: re.search(line, proxy.log), "it is logged")


@pytest.mark.needs_pgbouncer
def test_behind_us_a_pgbouncer(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """An old PgBouncer, which knows 3.0 alone, is no obstacle; cancels go through both."""
    with pgbouncer(one_postgres) as port:
        config = tables(one_postgres, {"db": {"pool_mode": "transaction"}}, workers=1)
        config["databases"]["db"] |= {"port": port, "dbname": "behind"}
        proxy = start_proxy(config)
        for _ in range(2):
            with RawClient((HOST, proxy.port), "db") as one:
                one.send(query("select pg_sleep(0.2), 'slept'"))
                assert one.results() == [("", "slept")]
                one.send(query("select pg_sleep(60)"))
                eventually(lambda: _runs(one_postgres, "pg_sleep(60)"), "it runs")
                cancel(proxy, one.key)
                with pytest.raises(ErrorAnswer, match="57014"):
                    one.results()


def _runs(server: PostgresServer, text: str) -> bool:
    sql = "select count(*) from pg_stat_activity where state = 'active' and query like '%{}%'"
    return int(server.psql(sql.format(text) + " and pid <> pg_backend_pid()")) > 0


@contextmanager
def pgbouncer(server: PostgresServer) -> Iterator[int]:
    """A PgBouncer in front of ``server``; its port."""
    with (
        TemporaryDirectory(prefix="poolproxy-test-") as name,
        _running_pgbouncer(server, Path(name)) as port,
    ):
        yield port


@contextmanager
def _running_pgbouncer(server: PostgresServer, folder: Path) -> Iterator[int]:
    port = free_port()
    target = f"host={server.host} port={server.port} dbname=postgres password={server.password}"
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\nbehind = {target}\n[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = trust\nauth_file = {folder / 'users.txt'}\n"
    )
    (folder / "users.txt").write_text(f'"postgres" "{server.password}"\n')
    identity = choose_identity()
    for path in (folder, *folder.iterdir()):
        identity.own(path)
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None
    process = subprocess.Popen(
        [program, "-q", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
        **identity.popen_arguments(),
    )
    try:
        assert wait_for(lambda: _listens(port), 10)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    try:
        with RawClient((HOST, port), log_in=False):
            return True
    except OSError:
        return False
