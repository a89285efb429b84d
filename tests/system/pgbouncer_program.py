"""``poolproxy-pgbouncer`` as init scripts start it, with a pgbouncer.ini of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from poolproxy.demo.identity import Identity
from poolproxy.demo.processes import wait_for
from tests.fixtures.proxy import HOST, ROOT, START_SECONDS, free_port

COMMAND = (sys.executable, "-c", "from poolproxy.cli.pgbouncer import main; main()")


class Program:
    """A folder with the file, its pidfile and its log, and what was started from there."""

    def __init__(self, main: str, rest: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="poolproxy-test-"))
        self.port = free_port()
        self.ini = self.folder / "pgbouncer.ini"
        self.pidfile = self.folder / "pgbouncer.pid"
        self.logfile = self.folder / "pgbouncer.log"
        self.write(main, rest)
        self._started: list[subprocess.Popen[str]] = []

    def write(self, main: str, rest: str) -> None:
        """Write the file (again): lines of [pgbouncer], and what follows."""
        self.ini.write_text(
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"pidfile = {self.pidfile}\nlogfile = {self.logfile}\nworkers = 1\n{main}\n{rest}\n"
        )

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start it with these options before the name of the file."""
        process = subprocess.Popen(
            [*COMMAND, *options, str(self.ini)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            **Identity().popen_arguments(),
        )
        self._started.append(process)
        return process

    def run(self, *options: str) -> tuple[int, str]:
        """Start it and wait for its end; the exit status and what it said on stderr.

        With -d that must not wait for the process in the background, which would hold the pipe.
        """
        process = self.start(*options)
        _, said = process.communicate(timeout=2 * START_SECONDS)
        return process.returncode, said

    def daemon(self) -> int:
        """Start it in the background; the process id from the pidfile."""
        status, said = self.run("-d")
        assert status == 0, said + self.log
        return self.pid

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    @property
    def log(self) -> str:
        return self.logfile.read_text() if self.logfile.exists() else ""

    def connect(self, database: str, user: str, **more: str) -> psycopg.Connection:
        return psycopg.connect(
            host=HOST, port=self.port, dbname=database, user=user, autocommit=True, **more
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process of the pidfile."""
        os.kill(self.pid, number)

    def wait_until_gone(self, pid: int) -> None:
        """Wait for the end of a process in the background."""
        assert wait_for(lambda: not alive(pid), START_SECONDS), self.log

    def close(self) -> None:
        """End what was started, and remove the folder."""
        if self.pidfile.exists():
            pid = self.pid
            if alive(pid):
                os.kill(pid, signal.SIGQUIT)
                self.wait_until_gone(pid)
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
            process.communicate(timeout=START_SECONDS)
        log = self.log
        shutil.rmtree(self.folder)
        assert "Traceback" not in log, log


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and is not waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@contextmanager
def program(main: str, rest: str = "") -> Iterator[Program]:
    """A program that is ended at the end."""
    made = Program(main, rest)
    try:
        yield made
    finally:
        made.close()
