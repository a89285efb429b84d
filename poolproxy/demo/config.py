"""The files that the demo's pooler is started with."""

from __future__ import annotations

import json

from poolproxy.demo.backend import Backend
from poolproxy.demo.postgres import HOST

POOL_SIZE = 5
MAX_CLIENTS = 1000


def render_config(backend: Backend, port: int, metrics_port: int) -> str:
    """The configuration as TOML. Without a password there is none to ask clients for: trust."""
    auth_type = "scram-sha-256" if backend.password else "trust"
    return f"""\
[poolproxy]
listen_addr = ["{HOST}"]
listen_port = {port}
unix_socket_dir = ""
metrics_listen = "{HOST}:{metrics_port}"
pool_mode = "transaction"
default_pool_size = {POOL_SIZE}
max_client_conn = {MAX_CLIENTS}
auth_type = "{auth_type}"
auth_file = "userlist.txt"
admin_users = [{_quoted(backend.user)}]

[databases.{_quoted(backend.database)}]
host = {_quoted(backend.host)}
port = {backend.port}
"""


def render_userlist(backend: Backend) -> str:
    """The auth_file with the one user."""
    user, password = (text.replace('"', '""') for text in (backend.user, backend.password))
    return f'"{user}" "{password}"\n'


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's too, as long as no surrogate pairs are made.
    return json.dumps(text, ensure_ascii=False)
