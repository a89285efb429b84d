"""Starting and stopping a pooler in front of a server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import attrs

from benchmarks.client import Client
from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable
from poolproxy.demo.identity import Identity, choose_identity

_START_SECONDS = 15
_STOP_SECONDS = 5


@attrs.frozen
class Limits:
    """What every pooler is given alike."""

    pool_size: int = 8
    max_clients: int = 6000


class Target(Protocol):
    """A kind of pooler. Its methods raise Unavailable where it is not installed."""

    @property
    def name(self) -> str: ...

    @property
    def refuses_root(self) -> bool: ...

    def version(self) -> str: ...

    def command(
        self, server: Endpoint, folder: Path, port: int, limits: Limits
    ) -> Sequence[str | Path]:
        """Write the configuration into ``folder`` and say how to start."""


@contextmanager
def running(target: Target, server: Endpoint, limits: Limits) -> Iterator[Endpoint]:
    """A pooler that accepts clients, until the block ends. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # whoever the pooler runs as must read its configuration
        port = _free_port()
        command = target.command(server, folder, port, limits)
        identity = choose_identity() if target.refuses_root else Identity()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **identity.popen_arguments(),
            )
        try:
            endpoint = attrs.evolve(server, host="127.0.0.1", port=port, pid=process.pid)
            _wait_until_serving(endpoint, process, folder / "log")
            yield endpoint
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_serving(endpoint: Endpoint, process: subprocess.Popen[bytes], log: Path) -> None:
    """Log in again and again: an open port alone does not mean that the server is reached."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client = Client(endpoint)
        except OSError as error:
            problem: Exception = error
        else:
            try:
                client.wait_ready()
                return
            except (OSError, Unavailable) as error:
                problem = error
            finally:
                client.close()
        if process.poll() is not None:
            raise Unavailable(f"ended with status {process.returncode}: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise Unavailable(f"no log-in within {_START_SECONDS} s: {problem}; {_last_line(log)}")
        time.sleep(0.05)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "nothing logged"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask once, then kill the whole session: nothing is left behind."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
