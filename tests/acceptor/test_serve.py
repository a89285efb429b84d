"""The acceptor as a whole, with fake workers: processes, signals and sockets are real."""

from __future__ import annotations

import itertools
import logging
import os
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
from poolproxy.acceptor.main import CANNOT_BOOT, CANNOT_START, OK, run, serve
from poolproxy.acceptor.signals import IGNORED, MODES
from poolproxy.settings.files import read_config
from tests.fixtures.proxy import free_port
from tests.fixtures.toml import to_toml

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """run() sets logging and signals up for a process of its own."""
    signals = {number: signal.getsignal(number) for number in (*MODES, *IGNORED, signal.SIGHUP)}
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
    async with serving(Server(tmp_path)) as server:
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
    monkeypatch.setattr("poolproxy.acceptor.main.NOW_SECONDS", 0.2)
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
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Live settings change at once; the log names those that need a restart."""
    caplog.set_level(logging.INFO)
    async with serving(Server(tmp_path, max_client_conn=1)) as server:
        client = await server.connect()
        server.write(max_client_conn=2, listen_backlog=5)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(server, "poolproxy_max_client_conn", 2)
        other = await server.connect()
        assert other.greeting != "refused"
        await client.close()
        await other.close()
    assert (
        "listen_backlog has changed: that takes effect when poolproxy is restarted" in caplog.text
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
