"""Two instances in a group: cancel requests find their client, behind HAProxy and on a shared port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP

import attrs
import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import wait_for
from poolproxy.wire.peering import peer_of
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy, free_port
from tests.system.consoles import give
from tests.system.protocol_client import (
    SSL_REQUEST,
    ErrorAnswer,
    RawClient,
    cancel_request,
    query,
    startup,
)
from tests.system.support import PATIENCE, client, eventually, sample, tables
from tests.wire.test_peering import RECORDED

SLEEP = "select pg_sleep(60)"
CANCELS = "poolproxy_worker_cancel_requests_total"
# What came to a PgBouncer and what its peer got; without the long key, which only ours know.
FORWARDED = [words[1:] for words in RECORDED if words[0] == "forward" and len(words[1]) == 32]
EXAMPLE = Path(__file__).parents[2] / "config" / "haproxy.cfg"


@attrs.frozen
class Group:
    """Two instances; each knows the other since a reload."""

    one: ProxyProcess
    two: ProxyProcess


def config(
    server: PostgresServer, peer_id: int, peers: Mapping[str, ProxyProcess], **proxy: object
) -> dict[str, object]:
    databases = {"db": {"pool_mode": "transaction"}, "session": {"pool_mode": "session"}}
    entries = {name: {"host": HOST, "port": peer.port} for name, peer in peers.items()}
    proxy = {"admin_users": ["postgres"], **proxy}
    return tables(server, databases, peer_id=peer_id, workers=2, **proxy) | {"peers": entries}


@pytest.fixture(scope="module")
def group(start_module_proxy: StartProxy, one_postgres: PostgresServer) -> Group:
    one = start_module_proxy(config(one_postgres, 1, {}))
    two = start_module_proxy(config(one_postgres, 700, {"1": one}))
    one.write_config(config(one_postgres, 1, {"1": one, "700": two}))
    one.signal(SIGHUP)
    eventually(lambda: "configuration reloaded" in one.log, "the peers are known")
    return Group(one, two)


def test_the_console_shows_the_peers(group: Group) -> None:
    """SHOW PEERS has where each is, SHOW PEER_POOLS what goes there."""
    peers = give(group.one, "show peers", "postgres")
    assert [(row["peer_id"], row["port"]) for row in peers] == [
        (1, group.one.port),
        (700, group.two.port),
    ]
    pools = give(group.one, "show peer_pools", "postgres")
    assert [(row["peer_id"], row["sv_login"]) for row in pools] == [(1, 0), (700, 0)]


def send_cancel(proxy: ProxyProcess, key: tuple[int, bytes]) -> None:
    """Send a cancel request and wait until it is done."""
    with RawClient((proxy.host, proxy.port), log_in=False) as canceller:
        canceller.send(cancel_request(key))
        assert canceller.at_end()


def sleeps(server: PostgresServer) -> bool:
    sql = f"select count(*) from pg_stat_activity where state = 'active' and query = '{SLEEP}'"
    return server.psql(sql) == "1"


def passed_on(proxy: ProxyProcess) -> float:
    return sample(proxy, CANCELS, outcome="passed_on")


@pytest.mark.parametrize("database", ["db", "session"])
@pytest.mark.parametrize("minor", [0, 2])
def test_a_cancel_finds_its_instance(
    group: Group, one_postgres: PostgresServer, database: str, minor: int
) -> None:
    """A cancel request that has come to the other instance is passed on, in both directions; a long key
    leaves the client of session mode the true process id.
    """
    for here, there, peer_id in ((group.one, group.two, 1), (group.two, group.one, 700)):
        with RawClient((here.host, here.port), log_in=False) as one:
            asked = {"user": "postgres", "database": database}
            one.send(startup(asked, version=(3 << 16) + minor))
            one.read_until("Z")
            pid, secret = one.key
            assert peer_of(pid, secret) == peer_id
            if database == "session":
                assert (one.value("select pg_backend_pid()") == str(pid)) is (minor == 2)
            before = passed_on(there)
            one.send(query(SLEEP))
            eventually(lambda: sleeps(one_postgres), "the query runs")
            send_cancel(there, one.key)
            with pytest.raises(ErrorAnswer, match="57014"):
                one.results()
            assert one.value("select 1") == "1"
            assert passed_on(there) == before + 1


def test_keys_of_nobody_are_dropped(group: Group) -> None:
    """Requests for unknown clients and peers, and those that were passed on too often, end at once; one
    for a peer's unknown client is passed on once.
    """
    with client(group.one, "db") as one:
        pid, secret = one.key
    before = passed_on(group.two)
    send_cancel(group.one, (pid, secret))
    send_cancel(group.two, (pid, secret))
    assert passed_on(group.two) == before + 1
    send_cancel(group.two, (pid, secret[:-1] + bytes((secret[-1] & ~3,))))
    send_cancel(group.two, (pid & 0xFF0000FF | 0x00BEEF00, secret))
    assert passed_on(group.two) == before + 1
    assert passed_on(group.one) == 0 or sample(group.one, CANCELS, outcome="peer_failed") == 0


def test_requests_go_out_as_pgbouncers_do(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A peer that has no TLS gets the bytes that it would get from a PgBouncer, on a connection of their own
    that stays open until the peer ends it; the request that has run out of times goes nowhere.
    """
    with socket.create_server((HOST, 0)) as peer:
        peer.settimeout(PATIENCE)
        proxy = start_proxy(config(one_postgres, 1, {}) | {"peers": {"11034": address_of(peer)}})
        for came, went in FORWARDED:
            with RawClient((HOST, proxy.port), log_in=False) as canceller:
                canceller.send(bytes.fromhex(came))
                if went == "-":
                    assert canceller.at_end()
                    continue
                connection, _ = peer.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    assert connection.recv(100) == SSL_REQUEST  # as server_tls_sslmode wants it
                    connection.sendall(b"N")
                    assert connection.recv(100).hex() == went
                    connection.shutdown(socket.SHUT_WR)
                    assert connection.recv(100) == b""
                assert canceller.at_end()
        peer.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.accept()


def test_what_pgbouncer_sends_cancels_here(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A client's key with what PgBouncer takes off on its way, each time that it may."""
    proxy = start_proxy(config(one_postgres, 0x2B1A, {}))
    for _, went in FORWARDED:
        if went == "-":
            continue
        with client(proxy, "db") as one:
            pid, secret = one.key
            last = bytes.fromhex(went)[-1]
            one.send(query(SLEEP))
            eventually(lambda: sleeps(one_postgres), "the query runs")
            send_cancel(proxy, (pid, secret[:-1] + bytes((secret[-1] & ~3 | last & 3,))))
            with pytest.raises(ErrorAnswer, match="57014"):
                one.results()


def address_of(listener: socket.socket) -> dict[str, object]:
    host, port = listener.getsockname()
    return {"host": host, "port": port}


def test_a_dead_peer_keeps_nobody_waiting(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """A request for an instance that is gone ends, and is counted and logged."""
    gone = start_proxy(config(one_postgres, 2, {}))
    with client(gone, "db") as one:
        key = one.key
    here = start_proxy(config(one_postgres, 1, {"2": gone}))
    gone.stop()
    send_cancel(here, key)
    assert sample(here, CANCELS, outcome="peer_failed") == 1
    assert "could not pass a cancel request on to peer" in here.log


@contextmanager
def haproxy(group: Group, folder: Path) -> Iterator[int]:
    """HAProxy with the example's configuration; its port."""
    port = free_port()
    text = EXAMPLE.read_text().replace("bind 127.0.0.1:5432", f"bind {HOST}:{port}")
    for name, proxy, ours in (("6432", group.one, "9127"), ("6433", group.two, "9128")):
        text = text.replace(f"127.0.0.1:{name} port {ours}", f"{HOST}:{proxy.port} port {ours}")
        text = text.replace(f"port {ours}", f"port {proxy.metrics_port}")
    path = folder / "haproxy.cfg"
    path.write_text(text)
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert program is not None
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", str(path)], stdout=log, stderr=log)
    try:
        assert wait_for(lambda: _lets_in(port), 15), (folder / "haproxy.log").read_text()
        yield port
    finally:
        process.kill()
        process.wait()


def _lets_in(port: int) -> bool:
    try:
        psycopg.connect(host=HOST, port=port, dbname="db", user="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.needs_haproxy
def test_cancels_through_haproxy(
    group: Group, one_postgres: PostgresServer, tmp_path: Path
) -> None:
    """A driver's cancel goes by HAProxy to either instance, and ends the right query all the same."""
    before = passed_on(group.one) + passed_on(group.two)
    with haproxy(group, tmp_path) as port:
        for _ in range(4):
            with psycopg.connect(host=HOST, port=port, dbname="db", user="postgres") as connection:
                raw = connection.pgconn
                raw.send_query(SLEEP.encode())
                eventually(lambda: sleeps(one_postgres), "the query runs")
                connection.cancel()
                while raw.is_busy():
                    time.sleep(0.01)
                    raw.consume_input()
                result = raw.get_result()
                assert result is not None
                assert b"canceling statement due to user request" in result.error_message
                assert raw.get_result() is None
    # Least connections: the cancel goes to the instance that does not have the client.
    assert passed_on(group.one) + passed_on(group.two) > before


def test_two_instances_on_one_port(start_proxy: StartProxy, one_postgres: PostgresServer) -> None:
    """With so_reuseport a second instance listens on the same port; each knows its own clients."""
    port = free_port()
    shared = {"so_reuseport": True, "listen_port": port}
    ours = [start_proxy(config(one_postgres, number, {}, **shared)) for number in (1, 2)]
    clients = [RawClient((HOST, port), "db") for _ in range(40)]
    seen = {peer_of(*one.key) for one in clients}
    for one in clients:
        one.close()
    assert seen == {1, 2}
    assert all(proxy.process.poll() is None for proxy in ours)
