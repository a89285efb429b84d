"""The acceptor as a whole, with fake workers: processes, signals and sockets are real."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
import trio

from poolproxy.acceptor.main import CANNOT_START, run
from poolproxy.settings.files import read_config
from tests.acceptor.serving import (
    FAKE,
    Server,
    eventually,
    read_line,
    reload,
    serving,
    until,
    wait_leaving,
    wait_ready,
)
from tests.fixtures.proxy import free_port


async def test_clients_are_spread_over_the_workers(tmp_path: Path) -> None:
    """Each worker gets half of them, over TCP and over the Unix socket; totals show them all."""
    async with serving(Server(tmp_path)) as server:
        clients = [await server.connect() for _ in range(6)]
        assert sorted(client.slot for client in clients) == ["0", "0", "0", "1", "1", "1"]
        path = str(tmp_path / f".s.PGSQL.{server.port}")
        local = await trio.open_unix_socket(path)
        await read_line(local)
        metrics = await server.metrics()
        assert metrics["poolproxy_clients"] == 7
        assert metrics['poolproxy_accepted_connections_total{listener="unix"}'] == 1
        assert metrics['poolproxy_workers{state="ready"}'] == 2
        assert await clients[0].say("echo hello") == "hello"
        await local.aclose()
        for client in clients:
            await client.close()
        await until(server, "poolproxy_clients", 0)


async def test_max_client_conn_holds_over_all_workers(tmp_path: Path) -> None:
    """The client over the limit is handed over with the order to refuse; a place freed is used."""
    async with serving(Server(tmp_path, max_client_conn=2)) as server:
        first, second = await server.connect(), await server.connect()
        third = await server.connect()
        assert third.greeting == "refused"
        await first.close()
        await until(server, "poolproxy_clients", 1)
        fourth = await server.connect()
        assert fourth.greeting != "refused"
        assert await server.metric("poolproxy_refused_connections_total") == 1
        for client in (second, third, fourth):
            await client.close()


def test_an_address_in_use_ends_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1 and a line that names the setting."""
    server = Server(tmp_path)
    with socket.create_server(("127.0.0.1", server.port)):
        assert run(read_config(server.path), FAKE) == CANNOT_START
    assert f"listen_addr: 127.0.0.1:{server.port} is in use" in capfd.readouterr().err


async def test_client_limits_hold_over_all_workers(tmp_path: Path) -> None:
    """Login is answered with the exceeded setting, whichever worker asks."""
    async with serving(Server(tmp_path, max_user_client_connections=1)) as server:
        first, second = await server.connect(), await server.connect()
        assert await first.say("login app alice") == "in"
        assert await second.say("login app alice") == "max_user_client_connections"
        assert await second.say("login app bob") == "in"
        await first.close()
        await second.close()


async def test_a_cancel_finds_the_client_at_the_other_worker(tmp_path: Path) -> None:
    """The worker with the key is told, and its answer comes back; an unknown key is done at once."""
    async with serving(Server(tmp_path)) as server:
        target, canceller = await server.connect(), await server.connect()
        assert target.slot != canceller.slot
        assert await target.say("up 5 app alice") == "ok"
        assert await canceller.say("cancel 5") == "done"
        assert await read_line(target.stream) == "cancelled 5"
        assert await canceller.say("cancel 6") == "done"
        await target.close()
        await canceller.close()


async def test_sigterm_waits_for_clients(tmp_path: Path) -> None:
    """The door is closed at once; those inside stay as long as they like."""
    async with serving(Server(tmp_path, shutdown_timeout=0)) as server:
        client = await server.connect()
        os.kill(os.getpid(), signal.SIGTERM)
        await wait_leaving(server)
        assert await server.probe("healthz") == "ok"
        with pytest.raises(OSError, match=r"refused|failed"):
            await trio.open_tcp_stream("127.0.0.1", server.port)
        assert await client.say("echo inside") == "inside"
        await client.close()
        await server.ended.wait()
    assert not (tmp_path / f".s.PGSQL.{server.port}").exists()


async def test_sigterm_waits_no_longer_than_shutdown_timeout(tmp_path: Path) -> None:
    """Then the clients are disconnected, and the exit status is still 0."""
    async with serving(Server(tmp_path, shutdown_timeout=0.2)) as server:
        client = await server.connect()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await read_line(client.stream) == ""
        await client.close()
        await server.ended.wait()


async def test_a_second_signal_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even workers that do not obey are gone."""
    monkeypatch.setattr("poolproxy.acceptor.departure.NOW_SECONDS", 0.2)
    async with serving(Server(tmp_path), "--behave", "stubborn") as server:
        client = await server.connect()
        os.kill(os.getpid(), signal.SIGINT)
        await wait_leaving(server)
        assert await client.say("echo inside") == "inside"
        os.kill(os.getpid(), signal.SIGINT)
        assert await read_line(client.stream) == ""
        await client.close()
        await server.ended.wait()


async def test_sighup_puts_a_new_configuration_into_use(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Live settings change at once; the log names those that need a restart."""
    async with serving(Server(tmp_path, max_client_conn=1)) as server:
        client = await server.connect()
        server.write(max_client_conn=2, track_extra_parameters=["search_path"])
        os.kill(os.getpid(), signal.SIGHUP)
        await until(server, "poolproxy_max_client_conn", 2)
        other = await server.connect()
        assert other.greeting != "refused"
        await client.close()
        await other.close()
    log = capfd.readouterr().err
    assert "changed: max_client_conn: 1 -> 2" in log
    assert (
        'track_extra_parameters: ["IntervalStyle"] -> ["search_path"]: takes effect when poolproxy is'
        " restarted" in log
    )


async def test_a_bad_configuration_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every mistake is logged, the old settings stay, and a metric tells."""
    async with serving(Server(tmp_path, max_client_conn=1)) as server:
        server.write(max_client_conn=2, pool_mode="sometimes", no_such_setting=1)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(server, "poolproxy_config_last_reload_successful", 0)
        clients = [await server.connect(), await server.connect()]
        assert clients[1].greeting == "refused"
        for client in clients:
            await client.close()
    assert "pool_mode" in caplog.text
    assert "no_such_setting" in caplog.text


async def test_listeners_change_by_a_reload(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another port and another folder: the new ones are open before the old ones are closed; connected
    clients and those in the queue of an old one stay.
    """
    async with serving(Server(tmp_path)) as server:
        old_port, new_port = server.port, free_port()
        stays = await server.connect()
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        await reload(server, listen_port=new_port, unix_socket_dir=str(folder))
        with pytest.raises(OSError, match=r"refused|failed"):
            await trio.open_tcp_stream("127.0.0.1", old_port)
        server.port = new_port
        comes = await server.connect()
        assert comes.greeting
        assert not (tmp_path / f".s.PGSQL.{old_port}").exists()
        assert (folder / f".s.PGSQL.{new_port}").exists()
        assert await stays.say("echo on") == "on"
        for client in (stays, comes):
            await client.close()
    log = capfd.readouterr().err
    opened = log.index(f" listening on 127.0.0.1:{new_port}")
    assert opened < log.index(f"no longer listening on 127.0.0.1:{old_port}")


async def test_every_address_instead_of_one_and_back(tmp_path: Path) -> None:
    """Though both have the same port, one is open before the other is closed: no connect() is refused."""
    async with serving(Server(tmp_path)) as server:
        for addresses in (["*"], ["127.0.0.1"], ["*"]):
            over = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect_on_and_on, server, over)
                await reload(server, listen_addr=addresses, listen_backlog=100 + len(addresses[0]))
                over.set()


async def connect_on_and_on(server: Server, over: trio.Event) -> None:
    while not over.is_set():
        client = await server.connect()
        assert client.greeting
        await client.close()


async def test_the_address_of_metrics_changes_by_a_reload(tmp_path: Path) -> None:
    """Also to every address with the same port, and to none."""
    async with serving(Server(tmp_path)) as server:
        server.write(metrics_listen=f"*:{server.metrics_port}")
        os.kill(os.getpid(), signal.SIGHUP)

        async def everywhere() -> bool:
            try:
                with socket.create_connection(("127.0.0.2", server.metrics_port)):
                    return True
            except OSError:
                return False

        await eventually(everywhere)
        old, server.metrics_port = server.metrics_port, free_port()
        server.write(metrics_listen=f"127.0.0.1:{server.metrics_port}")
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_ready(server)
        with pytest.raises(OSError, match=r"refused|failed"):
            await trio.open_tcp_stream("127.0.0.1", old)


async def test_a_reload_that_cannot_listen_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A port in use, beside other changes: all is as before, and the log says which setting."""
    async with serving(Server(tmp_path, max_client_conn=1)) as server:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            server.write(listen_port=taken, max_client_conn=9, metrics_listen="127.0.0.1:0")
            os.kill(os.getpid(), signal.SIGHUP)
            await until(server, "poolproxy_config_last_reload_successful", 0)
            server.write(listen_port=taken, metrics_listen=f"127.0.0.1:{server.metrics_port}")
            os.kill(os.getpid(), signal.SIGHUP)

            async def told() -> bool:
                return f"listen_addr: 127.0.0.1:{taken} is in use" in caplog.text

            await eventually(told)
            assert await server.metric("poolproxy_max_client_conn") == 1
            client = await server.connect()
            assert client.greeting != "refused"
            await client.close()
