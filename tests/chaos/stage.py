"""The pooler and the databases of the chaos, and their limits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.fixtures.tls import Pem
from tests.system.setups import PASSWORD, role

WORKERS = 4
# Each role may have as many connections as its pool at most, so that one too many is an error.
MOST = {"chaos_tx": 5, "chaos_two": 4, "chaos_small": 2, "chaos_session": 4}
ROLE_OF = {
    "tx": "chaos_tx",
    "a": "chaos_two",
    "b": "chaos_two",
    "small": "chaos_small",  # so small that its clients are gathered whenever they are busy
    "session": "chaos_session",
}
ADMIN = "boss"


@attrs.frozen
class Scene:
    """``certificate``: the pooler's. ``encrypted``: its connections to ``server`` are; those of clients may
    be in either case.
    """

    server: PostgresServer
    certificate: Pem
    encrypted: bool


@attrs.frozen
class Limits:
    """What a reload changes; ``of_roles``: how many connections each is to have at most now."""

    of_roles: dict[str, int]
    by_database: bool
    client_moves: bool

    @classmethod
    def most(cls) -> Limits:
        return cls(MOST, by_database=False, client_moves=True)

    @classmethod
    def any(cls, chance: random.Random) -> Limits:
        of_roles = {role: chance.randint(1, most) for role, most in MOST.items()}
        return cls(
            of_roles,
            by_database=chance.random() < 0.5,
            client_moves=chance.random() < 0.7,
        )

    def tables(self, scene: Scene) -> dict[str, Any]:
        """The configuration with these limits."""
        server, tx = scene.server, self.of_roles["chaos_tx"]
        target = {"host": server.host, "port": server.port, "dbname": "postgres"}
        size = {"pool_size": MOST["chaos_tx"], "max_db_connections": tx}
        databases: dict[str, dict[str, object]] = {
            "tx": size if self.by_database else {"pool_size": tx},
            "a": {"pool_size": 3},
            "b": {"pool_size": 3, "min_pool_size": 1},
            "small": {"pool_size": self.of_roles["chaos_small"]},
            "session": {"pool_size": self.of_roles["chaos_session"], "pool_mode": "session"},
        }
        return {
            "poolproxy": {
                "workers": WORKERS,
                "auth_type": "trust",
                "admin_users": ADMIN,
                "pool_mode": "transaction",
                "client_moves": self.client_moves,
                "client_tls_sslmode": "allow",
                "client_tls_key_file": str(scene.certificate.key),
                "client_tls_cert_file": str(scene.certificate.cert),
                "server_tls_sslmode": "require" if scene.encrypted else "disable",
                "server_idle_timeout": 1,
                "spare_worker": True,
                "verbose": 2,
            },
            "databases": {
                name: {**target, "user": ROLE_OF[name], "password": PASSWORD, **entry}
                for name, entry in databases.items()
            },
            "users": {
                ADMIN: {"password": PASSWORD},
                "chaos_two": {
                    "password": PASSWORD,
                    "max_user_connections": self.of_roles["chaos_two"],
                },
            },
        }


@contextmanager
def stage(scene: Scene, start: StartProxy, marks: list[str]) -> Iterator[ProxyProcess]:
    """The pooler, and a row for each mark in the table ``chaos``, what became of it in ``chaos_log``."""
    server = scene.server
    with ExitStack() as stack:
        for name, limit in MOST.items():
            stack.enter_context(role(server, name, limit))
        rows = ", ".join(f"('{mark}', 0)" for mark in marks)
        server.psql(
            "drop table if exists chaos, chaos_log; create table chaos (mark text primary key, n int); "
            f"create table chaos_log (mark text, n int); insert into chaos values {rows}; "
            f"grant all on chaos, chaos_log to {', '.join(MOST)}"
        )
        stack.callback(server.psql, "drop table chaos, chaos_log")
        proxy = start(Limits.most().tables(scene))
        yield proxy
        proxy.stop()
