"""The acceptor as a whole, with fake workers: processes, signals and sockets are real."""

from __future__ import annotations

import itertools
import logging
import os
import select
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from poolproxy.acceptor import supervisor
from poolproxy.acceptor.departure import OK
from poolproxy.acceptor.main import CANNOT_BOOT, CANNOT_START, run, serve
from poolproxy.acceptor.signals import MODES, ORDERS
from poolproxy.settings.files import read_config
from tests.fixtures.proxy import free_port
from tests.fixtures.toml import to_toml

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """run() sets logging and signals up for a process of its own."""
    signals = {number: signal.getsignal(number) for number in (*MODES, *ORDERS, signal.SIGHUP)}
    ours = logging.getLogger("poolproxy")
    before = ours.handlers[:], ours.propagate, ours.level
    yield
    ours.handlers[:], ours.propagate = before[:2]
    ours.setLevel(before[2])
    for number, handler in signals.items():
        signal.signal(number, handler)


class Server:
    """The acceptor running in this process."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        self.path = folder / "poolproxy.toml"
        self.settings: dict[str, object] = {
            "listen_port": self.port,
            "metrics_listen": f"127.0.0.1:{self.metrics_port}",
            "unix_socket_dir": str(folder),
            "workers": 2,
            "default_pool_size": 1,
            **settings,
        }
        self.write()
        self.status: int | None = None
        self.ended = trio.Event()

    def write(self, **settings: object) -> None:
        self.settings |= settings
        self.path.write_text(
            to_toml(
                {
                    "poolproxy": self.settings,
                    "databases": {"app": {"host": "127.0.0.1"}},
                    "users": {"alice": {"password": "secret"}},
                }
            )
        )

    async def run(self, *behave: str) -> None:
        self.status = await serve(read_config(self.path), (*FAKE, *behave))
        self.ended.set()

    async def connect(self) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        return Client(stream, await read_line(stream))

    async def metric(self, name: str) -> float:
        return (await self.metrics())[name]

    async def metrics(self) -> dict[str, float]:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        body = await trio.to_thread.run_sync(lambda: urllib.request.urlopen(url).read())
        lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    async def probe(self, page: str) -> str:
        url = f"http://127.0.0.1:{self.metrics_port}/{page}"

        def get() -> str:
            try:
                return urllib.request.urlopen(url).read().decode().strip()
            except urllib.error.HTTPError as error:
                with error:
                    return f"{error.code} {error.read().decode().strip()}"

        return await trio.to_thread.run_sync(get)


class Client:
    def __init__(self, stream: trio.SocketStream, greeting: str) -> None:
        self.stream = stream
        self.greeting = greeting

    @property
    def slot(self) -> str:
        return self.greeting.split()[0]

    async def say(self, text: str) -> str:
        await self.stream.send_all(text.encode() + b"\n")
        return await read_line(self.stream)

    async def close(self) -> None:
        await self.stream.aclose()


async def read_line(stream: trio.SocketStream) -> str:
    line = b""
    while not line.endswith(b"\n"):
        data = await stream.receive_some(1)
        if not data:
            return line.decode()
        line += data
    return line.decode().strip()


@asynccontextmanager
async def serving(server: Server, *behave: str) -> AsyncIterator[Server]:
    """Run the server for the test; it must end in time after SIGQUIT."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run, *behave)
            await wait_ready(server)
            yield server
            if server.status is None:
                os.kill(os.getpid(), signal.SIGQUIT)
    assert server.status == OK


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something in another process, which has no event to wait for."""
    for _ in itertools.count():
        if await holds():
            return
        await trio.sleep(0.01)


async def wait_ready(server: Server) -> None:
    async def ready() -> bool:
        try:
            return server.status is not None or await server.probe("readyz") == "ok"
        except OSError:
            return False

    await eventually(ready)


async def wait_leaving(server: Server) -> None:
    async def leaving() -> bool:
        return await server.probe("readyz") == "503 shutting down"

    await eventually(leaving)


async def until(server: Server, name: str, value: float) -> None:
    async def reached() -> bool:
        return (await server.metrics()).get(name) == value

    await eventually(reached)


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


async def reload(server: Server, **settings: object) -> None:
    """Put other settings into use."""
    before = await server.metric("poolproxy_config_last_reload_success_timestamp_seconds")
    server.write(**settings)
    os.kill(os.getpid(), signal.SIGHUP)

    async def done() -> bool:
        name = "poolproxy_config_last_reload_success_timestamp_seconds"
        return await server.metric(name) > before

    await eventually(done)


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
