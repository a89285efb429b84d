"""systemd's protocols, spoken over real sockets without systemd."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolproxy.acceptor.systemd import Manager, inherited_sockets
from poolproxy.errors import ConfigError
from tests.fixtures.proxy import ROOT, free_port
from tests.fixtures.toml import to_toml

PATIENCE = 30.0
DATABASES = {"app": {"host": "127.0.0.1"}}


@pytest.fixture(params=["file", "abstract"])
def manager_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on, named as NOTIFY_SOCKET has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = str(tmp_path / "notify") if request.param == "file" else f"\0poolproxy{os.getpid()}"
        sock.bind(name)
        sock.settimeout(PATIENCE)
        yield sock


def name_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    return name if isinstance(name, str) else "@" + name[1:].decode()


def heard(sock: socket.socket, start: str) -> str:
    """The next message that begins so; others are passed over."""
    return all_heard(sock, start)[-1]


def all_heard(sock: socket.socket, *starts: str) -> list[str]:
    """The next messages, until there is one with each of these beginnings."""
    texts: list[str] = []
    while not all(any(text.startswith(start) for text in texts) for start in starts):
        texts.append(sock.recv(4096).decode())
    return texts


def start(folder: Path, environment: dict[str, str], **how: object) -> subprocess.Popen[bytes]:
    """A whole poolproxy with one worker."""
    (folder / "poolproxy.toml").write_text(
        to_toml(
            {
                "poolproxy": {
                    "listen_port": free_port(),
                    "unix_socket_dir": "",
                    "metrics_listen": f"127.0.0.1:{free_port()}",
                    "workers": 1,
                    "auth_type": "trust",
                },
                "databases": DATABASES,
            }
        )
    )
    command = [sys.executable, "-m", "poolproxy", "run", str(folder / "poolproxy.toml")]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **how)  # type: ignore[call-overload]


def test_a_life_as_systemd_hears_of_it(manager_socket: socket.socket, tmp_path: Path) -> None:
    """Ready, signs of life, a status, a reload with its time, the end."""
    environment = {"NOTIFY_SOCKET": name_of(manager_socket), "WATCHDOG_USEC": "400000"}
    process = start(tmp_path, environment)
    try:
        all_heard(manager_socket, "READY=1", "WATCHDOG=1", "STATUS=1 workers, 0 clients")
        process.send_signal(signal.SIGHUP)
        _, usec = heard(manager_socket, "RELOADING=1\nMONOTONIC_USEC=").split("USEC=")
        assert int(usec) > 0
        heard(manager_socket, "READY=1")
        process.send_signal(signal.SIGTERM)
        heard(manager_socket, "STOPPING=1")
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def test_sockets_of_systemd_are_used(tmp_path: Path) -> None:
    """One for clients and one for metrics, by their names; listen_addr does not count then."""
    with (
        socket.create_server(("127.0.0.1", 0)) as clients,
        socket.create_server(("127.0.0.1", 0)) as metrics,
    ):
        high = [fcntl.fcntl(sock, fcntl.F_DUPFD, 50) for sock in (clients, metrics)]
        launcher = (
            "import os, sys\n"
            "for place, fd in enumerate(sys.argv[1:3]): os.dup2(int(fd), 3 + place)\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'poolproxy', *sys.argv[3:]])"
        )
        (tmp_path / "poolproxy.toml").write_text(
            to_toml(
                {
                    "poolproxy": {"listen_port": free_port(), "workers": 1, "auth_type": "trust"},
                    "databases": DATABASES,
                }
            )
        )
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                launcher,
                *map(str, high),
                "run",
                str(tmp_path / "poolproxy.toml"),
            ],
            cwd=ROOT,
            env=os.environ | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "clients:metrics"},
            pass_fds=high,
            stderr=subprocess.PIPE,
        )
        for fd in high:
            os.close(fd)
        try:
            host, port = metrics.getsockname()
            with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=PATIENCE) as reply:
                assert reply.status == 200
            with socket.create_connection(clients.getsockname(), timeout=PATIENCE) as client:
                client.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")  # an SSLRequest
                assert client.recv(1) == b"N"
        finally:
            process.send_signal(signal.SIGQUIT)
            _, log = process.communicate(timeout=PATIENCE)
        assert b"listen_port: where to listen is up to systemd" in log


def test_nobody_wants_to_hear() -> None:
    """Without NOTIFY_SOCKET nothing is sent, and a watchdog of another process is not ours."""
    manager = Manager({})
    manager.ready()
    assert not manager.listens
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    assert Manager(environment).watchdog == 0
    assert not environment


def test_a_manager_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """It costs a warning and no more."""
    Manager({"NOTIFY_SOCKET": "/nowhere/notify"}).ready()
    assert "could not tell systemd READY=1" in caplog.text


def test_sockets_for_another_process_are_not_ours() -> None:
    """LISTEN_PID says whose they are; the variables are gone in any case."""
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert not inherited_sockets(environment).clients
    assert not environment


def test_a_passed_descriptor_that_is_no_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start ends with its number and name."""
    with socket.socket() as idle:
        fd = os.dup(idle.fileno())
        monkeypatch.setattr("poolproxy.acceptor.systemd.FIRST_FD", fd)
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "odd"}
        with pytest.raises(ConfigError, match=rf"socket {fd} of systemd \(odd\): it is no stream"):
            inherited_sockets(environment)
