"""poolproxy from this source tree, with one worker unless asked for more: PgBouncer has one process, too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable
from benchmarks.targets.pooler import Limits, security, userlist

_TOML = """\
[poolproxy]
listen_addr = "127.0.0.1"
listen_port = {port}
unix_socket_dir = ""
{security}
pool_mode = "transaction"
default_pool_size = {pool_size}
max_client_conn = {max_clients}
workers = {workers}
metrics_listen = ""
log_connections = false
log_disconnections = false
client_moves = {moves}
spare_worker = false  # it would start amid a measurement

[databases.{dbname}]
host = "{host}"
port = {server_port}
dbname = "{dbname}"
user = "{user}"
"""


class PoolProxy:
    """What this project makes."""

    name = "poolproxy"
    refuses_root = False

    def version(self) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "poolproxy", "--version"], capture_output=True, text=True
        )
        if done.returncode:
            raise Unavailable(f"poolproxy does not start: {done.stderr.strip().splitlines()[-1]}")
        return " ".join(done.stdout.split())

    def command(
        self, server: Endpoint, folder: Path, port: int, limits: Limits
    ) -> Sequence[str | Path]:
        (folder / "userlist.txt").write_text(userlist(server, limits))
        words = (f'{name} = "{value}"' for name, value in security(folder, limits).items())
        text = _TOML.format(
            host=server.host,
            server_port=server.port,
            user=server.user,
            dbname=server.dbname,
            security="\n".join(words),
            port=port,
            workers=limits.processes,
            moves=str(limits.client_moves).lower(),
            pool_size=limits.pool_size,
            max_clients=limits.max_clients,
        )
        (folder / "poolproxy.toml").write_text(text)
        return [sys.executable, "-m", "poolproxy", "run", folder / "poolproxy.toml"]
