from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from poolproxy.demo.binaries import find_binaries
from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import children, is_alive, wait_for
from tests.fixtures.proxy import free_port

ROOT = Path(__file__).parents[2]


class Demo:
    """A ``poolproxy demo`` and what it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""

    def read_until(self, start: str) -> None:
        """Read its output until a line starts like this."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if line.startswith(start):
                return
        pytest.fail(f"the demo has ended:\n{self.output}")

    def find(self, pattern: str) -> str:
        """The first group of a pattern that the output must have."""
        match = re.search(pattern, self.output)
        assert match is not None, self.output
        return match[1]

    @property
    def url(self) -> str:
        return self.find(r"Connect to +(\S+)")

    def end(self, number: signal.Signals) -> str:
        """Send a signal and wait for the end; what was printed last."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)[0]


@contextmanager
def started(*arguments: str, folder: Path) -> Iterator[Demo]:
    """``poolproxy demo`` with a temporary folder of its own, so that leftovers can be seen."""
    process = subprocess.Popen(
        [sys.executable, "-m", "poolproxy", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
    )
    try:
        yield Demo(process)
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def running(*arguments: str, folder: Path) -> Iterator[Demo]:
    """A demo that has printed all it has to say."""
    with started(*arguments, folder=folder) as demo:
        demo.read_until("Ctrl-C")
        yield demo


def ports() -> list[str]:
    """Options for ports that are free."""
    return ["--port", str(free_port()), "--metrics-port", str(free_port())]


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    return [pid, *(each for child in children(pid) for each in family(child))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_the_demo_from_start_to_end(folder: Path, number: signal.Signals) -> None:
    """The printed URL answers queries, the metrics are there, and at the end everything is gone."""
    with running(*ports(), folder=folder) as demo:
        with psycopg.connect(demo.url, connect_timeout=10) as connection:
            rows = connection.execute("select count(*) from pgbench_accounts").fetchone()
        assert rows == (100_000,)
        with urllib.request.urlopen(demo.find(r"Metrics +(\S+)"), timeout=10) as response:
            assert b"poolproxy_" in response.read()
        members = family(demo.process.pid)
        assert len(members) > 4
        assert "nothing is left behind" in demo.end(number)
        assert demo.process.returncode == 0
    assert list(folder.iterdir()) == []
    assert wait_for(lambda: not any(is_alive(pid) for pid in members), 5)


def test_the_commands_to_try_work(folder: Path) -> None:
    """The printed psql and pgbench commands can be pasted into a shell."""
    with running(*ports(), folder=folder) as demo:
        psql = demo.find(r"\n  (\S*psql .*)")
        pgbench = demo.find(r"\n  (\S*pgbench .*)").replace("-T 10", "-t 5")
        console = demo.find(r"\n  (\S*psql .*show pools.*)")
        for command in (psql, pgbench, console):
            done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def test_a_busy_port_is_replaced(folder: Path) -> None:
    """If the wanted port is taken the demo says so, and uses another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--port", str(port), "--metrics-port", str(free_port())]
        with running(*options, folder=folder) as demo:
            assert f"Port {port} can't be used (Address already in use): taking " in demo.output
            with psycopg.connect(demo.url, connect_timeout=10) as connection:
                assert connection.execute("select 1").fetchone() == (1,)


def test_a_server_of_ones_own_can_be_used(folder: Path) -> None:
    """With --backend no server is started, and the URL leads to the given one's database."""
    with PostgresServer(find_binaries()) as server:
        server.psql("create table mine as select 'here' as place")
        backend = ["--backend", server.url()]
        with running(*backend, *ports(), folder=folder) as demo:
            assert "Starting PostgreSQL" not in demo.output
            with psycopg.connect(demo.url, connect_timeout=10) as connection:
                assert connection.execute("select place from mine").fetchone() == ("here",)


def test_a_dead_pooler_ends_the_demo(folder: Path) -> None:
    """When the pooler is killed the demo tells it, cleans up and fails."""
    with running(*ports(), folder=folder) as demo:
        proxies = [pid for pid in children(demo.process.pid) if "poolproxy" in command_line(pid)]
        (proxy,) = [pid for pid in proxies if " run " in command_line(pid)]
        os.kill(proxy, signal.SIGKILL)
        output = demo.process.communicate(timeout=30)[0]
        assert "the pooler ended with status -9" in output
        assert demo.process.returncode == 1
    assert list(folder.iterdir()) == []


def command_line(pid: int) -> str:
    """The command line of a process, with spaces between its words."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_an_interrupted_start_leaves_nothing(folder: Path) -> None:
    """Ctrl-C while PostgreSQL is being created ends the demo cleanly, too."""
    with started(*ports(), folder=folder) as demo:
        demo.read_until("Starting PostgreSQL")
        assert wait_for(lambda: any(folder.glob("*/data/base")), 10)
        members = family(demo.process.pid)
        assert "nothing is left behind" in demo.end(signal.SIGINT)
        assert demo.process.returncode == 0
    assert list(folder.iterdir()) == []
    assert wait_for(lambda: not any(is_alive(pid) for pid in members), 5)


def test_a_killed_demo_takes_its_processes_along(folder: Path) -> None:
    """Even SIGKILL leaves no process running: PostgreSQL and the pooler end by themselves."""
    with running(*ports(), folder=folder) as demo:
        members = family(demo.process.pid)
        demo.end(signal.SIGKILL)
        assert wait_for(lambda: not any(is_alive(pid) for pid in members), 20)


def test_a_bad_backend_is_refused() -> None:
    """A URL that is none is an error of one line."""
    command = [sys.executable, "-m", "poolproxy", "demo", "--backend", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: --backend must begin with postgresql://\n"
