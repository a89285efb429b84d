"""What tests of failures look at: metrics, descriptors, memory, PostgreSQL's own view; and load."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import LiteralString

import attrs
import psycopg

from poolproxy.demo.postgres import PostgresServer
from poolproxy.demo.processes import wait_for
from tests.fixtures.ownership import served
from tests.fixtures.proxy import ProxyProcess
from tests.system.consoles import give
from tests.system.rough_client import Closed, RoughClient, ServerError
from tests.system.support import sample

TOO_MANY = "too many connections for role"


def samples(text: str) -> dict[str, float]:
    """Each sample of an exposition by its name with labels."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def metric(proxy: ProxyProcess, pattern: str) -> float:
    """The sum of the samples that match the pattern."""
    return sum(v for name, v in samples(proxy.metrics()).items() if re.fullmatch(pattern, name))


def fallen_counters(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Counters that are missing in ``after``, or lower than before."""
    counters = [n for n in before if re.match(r"\w+_(total|bucket|count|sum)\b", n)]
    return [f"{n}: {before[n]} > {after.get(n)}" for n in counters if after.get(n, -1) < before[n]]


def permits_out(proxy: ProxyProcess) -> float:
    """Permits that are held now."""
    return permits_in(samples(proxy.metrics()))


def permits_in(found: dict[str, float]) -> float:
    """Permits that are held, by one scrape."""
    return sum(v for name, v in found.items() if name.startswith("poolproxy_pool_permits{"))


def eventually(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Fail unless the condition becomes true in time."""
    assert wait_for(lambda: bool(condition()), seconds), f"not within {seconds:g} s: {what}"


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def private_bytes(pid: int) -> int:
    """Memory that the process shares with nobody, and its part of the rest (PSS)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def client_ports(proxy: ProxyProcess, worker: int) -> set[int]:
    """The ports of the clients that were this worker's when it ended, or are now; with ``verbose = 2``."""
    return served(proxy.log).get(worker, set())


@contextmanager
def superuser(server: PostgresServer) -> Iterator[psycopg.Connection]:
    """A direct connection."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        yield connection


def backends_of(server: PostgresServer, role: str) -> int:
    """How many backends PostgreSQL runs for the role."""
    return _count(server, role, "true")


def busy_backends(server: PostgresServer, role: str) -> int:
    """How many backends of the role run a query now."""
    return _count(server, role, "state = 'active'")


def _count(server: PostgresServer, role: str, condition: LiteralString) -> int:
    sql = "select count(*) from pg_stat_activity where usename = %s and " + condition
    with superuser(server) as connection:
        row = connection.execute(sql, (role,)).fetchone()
    assert row
    return int(row[0])


class Sampler:
    """Samples the number of a role's backends as fast as it can; ``most`` is the greatest."""

    def __init__(self, server: PostgresServer, role: str) -> None:
        self._server, self._role = server, role
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._log_start = len(server.log_text())
        self.most = 0

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def refusals(self) -> int:
        """How often PostgreSQL has refused a role for its CONNECTION LIMIT since the start."""
        return self._server.log_text()[self._log_start :].count(TOO_MANY)

    def _run(self) -> None:
        sql = "select count(*) from pg_stat_activity where usename = %s"
        with superuser(self._server) as connection:
            while not self._over.is_set():
                row = connection.execute(sql, (self._role,)).fetchone()
                assert row
                self.most = max(self.most, int(row[0]))
                time.sleep(0.002)  # between samples: leave the CPU to what is tested


@attrs.define(eq=False)
class Runner:
    """One client of a :class:`Load` as its thread sees it."""

    number: int
    done: int = 0
    last_success: float = 0.0
    longest_gap: float = 0.0
    port: int = 0
    errors: list[tuple[float, int, str]] = attrs.Factory(list)
    wrong: list[str] = attrs.Factory(list)

    def succeeded(self) -> None:
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - self.last_success)
        self.last_success = now
        self.done += 1


class Load:
    """Clients in threads that run tagged queries one after the other, and connect again after errors.

    An error is (time, local port of the connection, text). ``wrong`` are answers to somebody else's
    query: never to be seen.
    """

    def __init__(
        self,
        port: int,
        user: str,
        database: str,
        clients: int,
        *,
        sql: str = "select '{tag}', pg_sleep(0.001)",
        per_connection: float = math.inf,
    ) -> None:
        self._port, self._user, self._database = port, user, database
        self._sql, self._per_connection = sql, per_connection
        self._over = threading.Event()
        self.runners = [Runner(number) for number in range(clients)]
        self._threads = [threading.Thread(target=self._run, args=(r,)) for r in self.runners]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def done(self) -> int:
        return sum(runner.done for runner in self.runners)

    @property
    def errors(self) -> list[tuple[float, int, str]]:
        return [error for runner in self.runners for error in runner.errors]

    @property
    def wrong(self) -> list[str]:
        return [text for runner in self.runners for text in runner.wrong]

    @property
    def longest_gap(self) -> float:
        """The longest time that any client went without an answer."""
        return max(runner.longest_gap for runner in self.runners)

    def wait_for_progress(self, each: int = 3, seconds: float = 30.0) -> None:
        """Wait until every client has got that many more answers."""
        goal = {runner.number: runner.done + each for runner in self.runners}
        eventually(
            lambda: all(runner.done >= goal[runner.number] for runner in self.runners),
            seconds,
            f"{each} answers for each client; errors: {self.errors[-3:]}",
        )

    def _run(self, runner: Runner) -> None:
        runner.last_success = time.monotonic()
        while not self._over.is_set():
            try:
                with RoughClient(self._port, timeout=60) as client:
                    runner.port = client.local_port
                    client.log_in(self._user, self._database)
                    self._converse(runner, client)
            except (ServerError, Closed, OSError) as error:
                runner.errors.append((time.monotonic(), runner.port, f"{error!r}"))
                self._over.wait(0.01)

    def _converse(self, runner: Runner, client: RoughClient) -> None:
        count = 0
        while not self._over.is_set() and count < self._per_connection:
            count += 1
            tag = f"client {runner.number} query {runner.done}"
            rows = client.query(self._sql.format(tag=tag))
            if len(rows) != 1 or rows[0][0] != tag:
                runner.wrong.append(f"{tag} got {rows}")
            runner.succeeded()


def connected_ports(load: Load) -> set[int]:
    """The ports that the clients of a load use now."""
    return {runner.port for runner in load.runners}


def texts(errors: Iterable[tuple[float, int, str]]) -> set[str]:
    """The different texts of errors."""
    return {text for _, _, text in errors}


def by_worker(proxy: ProxyProcess, metric: str) -> dict[int, int]:
    """The workers' slots with a number that is not 0."""
    counts = {
        int(row["worker"]): int(sample(proxy, metric, worker=row["worker"]))
        for row in give(proxy, "SHOW WORKERS", "postgres")
    }
    return {slot: count for slot, count in counts.items() if count}


def process(proxy: ProxyProcess, slot: int) -> int:
    """The worker's process; 0 while it has none that is ready."""
    found = give(proxy, "SHOW WORKERS", "postgres")
    ready = [row for row in found if int(row["worker"]) == slot and row["state"] == "ready"]
    return int(ready[0]["pid"]) if ready else 0
