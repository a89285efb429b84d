"""A group of poolproxy and PgBouncer: a cancel request that comes to one of them for the other's client.

PgBouncer knows peers since 1.19, which Debian 12 does not have; so this is no test. With such a ``pgbouncer``
first in PATH: ``python -m tests.by_hand.pgbouncer_peers``. With ``--record`` it prints instead what PgBouncer
sends to a peer and takes from one, byte by byte: tests/wire/recorded_peers.txt, which the tests hold ours to.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from poolproxy.demo.binaries import system_binaries, wheel_binaries
from poolproxy.demo.identity import choose_identity
from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import wait_for
from tests.fixtures.proxy import HOST, ProxyProcess, free_port, started_proxies
from tests.system.protocol_client import ErrorAnswer, RawClient, cancel_request, query
from tests.system.support import PATIENCE, tables

SLEEP = "select pg_sleep(60)"
ROUNDS = 20
OURS, THEIRS = 0x2B1A, 2  # peer_id; of the first the order of its bytes can be told


@contextmanager
def pgbouncer(server: PostgresServer, port: int, ours: int) -> Iterator[Path]:
    """A running PgBouncer; its log."""
    folder = Path(tempfile.mkdtemp(prefix="poolproxy-peers-"))
    ini, log = folder / "pgbouncer.ini", folder / "log"
    (folder / "users").write_text(f'"{server.user}" "{server.password}"\n')
    ini.write_text(
        f"""[databases]
db = host={server.host} port={server.port} dbname=postgres
[peers]
{OURS} = host={HOST} port={ours}
{THEIRS} = host={HOST} port={port}
[pgbouncer]
listen_addr = {HOST}
listen_port = {port}
unix_socket_dir =
peer_id = {THEIRS}
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
logfile = {log}
"""
    )
    identity = choose_identity()
    for path in (folder, ini, folder / "users"):
        identity.own(path)
    process = subprocess.Popen(["pgbouncer", "-q", str(ini)], **identity.popen_arguments())
    try:
        yield log
    finally:
        process.terminate()
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def answers(port: int) -> bool:
    """Whether somebody serves clients there."""
    try:
        with RawClient((HOST, port), "db") as one:
            return one.value("select 1") == "1"
    except OSError:
        return False


def sleeps(server: PostgresServer) -> bool:
    """Whether the query runs."""
    sql = f"select count(*) from pg_stat_activity where state = 'active' and query = '{SLEEP}'"
    return server.psql(sql) == "1"


def cancelled(server: PostgresServer, there: int, other: int) -> None:
    """A client of ``there`` whose query is cancelled at ``other``, and who goes on."""
    with RawClient((HOST, there), "db") as one:
        one.send(query(SLEEP))
        assert wait_for(lambda: sleeps(server), PATIENCE)
        with RawClient((HOST, other), log_in=False) as canceller:
            canceller.send(cancel_request(one.key))
            assert canceller.at_end()
        with pytest.raises(ErrorAnswer, match="57014"):
            one.results()
        assert one.value("select 1") == "1"


def run(server: PostgresServer) -> None:
    """Both directions, several times."""
    theirs = free_port()
    config = tables(server, {"db": {"pool_mode": "transaction"}}, peer_id=OURS, workers=2)
    config["peers"] = {str(THEIRS): {"host": HOST, "port": theirs}}
    with started_proxies() as start:
        proxy: ProxyProcess = start(config)
        with pgbouncer(server, theirs, proxy.port) as log:
            assert wait_for(lambda: answers(theirs), PATIENCE), log.read_text()
            for name, there, other in (
                ("a client of poolproxy, the cancel at PgBouncer", proxy.port, theirs),
                ("a client of PgBouncer, the cancel at poolproxy", theirs, proxy.port),
            ):
                for _ in range(ROUNDS):
                    cancelled(server, there, other)
                print(f"{name}: {ROUNDS} of {ROUNDS} cancelled")


def record(server: PostgresServer, version: str) -> None:
    """What PgBouncer sends to a peer of ours for a request, and which forms of its own keys it takes."""
    port = free_port()
    print(
        f"# {version}; `python -m tests.by_hand.pgbouncer_peers --record` with it writes this file."
    )
    print(
        "# forward: a CancelRequest that has come in, and what the peer gets for it; - is nothing."
    )
    print("# accept: a client's key, and a CancelRequest that has ended its query.")
    with (
        socket.create_server((HOST, 0)) as peer,
        pgbouncer(server, port, peer.getsockname()[1]) as log,
    ):
        assert wait_for(lambda: answers(port), PATIENCE), log.read_text()
        for times in (3, 2, 1, 0):
            sent = cancel_request((0x111A2B44, bytes((0xAA, 0xBB, 0xCC, 0xD0 | times))))
            print("forward", sent.hex(), forwarded(peer, port, sent) or "-")
        long = cancel_request((0x11223344, OURS.to_bytes(2, "little") + bytes(29) + b"\3"))
        print("forward", long.hex(), forwarded(peer, port, long) or "-")
        for times in (3, 2, 1, 0):
            with RawClient((HOST, port), "db") as one:
                pid, secret = one.key
                request = cancel_request((pid, secret[:-1] + bytes((secret[-1] & ~3 | times,))))
                one.send(query(SLEEP))
                assert wait_for(lambda: sleeps(server), PATIENCE)
                with RawClient((HOST, port), log_in=False) as canceller:
                    canceller.send(request)
                    assert canceller.at_end()
                with pytest.raises(ErrorAnswer, match="57014"):
                    one.results()
                print("accept", (pid.to_bytes(4, "big") + secret).hex(), request.hex())


def forwarded(peer: socket.socket, port: int, sent: bytes) -> str:
    """What arrives at the peer, in hexadecimal digits, up to the end of the connection."""
    peer.settimeout(3)
    with RawClient((HOST, port), log_in=False) as canceller:
        canceller.send(sent)
        try:
            connection, _ = peer.accept()
        except TimeoutError:
            return ""
        with connection:
            connection.settimeout(3)
            return connection.recv(100).hex()


if __name__ == "__main__":
    version = subprocess.check_output(["pgbouncer", "--version"], text=True).splitlines()[0]
    found = system_binaries() or wheel_binaries()
    assert found is not None
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    with PostgresServer(found) as postgres:
        if "--record" in sys.argv:
            record(postgres, version)
        else:
            print(version)
            run(postgres)
