"""PgBouncer as the distribution installs it (https://www.pgbouncer.org/config.html)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable
from benchmarks.targets.pooler import Limits, security, userlist

# /usr/sbin is in root's PATH only.
_SEARCH = "/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin"

_INI = """\
[databases]
{dbname} = host={host} port={server_port} dbname={dbname} user={user}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = {max_clients}
log_connections = 0
log_disconnections = 0
"""


class PgBouncer:
    """The reference that every figure is held against."""

    name = "PgBouncer"
    refuses_root = True

    def version(self) -> str:
        first = subprocess.run(
            [_program(), "--version"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
        return first.split()[-1]

    def command(
        self, server: Endpoint, folder: Path, port: int, limits: Limits
    ) -> Sequence[str | Path]:
        program = _program()
        (folder / "userlist.txt").write_text(userlist(server, limits))
        text = _INI.format(
            host=server.host,
            server_port=server.port,
            user=server.user,
            dbname=server.dbname,
            port=port,
            pool_size=max(1, limits.pool_size // limits.processes),
            max_clients=limits.max_clients,
        )
        text += "".join(f"{name} = {value}\n" for name, value in security(folder, limits).items())
        if tuple(map(int, self.version().split(".")[:2])) >= (1, 21):
            # From 1.24 on this is the default; older versions do not know the setting.
            text += "max_prepared_statements = 200\n"
        if limits.processes > 1:
            text += "so_reuseport = 1\n"
        ini = folder / "pgbouncer.ini"
        ini.write_text(text)
        if limits.processes == 1:
            return [program, ini]
        # Each with its own pool: the limit is divided by hand.
        return ["/bin/sh", "-c", f"'{program}' '{ini}' & " * limits.processes + "wait"]


def _program() -> str:
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=_SEARCH)
    if program is None:
        raise Unavailable("pgbouncer is not installed (Debian: apt install pgbouncer)")
    return program
