"""Where examples are run: a PostgreSQL, and a pooler before it with few server connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import psycopg

from poolproxy.demo.postgres import PostgresServer
from tests.differential.conversation import Difference
from tests.differential.direct import Expected, expectations
from tests.differential.pooled import Run
from tests.differential.programs import CLIENTS
from tests.differential.script import Example, Who
from tests.differential.statements import SEQUENCE, SETUP
from tests.differential.table import MODES
from tests.fixtures.ownership import Fallen, kill_worker
from tests.fixtures.postgres import TRUSTING
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates
from tests.system.consoles import give
from tests.system.support import tables

POOLED = "pooled"
WORKERS = 2
SERVERS = 3
KEPT = 3  # prepared statements on a server connection: few, so that they make way
ROWS = "select life, n, tag from tagged order by life, n"


@attrs.define
class Database:
    """One of two that begin with the same contents; ``heard``: the notifications, by the life's tag."""

    connection: psycopg.Connection
    heard: dict[str, list[tuple[str, str]]] = attrs.Factory(dict)

    def prepare(self) -> None:
        """As it was for the first example."""
        mine = "select gid from pg_prepared_xacts where database = current_database()"
        for (gid,) in self.connection.execute(mine).fetchall():
            self.connection.execute(f"rollback prepared '{gid}'")
        self.connection.execute("delete from tagged")
        self.connection.execute("drop schema if exists shapes cascade; create schema shapes")
        self.heard.clear()

    def listen(self) -> None:
        """To what all clients may say."""
        self.connection.add_notify_handler(self._hear)
        for client in range(CLIENTS):
            self.connection.execute(f"listen channel_{client}")

    def _hear(self, notification: psycopg.Notify) -> None:
        tag = notification.payload.rpartition(" ")[2]
        self.heard.setdefault(tag, []).append((notification.channel, notification.payload))

    def left(self) -> dict[str, list[Any]]:
        """The rows and the notifications of each life, by its tag."""
        found: dict[str, list[Any]] = {}
        for life, *row in self.connection.execute(ROWS):
            found.setdefault(life, []).append(row)
        for tag, heard in self.heard.items():
            found.setdefault(tag, []).extend(heard)
        return found


@attrs.define
class Arena:
    """``direct`` and ``pooled`` are two databases of ``server``; clients of the pool use the second.
    ``authority`` certifies the proxy.
    """

    server: PostgresServer
    proxy: ProxyProcess
    authority: str
    admin: psycopg.Connection
    direct: Database
    pooled: Database

    def run(self, example: Example) -> Counter[str]:
        """The masks that were used; raises Difference, with a script of the example."""
        return self.compare(example, self.expect(example))

    def expect(self, example: Example) -> dict[Who, Expected]:
        """What PostgreSQL itself answers."""
        for database in (self.direct, self.pooled):
            database.prepare()
        return expectations(self.server, example)

    def compare(self, example: Example, expected: dict[Who, Expected]) -> Counter[str]:
        """As :meth:`run`."""
        address, user = (self.proxy.host, self.proxy.port), self.server.user
        run = Run(example, expected, address, user, self.authority, self._kill)
        try:
            run.run()
            self._compare_what_is_left(run.whole)
        except Difference as difference:
            raise Difference(f"{difference}\n\n{HOW_TO_REPEAT}\n{example}") from None
        return run.used

    def _compare_what_is_left(self, lives: set[Who]) -> None:
        wanted, left = self.direct.left(), self.pooled.left()
        for who in lives:
            if wanted.get(who.tag) != left.get(who.tag):
                raise Difference(f"{who} left {left.get(who.tag)}, not {wanted.get(who.tag)}")

    def _kill(self, what: str, number: int) -> Fallen | None:
        """A worker process, or one of the pool's server connections; or have a worker replaced."""
        if what == "server":
            self._terminate(number)
        elif what == "recycle":
            self._recycle(number)
        else:
            workers = sorted(self.proxy.worker_pids())
            return kill_worker(self.proxy, workers[number % len(workers)]) if workers else None
        return None

    def _recycle(self, number: int) -> None:
        try:
            give(self.proxy, f"recycle worker {number % WORKERS}", self.server.user)
        except psycopg.DatabaseError as error:
            if "can't be replaced now" not in str(error):
                raise

    def _terminate(self, number: int) -> None:
        """One of the pool's server connections."""
        sql = """select pg_terminate_backend(pid) from (
            select pid, row_number() over (order by pid) - 1 as place, count(*) over () as many
            from pg_stat_activity where datname = %s and pid <> %s and backend_type = 'client backend'
            ) backends where place = %s %% many"""
        own = self.pooled.connection.info.backend_pid
        self.admin.execute(sql, (POOLED, own, number))


HOW_TO_REPEAT = (
    "To run it again: python -m tests.differential < SCRIPT, where SCRIPT has these lines:"
)


@contextmanager
def arena(
    server: PostgresServer, start_proxy: StartProxy, certificates: Certificates, **settings: object
) -> Iterator[Arena]:
    """The databases are dropped at the end. ``settings``: more of the proxy's."""
    entry = {"dbname": POOLED, "pool_size": SERVERS}
    databases = {mode: {**entry, "pool_mode": mode} for mode in MODES}
    with ExitStack() as stack:

        def connect(database: str) -> psycopg.Connection:
            url = server.url(database=database)
            return stack.enter_context(psycopg.connect(url, autocommit=True))

        def create(name: str, template: str) -> None:
            admin.execute(f"create database {name} template {template}")
            stack.callback(admin.execute, f"drop database {name} with (force)")

        admin = connect("postgres")
        create(TRUSTING, "template1")
        with psycopg.connect(server.url(database=TRUSTING), autocommit=True) as first:
            first.execute(SETUP)
            for client in range(CLIENTS):
                first.execute(SEQUENCE.replace("{n}", str(client)))
        create(POOLED, TRUSTING)  # so that tables have the same numbers in both
        found = [Database(connect(name)) for name in (TRUSTING, POOLED)]
        for database in found:
            database.listen()
            stack.callback(database.prepare)  # nothing prepared may be left when it is dropped
        pem = certificates.issue("differential", HOST)
        own = {
            "workers": WORKERS,
            "max_prepared_statements": KEPT,
            "admin_users": [server.user],
            "client_tls_sslmode": "allow",
            "client_tls_key_file": str(pem.key),
            "client_tls_cert_file": str(pem.cert),
        }
        proxy = start_proxy(tables(server, databases, **own, **settings))
        yield Arena(server, proxy, str(certificates.ca), admin, *found)
