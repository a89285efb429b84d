"""poolproxy-pgbouncer with PgBouncer's files: started, signalled and stopped as PgBouncer is."""

from __future__ import annotations

import hashlib
import json
import re
import select
import signal
import socket
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.settings.pgbouncer import GLOBAL, WINDOWS
from tests.fixtures.proxy import HOST, START_SECONDS
from tests.system.pgbouncer_program import Program, alive, program
from tests.system.support import eventually

ANYBODY = "auth_type = any"


def target(server: PostgresServer, more: str = "") -> str:
    """A connection string for the server's database postgres, as its superuser."""
    return (
        f"host={server.host} port={server.port} dbname=postgres user={server.user} "
        f"password='{server.password}' {more}"
    )


@pytest.fixture
def pool(one_postgres: PostgresServer) -> Iterator[Program]:
    """A program with one database, app, that lets everybody in."""
    with program(ANYBODY, f"[databases]\napp = {target(one_postgres)}\n") as made:
        yield made


def test_show_config_has_pgbouncers_keys(pool: Program) -> None:
    """As the running program answers it: each setting of PgBouncer's with its default there, what does
    nothing here with what the file says, and RELOAD brings a new value.
    """
    pool.write(f"{ANYBODY}\nadmin_users = boss\nsbuf_loopcnt = 3\n", "")
    pool.daemon()
    with pool.connect("pgbouncer", "boss") as console:
        rows = {row[0]: row[1:] for row in console.execute("show config").fetchall()}
        assert rows.keys() >= GLOBAL.keys() - WINDOWS
        others = {key for key in GLOBAL.keys() - WINDOWS if GLOBAL[key] != (rows[key][1] or "")}
        # Ours means the same; PgBouncer shows NULL.
        assert others == {"auth_query", "verbose"}
        assert rows["conffile"] == (str(pool.ini), None, "no")
        assert rows["sbuf_loopcnt"] == ("3", "5", "yes")
        assert rows["workers"] == ("1", "auto", "yes")
        pool.ini.write_text(pool.ini.read_text().replace("sbuf_loopcnt = 3", "sbuf_loopcnt = 9"))
        console.execute("reload")
        rows = {row[0]: row[1:] for row in console.execute("show config").fetchall()}
        assert rows["sbuf_loopcnt"][0] == "9"


# -- its life -------------------------------------------------------------------------------------


def test_a_day_in_the_background(pool: Program) -> None:
    """As an init script does it: -d returns when clients can connect and the pidfile is there; HUP brings
    new settings; TERM waits for clients, and at the end the pidfile is gone.
    """
    pid = pool.daemon()
    assert alive(pid)
    with pool.connect("app", "ann") as client:
        assert client.execute("select 1").fetchone() == (1,)
        text = pool.ini.read_text()
        pool.ini.write_text(text.replace("[databases]", "[databases]\nnew = host=localhost user=x"))
        pool.signal(signal.SIGHUP)
        eventually(lambda: "configuration reloaded" in pool.log, "the reload is logged")
        pool.signal(signal.SIGTERM)
        eventually(lambda: "got SIGTERM" in pool.log, "the signal is logged")
        assert client.execute("select 2").fetchone() == (2,)
        assert alive(pid)
    pool.wait_until_gone(pid)
    assert not pool.pidfile.exists()
    assert "process up: poolproxy" in pool.log


def test_int_lets_transactions_finish(pool: Program) -> None:
    """SIGINT ends the process when its servers are released, though a client is connected."""
    pid = pool.daemon()
    with pool.connect("app", "ann") as client:
        client.execute("select 1")
        pool.signal(signal.SIGINT)
        eventually(lambda: "got SIGINT" in pool.log, "the signal is logged")
    pool.wait_until_gone(pid)


def test_the_foreground(pool: Program) -> None:
    """Without -d the process that was started serves, and logs to stderr besides the file."""
    process = pool.start("-v")
    eventually(lambda: pool.pidfile.exists() and pool.pidfile.read_text(), "the pidfile is there")
    assert pool.pid == process.pid
    with pool.connect("app", "ann"):
        pass
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 0
    for text in (said, pool.log):
        assert "process up: " in text
        assert " DEBUG " in text
        assert re.search(r" LOG C-\d+: app/ann@127\.0\.0\.1:\d+ login attempt: db=app", text)


def test_quiet(pool: Program) -> None:
    """With -q the log is in the file alone."""
    process = pool.start("-q")
    eventually(lambda: pool.pidfile.exists(), "the pidfile is there")
    process.send_signal(signal.SIGQUIT)
    _, said = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 0
    assert "LOG" not in said
    assert "process up: " in pool.log


def test_a_pidfile_of_a_live_process_keeps_a_second_one_out(pool: Program) -> None:
    """It names the process, ends with status 1, and leaves the first one and its pidfile alone."""
    pid = pool.daemon()
    status, said = pool.run("-d")
    assert status == 1
    assert f"process {pid} is running" in said
    assert pool.pid == pid
    assert alive(pid)


def test_a_pidfile_that_was_left_behind_is_replaced(pool: Program) -> None:
    """After a crash the next start works."""
    with subprocess.Popen(["true"]) as ended:
        pool.pidfile.write_text(str(ended.pid))
    assert alive(pool.daemon())
    assert "removing the stale pidfile" in pool.log


def test_the_parent_says_why_not(pool: Program) -> None:
    """-d ends with status 1 and the reason when the port is in use; no pidfile is left."""
    with socket.create_server((HOST, pool.port)):
        status, said = pool.run("-d")
    assert status == 1
    assert "is in use" in said
    assert not pool.pidfile.exists()


def test_mistakes_are_told_before_it_goes_to_the_background(pool: Program) -> None:
    """All of them, with file and line, and status 1."""
    pool.write("pool_mode = fast\nlisten_prot = 1", "")
    status, said = pool.run("-d")
    assert status == 1
    assert f"{pool.ini}:8: error: pool_mode must be session, transaction or statement" in said
    assert f"{pool.ini}:9: error: unknown setting listen_prot" in said


def test_the_background_needs_a_pidfile(pool: Program) -> None:
    """-d without it is refused."""
    pool.ini.write_text(pool.ini.read_text().replace("pidfile", "; pidfile"))
    status, said = pool.run("-d")
    assert status == 1
    assert "pidfile is not set" in said


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--frobnicate"], "No such option"),
        (["one", "two"], "unexpected extra argument"),
        (["-u", "no such account"], "there is no account 'no such account'"),
    ],
    ids=str,
)
def test_a_wrong_command_line(pool: Program, options: list[str], text: str) -> None:
    """Status 1, as PgBouncer, with the reason."""
    status, said = pool.run(*options)
    assert status == 1
    assert text in said


def test_the_version_is_one_line_that_begins_as_pgbouncers(pool: Program) -> None:
    """Tools read the version of PgBouncer whose behaviour to expect."""
    process = pool.start("-V")
    said, _ = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 0
    assert re.fullmatch(r"PgBouncer 1\.\d+\.\d+ \(poolproxy [\d.]+\)\n", said)


def test_an_online_restart_is_refused(pool: Program) -> None:
    """-R does not start a second process beside the first one; it says what to do instead."""
    for option in ("-R", "--reboot"):
        status, said = pool.run("-d", option)
        assert status == 1
        assert "-R does not work here yet" in said
        assert "SIGHUP" in said
    assert not pool.pidfile.exists()


def test_long_options_and_names_of_users(pool: Program) -> None:
    """--quiet and --user=NAME as PgBouncer takes them; a user that there is not is named."""
    status, said = pool.run("--quiet", "--user=nobody-here")
    assert status == 1
    assert "there is no account 'nobody-here'" in said + pool.log


# -- its files ------------------------------------------------------------------------------------


def test_pgbouncers_files_as_they_are(one_postgres: PostgresServer) -> None:
    """psql through an ini with an included list of databases, a forced user, the database *, userlist.txt
    and an HBA file with a line that can't be read.
    """
    server = one_postgres
    with program("auth_type = hba", "") as pool:
        list_path = pool.folder / "databases.ini"
        list_path.write_text(
            f"'my db' = {target(server)}\n* = host={server.host} port={server.port}\n"
        )
        (pool.folder / "userlist.txt").write_text(
            f'; users\n"{server.user}" "{server.password}"\n"ann" "md5{"0" * 32}"\nbroken\n'
        )
        (pool.folder / "hba.conf").write_text(
            "host all all 127.0.0.1/32 nonsense\nhost all ann all trust\nhost all all all md5\n"
        )
        pool.write(
            "auth_type = hba\nauth_file = userlist.txt\nauth_hba_file = hba.conf\npkt_buf = 4096",
            f"[databases]\n%include {list_path}\n[users]\nann = pool_mode=session\n",
        )
        pool.daemon()
        assert f"{pool.ini}:11: pkt_buf does nothing here" in pool.log
        assert "could not parse hba config line 1" in pool.log
        pool.signal(signal.SIGHUP)
        eventually(lambda: "configuration reloaded" in pool.log, "the reload is logged")
        assert pool.log.count("pkt_buf does nothing here") == 1
        sql = "select current_user, current_database()"
        with pool.connect("my db", "ann") as client:
            assert client.execute(sql).fetchone() == (server.user, "postgres")
        with pool.connect("template1", server.user, password=server.password) as client:
            assert client.execute(sql).fetchone() == (server.user, "template1")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            pool.connect("template1", server.user, password="wrong")


def test_users_of_any_database_are_looked_up_in_it(
    one_postgres: PostgresServer, make_role: str
) -> None:
    """`* = ... auth_user=` finds users in the database that the client asks for, as PgBouncer."""
    server = one_postgres
    with program("", "") as pool:
        (pool.folder / "users").write_text(f'"{server.user}" "{server.password}"\n')
        pool.write(
            f"auth_type = scram-sha-256\nauth_file = users\nauth_user = {server.user}",
            f"[databases]\n* = host={server.host} port={server.port}\n",
        )
        pool.daemon()
        with pool.connect("template1", make_role, password=f"pw of {make_role}") as client:
            found = client.execute("select current_user, current_database()").fetchone()
            assert found == (make_role, "template1")


@pytest.fixture
def make_role(one_postgres: PostgresServer) -> Iterator[str]:
    """A role that no file knows."""
    with psycopg.connect(one_postgres.url(), autocommit=True) as admin:
        admin.execute("create role looked_up login password 'pw of looked_up'")
        yield "looked_up"
        admin.execute("drop role looked_up")


def test_what_else_the_file_can_ask_for(one_postgres: PostgresServer) -> None:
    """psql shows the notice of login_notify_message; the log has a line of totals every stats_period."""
    settings = f"{ANYBODY}\nlogin_notify_message = be nice\nstats_period = 1"
    with program(settings, f"[databases]\napp = {target(one_postgres)}\n") as pool:
        pool.daemon()
        psql = one_postgres.binaries.tool("psql")
        done = subprocess.run(
            [
                str(psql),
                "-XAtc",
                "select 40 + 2",
                f"host={HOST} port={pool.port} dbname=app user=ann",
            ],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=True,
        )
        assert done.stdout == "42\n"
        assert "NOTICE:  be nice" in done.stderr
        eventually(lambda: " LOG stats: " in pool.log, "the totals are logged")
        assert re.search(r"stats: \d+ xacts/s, \d+ queries/s, .* B/s, xact \d+ us, query", pool.log)


# -- its log --------------------------------------------------------------------------------------


def test_a_log_file_that_was_moved_away_is_opened_again(pool: Program) -> None:
    """After HUP all processes write to a new one, as logrotate needs it."""
    pool.daemon()
    moved = pool.folder / "pgbouncer.log.1"
    pool.logfile.rename(moved)
    pool.signal(signal.SIGHUP)
    eventually(lambda: "configuration reloaded" in pool.log, "the acceptor writes to the new file")
    size = moved.stat().st_size

    def seen() -> bool:
        with pool.connect("app", "ann"):
            return "login attempt" in pool.log

    eventually(seen, "the workers write to the new file")
    assert "login attempt" not in moved.read_text()[size:]


def test_json(one_postgres: PostgresServer) -> None:
    """Every line is an object, those of the workers with their number and the connection's fields."""
    settings = f"{ANYBODY}\nlog_format = json\nverbose = 2"
    with program(settings, f"[databases]\napp = {target(one_postgres)}\n") as pool:
        pool.daemon()
        with pool.connect("app", "ann") as client:
            client.execute("select 1")
        with pytest.raises(psycopg.OperationalError, match="no such database"):
            pool.connect("none", "ann")
        # The log is written before the client hears of it.
        lines = [json.loads(line) for line in pool.log.splitlines()]
        wanted = {
            "database": "none",
            "user": "ann",
            "message": "pooler error: no such database: none",
        }
        error = next(line for line in lines if wanted.items() <= line.items())
        assert error["worker"] == 0
        assert error["level"] == "WARNING"
        assert error["connection"].startswith("C-")
        assert any("worker" not in line for line in lines)


def test_an_error_is_in_the_log_before_the_client_hears_of_it(
    one_postgres: PostgresServer,
) -> None:
    """Also one after the log-in, so that whoever sees it finds the line."""
    settings = f"{ANYBODY}\nidle_transaction_timeout = 0.2"
    with program(settings, f"[databases]\napp = {target(one_postgres)}\n") as pool:
        pool.daemon()
        with pool.connect("app", "ann") as client:
            client.execute("begin")
            told, _, _ = select.select([client.fileno()], [], [], START_SECONDS)
            assert told
            assert "pooler error: idle transaction timeout" in pool.log
            client.close()


def test_no_secret_in_the_log(one_postgres: PostgresServer) -> None:
    """Whatever kind of secret, wherever it stands and whoever sends it, with all that can be logged."""
    server = one_postgres
    md5 = "md5" + hashlib.md5(b"bobs-word" + b"bob").hexdigest()
    with program("", "") as pool:
        (pool.folder / "users").write_text(f'"ann" "plain-in-userlist"\n"bob" "{md5}"\n')
        pool.write(
            "auth_type = md5\nauth_file = users\nverbose = 3\nserver_login_retry = 0.1",
            f"[databases]\napp = {target(server)}\n"
            f"bad = {target(server).replace(server.password, 'wrong-at-server')}\n"
            "[users]\ncat = password='cats-word'\n",
        )
        pool.daemon()
        users = {"ann": "plain-in-userlist", "bob": "bobs-word", "cat": "cats-word"}
        for user, password in users.items():
            with pool.connect("app", user, password=password) as client:
                client.execute("select 1")
            for wrong in ("wrong-from-client", ""):
                with pytest.raises(psycopg.OperationalError):
                    pool.connect("app", user, password=wrong)
            with pytest.raises(psycopg.OperationalError):
                pool.connect("bad", user, password=password)
        pool.signal(signal.SIGHUP)
        eventually(lambda: "configuration reloaded" in pool.log, "the reload is logged")
        hidden = [
            "plain-in-userlist",
            md5,
            "bobs-word",
            "cats-word",
            "wrong-from-client",
            "wrong-at-server",
        ]
        assert "pooler error: password authentication failed" in pool.log
        assert [word for word in [*hidden, server.password] if word in pool.log] == []
