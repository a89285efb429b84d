"""Roles of PostgreSQL with which the tests of authentication log in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from poolproxy.demo.postgres import PostgresServer

PASSWORD = "pass'word \\ ü"
ROLES = {
    "right_scram": "login",
    "expired": "login valid until '2001-01-01'",
    "forever": "login valid until 'infinity'",
    "nologin": "nologin",
}


def target(server: PostgresServer) -> dict[str, object]:
    return {"host": server.host, "port": server.port, "dbname": "postgres"}


@contextmanager
def authentication_roles(server: PostgresServer) -> Iterator[None]:
    """ROLES; right_md5 with an md5 secret; asker, who may read secrets; forced, who nobody logs in as."""
    literal = PASSWORD.replace("'", "''")
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"host all right_md5,asker_md5 127.0.0.1/32 md5\n{before}")
    for name, options in ROLES.items():
        server.psql(f"create role {name} {options} password '{literal}'")
    server.psql(
        f"set password_encryption = 'md5'; create role right_md5 login password '{literal}'; "
        "reset password_encryption; create role asker login password 'ask'; "
        "grant select on pg_authid to asker; create role forced login password 'f'; "
        "select pg_reload_conf()"
    )
    yield
    hba.write_text(before)
    everyone = ", ".join((*ROLES, "right_md5", "forced"))
    server.psql(
        f"revoke select on pg_authid from asker; drop role {everyone}, asker; select pg_reload_conf()"
    )
