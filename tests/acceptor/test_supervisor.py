"""Workers that die, are silent, can't start or are too many."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

import pytest
import trio

from poolproxy.acceptor import supervisor
from poolproxy.acceptor.main import CANNOT_BOOT, run
from poolproxy.settings.files import read_config
from tests.acceptor.serving import FAKE, Server, read_line, reload, serving, until


async def test_a_dead_worker_loses_its_own_clients_only(tmp_path: Path) -> None:
    """The other's go on; a successor takes the slot; counters keep what the dead one had counted."""
    async with serving(Server(tmp_path)) as server:
        doomed, other = await server.connect(), await server.connect()
        assert doomed.slot != other.slot
        await until(server, f'poolproxy_worker_relay_rounds_total{{worker="{doomed.slot}"}}', 7)
        assert await doomed.say("die") == ""
        assert await other.say("echo alive") == "alive"
        await until(server, 'poolproxy_workers{state="ready"}', 2)
        metrics = await server.metrics()
        assert metrics["poolproxy_worker_restarts_total"] == 1
        assert metrics['poolproxy_worker_deaths_total{cause="exit"}'] == 1
        assert metrics[f'poolproxy_worker_relay_rounds_total{{worker="{doomed.slot}"}}'] == 14
        assert metrics["poolproxy_clients"] == 1
        successor = await server.connect()
        assert successor.slot == doomed.slot
        for client in (other, successor, doomed):
            await client.close()


async def test_who_comes_when_a_worker_has_just_died_gets_another(tmp_path: Path) -> None:
    """As those do who have lost it: the acceptor hears of the client and of the death at the same time."""
    async with serving(Server(tmp_path)) as server:
        for _ in range(6):  # which of the two it looks at first is left to chance
            doomed, other = await server.connect(), await server.connect()
            # None of this lets the acceptor's loop run.
            descriptor = doomed.stream.socket.fileno()
            os.write(descriptor, b"die\n")
            assert select.select([descriptor], [], [], 10)[0]
            sock = trio.socket.from_stdlib_socket(
                socket.create_connection(("127.0.0.1", server.port))
            )
            newcomer = trio.SocketStream(sock)
            assert await read_line(newcomer) != ""
            await until(server, 'poolproxy_workers{state="ready"}', 2)
            for client in (doomed.stream, other.stream, newcomer):
                await client.aclose()


async def test_a_dead_workers_server_is_ended_before_its_permit_is_free(tmp_path: Path) -> None:
    """PostgreSQL gets a CancelRequest and the connection's end; until it closes, nobody connects."""
    (postgres,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = postgres.socket.getsockname()
    async with postgres, serving(Server(tmp_path)) as server:
        doomed, other = await server.connect(), await server.connect()
        assert await doomed.say(f"server {address[0]} {address[1]}") == "up"
        backend = await postgres.accept()
        await doomed.say("die")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.say, f"server {address[0]} {address[1]}")
            async with await postgres.accept() as canceller:
                assert len(await canceller.receive_some()) == 12 + len("secret77")
            assert await backend.receive_some() == b""
            with trio.move_on_after(0.2) as nobody:
                await postgres.accept()
            assert nobody.cancelled_caught
            await backend.aclose()
            await (await postgres.accept()).aclose()
        assert await server.metric("poolproxy_permits_granted_total") == 2
        await other.close()
        await doomed.close()


async def test_a_silent_worker_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No sign of life for worker_timeout: SIGKILL, and another takes its place."""
    server = Server(tmp_path, worker_timeout=0.3, workers=1)
    async with serving(server, "--behave", "silent"):
        client = await server.connect()
        assert await read_line(client.stream) == ""
        await client.close()
        await until(server, 'poolproxy_worker_deaths_total{cause="silent"}', 1)
    assert "silent for 0.3 s (worker_timeout)" in caplog.text


@pytest.mark.parametrize(
    ("behave", "reason"),
    [("broken", "exit status 5"), ("other-schema", "another version of poolproxy")],
)
def test_a_worker_that_can_not_boot_ends_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], behave: str, reason: str
) -> None:
    """At the first start there is no second try: exit status 3, and the reason in the log."""
    server = Server(tmp_path)
    assert run(read_config(server.path), (*FAKE, "--behave", behave)) == CANNOT_BOOT
    log = capfd.readouterr().err
    assert "could not start: " in log
    assert reason in log
    assert not (tmp_path / f".s.PGSQL.{server.port}").exists()


def test_a_worker_that_can_not_be_run_ends_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even the interpreter: the same exit status, and the path that was tried."""
    assert run(read_config(Server(tmp_path).path), ("/no/such/python",)) == CANNOT_BOOT
    assert "can't run /no/such/python" in capfd.readouterr().err


async def test_workers_are_added_and_retired_by_a_reload(tmp_path: Path) -> None:
    """A worker too many serves its clients until they have left, lets in those on their way, and ends."""
    async with serving(Server(tmp_path, workers=1)) as server:
        first = await server.connect()
        await reload(server, workers=3)
        await until(server, 'poolproxy_workers{state="ready"}', 3)
        others = [await server.connect() for _ in range(2)]
        assert sorted(client.slot for client in others) == ["1", "2"]
        await reload(server, workers=1)
        await until(server, 'poolproxy_workers{state="leaving"}', 2)
        for client in others:
            assert await client.say("echo here") == "here"
        newcomer = await server.connect()
        assert newcomer.slot == first.slot == "0"
        for client in others:
            await client.close()
        await until(server, 'poolproxy_workers{state="leaving"}', 0)
        await until(server, 'poolproxy_workers{state="ready"}', 1)
        assert await server.metric("poolproxy_worker_restarts_total") == 0
        await newcomer.close()
        await first.close()


async def test_a_slot_of_a_retiring_worker_is_not_used_again(tmp_path: Path) -> None:
    """More workers are wanted while one is still leaving: the newcomer has another number."""
    async with serving(Server(tmp_path, workers=2)) as server:
        clients = [await server.connect() for _ in range(2)]
        await reload(server, workers=1)
        await until(server, 'poolproxy_workers{state="leaving"}', 1)
        await reload(server, workers=2)
        await until(server, 'poolproxy_workers{state="ready"}', 2)
        newcomer = await server.connect()
        assert newcomer.slot == "2"
        for client in (*clients, newcomer):
            await client.close()


async def test_a_retired_worker_that_dies_is_not_replaced(tmp_path: Path) -> None:
    """Its clients are lost, and that is all."""
    async with serving(Server(tmp_path, workers=2)) as server:
        clients = [await server.connect() for _ in range(2)]
        await reload(server, workers=1)
        await until(server, 'poolproxy_workers{state="leaving"}', 1)
        (doomed,) = [client for client in clients if client.slot == "1"]
        await doomed.say("die")
        await until(server, 'poolproxy_workers{state="leaving"}', 0)
        assert await server.metric("poolproxy_worker_restarts_total") == 0
        for client in clients:
            await client.close()


async def test_restarts_are_slowed_down_only_before_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ran is replaced without a pause."""
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST", 3600.0)
    async with serving(Server(tmp_path, workers=1)) as server:
        for _ in range(2):
            client = await server.connect()
            await client.say("die")
            await client.close()
            await until(server, 'poolproxy_workers{state="ready"}', 1)
        await until(server, "poolproxy_worker_restarts_total", 2)
