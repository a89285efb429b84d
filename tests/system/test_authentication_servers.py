"""What the pooler logs in to PostgreSQL with."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from signal import SIGHUP

import psycopg
import pytest

from poolproxy.auth.scram import make_secret
from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import StartProxy
from tests.system.roles import PASSWORD, target
from tests.system.support import eventually


def test_scram_keys_serve_only_for_the_same_secret(
    start_proxy: StartProxy, one_postgres: PostgresServer, roles: None
) -> None:
    """Keys of a log-in with one secret are not tried where the user has another by now."""
    old = one_postgres.psql("select rolpassword from pg_authid where rolname = 'right_scram'")
    tables = {
        "poolproxy": {"auth_type": "scram-sha-256", "workers": 1, "server_login_retry": 0},
        "databases": {"db": target(one_postgres)},
        "users": {"right_scram": {"password": old}},
    }
    proxy = start_proxy(tables)
    url = proxy.url(user="right_scram", password="%s", database="db")
    with psycopg.connect(url.replace("%s", "pass'word%20%5C%20%C3%BC")) as one:
        assert one.execute("select 1").fetchone() == (1,)
    # Another salt: the same password, but not the same secret as the server's.
    tables["users"] = {
        "right_scram": {"password": make_secret(PASSWORD, b"s" * 16, 4096).to_text()}
    }
    tables["databases"] = {"db": target(one_postgres) | {"timezone": "UTC"}}
    proxy.write_config(tables)
    proxy.signal(SIGHUP)
    eventually(lambda: "configuration reloaded" in proxy.log, "it is reloaded")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace("%s", "pass'word%20%5C%20%C3%BC"))


def test_password_command_and_passfile(
    start_proxy: StartProxy, one_postgres: PostgresServer, roles: None
) -> None:
    """The password for the server: printed by a command, which is run again when it has been refused, or
    from a line of passfile.
    """
    to = target(one_postgres)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        token = folder / "token"
        token.write_text("wrong\n")
        script = (
            "import os, sys; print(open(sys.argv[1]).read(), end=''); assert os.environ['PGUSER']"
        )
        command = f'{sys.executable} -c "{script}" {token}'
        passfile = folder / "pass"
        passfile.write_text(f"*:{one_postgres.port}:postgres:forced:f\n")
        passfile.chmod(0o600)
        tables = {
            "poolproxy": {
                "auth_type": "any",
                "passfile": str(passfile),
                "server_login_retry": 0,
                "workers": 1,
            },
            "databases": {
                "command": to | {"user": "forced", "password_command": command},
                "broken": to | {"user": "forced", "password_command": "/nowhere/at/all"},
                "passfile": to | {"user": "forced"},
                "none": to | {"user": "asker"},
            },
            "users": {"ann": {"password": "x"}},
        }
        proxy = start_proxy(tables)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(proxy.url(user="ann", password="", database="command"))
        token.write_text("f\nsecond line\n")
        for database in ("command", "passfile"):
            with psycopg.connect(proxy.url(user="ann", password="", database=database)) as one:
                assert one.execute("select current_user").fetchone() == ("forced",)
        for database in ("broken", "none"):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(proxy.url(user="ann", password="", database=database))
        assert "password_command can't be run: No such file or directory" in proxy.log
        assert "wrong password type" in proxy.log
