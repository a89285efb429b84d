"""The pooler and the databases of the chaos, and their limits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.setups import PASSWORD, role

WORKERS = 4
# Each role may have as many connections as its pool at most, so that one too many is an error.
MOST = {"chaos_tx": 5, "chaos_two": 4, "chaos_session": 4}
ROLE_OF = {"tx": "chaos_tx", "a": "chaos_two", "b": "chaos_two", "session": "chaos_session"}
ADMIN = "boss"


@attrs.frozen
class Limits:
    """What a reload changes. Of each role, how many connections it is to have at most now."""

    tx: int
    two: int
    session: int
    by_database: bool

    @classmethod
    def most(cls) -> Limits:
        return cls(MOST["chaos_tx"], MOST["chaos_two"], MOST["chaos_session"], by_database=False)

    @classmethod
    def any(cls, chance: random.Random) -> Limits:
        tx, two, session = (chance.randint(1, most) for most in MOST.values())
        return cls(tx, two, session, by_database=chance.random() < 0.5)

    @property
    def of_roles(self) -> dict[str, int]:
        return {"chaos_tx": self.tx, "chaos_two": self.two, "chaos_session": self.session}

    def tables(self, server: PostgresServer) -> dict[str, Any]:
        """The configuration with these limits."""
        target = {"host": server.host, "port": server.port, "dbname": "postgres"}
        size = {"pool_size": MOST["chaos_tx"], "max_db_connections": self.tx}
        databases: dict[str, dict[str, object]] = {
            "tx": size if self.by_database else {"pool_size": self.tx},
            "a": {"pool_size": 3},
            "b": {"pool_size": 3, "min_pool_size": 1},
            "session": {"pool_size": self.session, "pool_mode": "session"},
        }
        return {
            "poolproxy": {
                "workers": WORKERS,
                "auth_type": "trust",
                "admin_users": ADMIN,
                "pool_mode": "transaction",
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
                "chaos_two": {"password": PASSWORD, "max_user_connections": self.two},
            },
        }


@contextmanager
def stage(server: PostgresServer, start: StartProxy, marks: list[str]) -> Iterator[ProxyProcess]:
    """The pooler, and a row for each mark in the table ``chaos``, what became of it in ``chaos_log``."""
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
        proxy = start(Limits.most().tables(server))
        yield proxy
        proxy.stop()
