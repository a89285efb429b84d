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
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates
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


@pytest.fixture(scope="module")
def encrypted(
    one_postgres: PostgresServer, start_module_proxy: StartProxy, certificates: Certificates
) -> ProxyProcess:
    """One that takes clients by TLS only."""
    pem = certificates.issue("console", HOST)
    tls = {"client_tls_key_file": str(pem.key), "client_tls_cert_file": str(pem.cert)}
    config = tables(
        one_postgres,
        {"shop": {}},
        {"boss": {}},
        workers=1,
        admin_users=["boss"],
        client_tls_sslmode="require",
        **tls,
    )
    return start_module_proxy(config)


def test_console_by_tls(encrypted: ProxyProcess, certificates: Certificates) -> None:
    """With psql's options, its environment or a URL; what can't be trusted is not talked to."""
    proxy, root = encrypted, str(certificates.ca)
    boss = ["--user", "boss", "--host", HOST, "--port", str(proxy.port)]
    verified = ["--sslmode", "verify-full", "--sslrootcert", root]
    for words in (boss, [*boss, "--sslmode", "require"], [*boss, *verified]):
        shown = run(proxy, "console", *words, "--json", "SHOW CLIENTS")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)[0]["tls"].startswith("TLSv1.")
    url = f"postgresql://boss@{HOST}:{proxy.port}/pgbouncer?sslmode=verify-full"
    by_url = run(proxy, "console", "--url", url, "SHOW STATE", PGSSLROOTCERT=root)
    assert by_url.returncode == 0, by_url.stderr
    assert "workers 1" in run(proxy, "top", "--once", *boss, *verified).stdout
    plain = run(proxy, "console", *boss, "--sslmode", "disable", "SHOW STATE")
    assert (plain.returncode, plain.stderr[:27]) == (1, "poolproxy: SSL required (Co")
    stranger = run(proxy, "console", "--url", url, "SHOW STATE", HOME="/nowhere")
    assert "needs --sslrootcert" in stranger.stderr
    named = url.replace(HOST, "localhost")
    wrong = run(proxy, "console", "--url", named, "SHOW STATE", PGSSLROOTCERT=root)
    assert "certificate verify failed" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_console_needs_no_tls_where_there_is_none(proxy: ProxyProcess) -> None:
    """By default it does without; where TLS is demanded it says so."""
    boss = ["--user", "boss", "--host", HOST, "--port", str(proxy.port), "SHOW STATE"]
    refused = run(proxy, "console", "--sslmode", "require", *boss)
    assert refused.returncode == 1
    assert "the pooler offers no TLS, and sslmode is require" in refused.stderr
    for url in (
        "http://x",
        "postgresql://x/shop",
        "postgresql://x?sslmode=no",
        "postgresql://x?a=b",
    ):
        wrong = run(proxy, "console", "--url", url, "SHOW STATE")
        assert wrong.returncode == 2, url


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
