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
import psycopg

from benchmarks.certificate import Certificate
from benchmarks.endpoint import PASSWORD, TRUST, Access, Endpoint
from benchmarks.errors import Unavailable
from poolproxy.demo.identity import Identity, choose_identity

_START_SECONDS = 15
_STOP_SECONDS = 5


@attrs.frozen
class Limits:
    """What every pooler is given alike."""

    pool_size: int = 8
    max_clients: int = 6000
    access: Access = TRUST
    certificate: Certificate | None = None
    processes: int = 1
    client_moves: bool = False  # between processes; poolproxy only


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


def userlist(server: Endpoint, limits: Limits) -> str:
    """The file of users, which both poolers read."""
    return f'"{server.user}" "{PASSWORD if limits.access.scram else ""}"\n'


def security(folder: Path, limits: Limits) -> dict[str, str]:
    """The settings of authentication and TLS, whose names both poolers share."""
    mode = "require" if limits.access.tls else "disable"
    found = {
        "auth_type": "scram-sha-256" if limits.access.scram else "trust",
        "auth_file": str(folder / "userlist.txt"),
        "client_tls_sslmode": mode,
        "server_tls_sslmode": mode,
    }
    if limits.access.tls and limits.certificate is not None:
        chain, key = limits.certificate.write(folder)
        found |= {"client_tls_cert_file": str(chain), "client_tls_key_file": str(key)}
    return found


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
            endpoint = attrs.evolve(
                server, host="127.0.0.1", port=port, pid=process.pid, access=limits.access
            )
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
            _log_in(endpoint)
            return
        except psycopg.OperationalError as error:
            problem = error
        if process.poll() is not None:
            raise Unavailable(f"ended with status {process.returncode}: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise Unavailable(f"no log-in within {_START_SECONDS} s: {problem}; {_last_line(log)}")
        time.sleep(0.05)


def _log_in(endpoint: Endpoint) -> None:
    psycopg.connect(
        host=endpoint.host,
        port=endpoint.port,
        user=endpoint.user,
        dbname=endpoint.dbname,
        password=PASSWORD,
        sslmode="require" if endpoint.access.tls else "disable",
        connect_timeout=5,
    ).close()


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
