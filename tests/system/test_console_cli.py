"""``poolproxy console`` and ``poolproxy top`` at a running pooler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.support import tables


@pytest.fixture(scope="module")
def proxy(one_postgres: PostgresServer, start_module_proxy: StartProxy) -> Iterator[ProxyProcess]:
    """One that asks for passwords, with a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="poolproxy-cli-") as folder:
        Path(folder).chmod(0o777)
        config = tables(
            one_postgres,
            {"shop": {}},
            {"boss": {}},
            workers=2,
            auth_type="scram-sha-256",
            admin_users=["boss"],
            unix_socket_dir=folder,
        )
        proxy = start_module_proxy(config)
        yield proxy
        proxy.stop()


def run(proxy: ProxyProcess, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``poolproxy WORDS``, by the account that the pooler runs as."""
    return subprocess.run(
        [sys.executable, "-m", "poolproxy", *words],
        env={**os.environ, "PGPASSFILE": "/nowhere", **environment},
        user=os.stat(f"/proc/{proxy.worker_pids()[0]}").st_uid,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_console_by_the_unix_socket(proxy: ProxyProcess) -> None:
    """The configuration says where it is, and who runs the pooler is let in."""
    config = str(proxy.config_path)
    shown = run(proxy, "console", "--config", config, "SHOW STATE")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[1].split() == ["active", "yes"]
    listed = run(proxy, "console", "--config", config, "--json", "show", "databases")
    assert {row["name"] for row in json.loads(listed.stdout)} == {"shop", "pgbouncer"}
    assert run(proxy, "console", "--config", config, "RELOAD").stdout == "RELOAD\n"
    wrong = run(proxy, "console", "--config", config, "foo")
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "poolproxy: invalid command 'foo', use SHOW HELP;\n",
    )
    assert "SHOW HELP|CONFIG" in run(proxy, "console", "--config", config, "show help").stderr


def test_console_by_tcp_with_a_password(proxy: ProxyProcess, one_postgres: PostgresServer) -> None:
    """SCRAM with the password of PGPASSWORD; without one, and where nobody listens, a clear error."""
    where = ["--host", proxy.host, "--port", str(proxy.port), "--user", "boss", "SHOW VERSION"]
    shown = run(proxy, "console", *where, PGPASSWORD=one_postgres.password)
    assert shown.stdout.startswith("version\nPgBouncer "), shown.stderr
    refused = run(proxy, "console", *where)
    assert refused.returncode == 1
    assert "PGPASSWORD" in refused.stderr
    nobody = run(proxy, "console", "--host", "127.0.0.1", "--port", "1", "SHOW STATE")
    assert "can't connect to 127.0.0.1, port 1" in nobody.stderr


def test_top(proxy: ProxyProcess) -> None:
    """Once, as text; and in a terminal, where it goes on until q is pressed."""
    config = str(proxy.config_path)
    shown = run(proxy, "top", "--config", config, "--once")
    assert shown.returncode == 0, shown.stderr
    assert "workers 2" in shown.stdout
    ours, theirs = os.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "poolproxy", "top", "--config", config, "--interval", "0.2"],
        user=os.stat(f"/proc/{proxy.worker_pids()[0]}").st_uid,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while b"transactions/s 0" not in seen:
        seen += os.read(ours, 65536)
    os.write(ours, b"q")
    while chunk := _rest(ours):
        seen += chunk
    os.close(ours)
    assert watching.wait(15) == 0
    assert b"pgbouncer" in seen
    assert seen.endswith(b"\x1b[?25h\x1b[?1049l")  # the terminal is as it was


def _rest(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""  # Linux's way to say that the other side is closed
