"""What a client of the matrix connects to: a pool with fewer servers than the test has clients."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import attrs
import pytest

SERVERS = 3
CLIENTS = 6
RESTORED = "matrix_restored"  # a database to restore into, by the same name at the proxy
DEADLINE = 30.0  # seconds that clients wait for each other, and for a program to end

Result = TypeVar("Result")

# For tests of what does not work in all of the modes that the fixture ``target`` goes through.
EVERY_MODE = pytest.mark.parametrize(
    "target", ["session", "transaction", "statement"], indirect=True
)
SESSION = pytest.mark.parametrize("target", ["session"], indirect=True)
TRANSACTION = pytest.mark.parametrize("target", ["transaction"], indirect=True)


@attrs.frozen
class Target:
    """A database of the proxy in one pool mode; ``database`` is the mode's name."""

    host: str
    port: int
    user: str
    password: str
    database: str

    @property
    def mode(self) -> str:
        return self.database

    @property
    def url(self) -> str:
        return self.url_for("postgresql")

    def url_for(self, scheme: str) -> str:
        """The URL by another scheme, such as that of an SQLAlchemy dialect."""
        return f"{scheme}://{self.user}:{self.password}@{self.host}:{self.port}/{self.database}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment that leads libpq, node-postgres and pgjdbc's test program here."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return kept | {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
        }

    def crowd(self, work: Callable[[int, Callable[[], object]], Result]) -> list[Result]:
        """Run ``work(number, meet)`` for all clients at once, each in a thread; their results.

        ``meet`` is called when the client is connected. Where a server is not held by the connection
        it returns when all clients are, so that they share the servers for certain.
        """
        barrier = threading.Barrier(CLIENTS, timeout=DEADLINE)
        meet = (lambda: None) if self.mode == "session" else barrier.wait
        with ThreadPoolExecutor(CLIENTS) as pool:
            futures = [pool.submit(work, number, meet) for number in range(CLIENTS)]
            return [future.result() for future in futures]

    def async_crowd(
        self, work: Callable[[int, Callable[[], Awaitable[object]]], Awaitable[Result]]
    ) -> list[Result]:
        """The same with asyncio tasks."""
        return asyncio.run(self._gather(work))

    async def _gather(
        self, work: Callable[[int, Callable[[], Awaitable[object]]], Awaitable[Result]]
    ) -> list[Result]:
        # asyncio has a Barrier of its own from Python 3.11 on.
        barrier = asyncio.Barrier(CLIENTS)
        meet = _nothing if self.mode == "session" else barrier.wait
        async with asyncio.timeout(DEADLINE):
            return await asyncio.gather(*(work(number, meet) for number in range(CLIENTS)))


async def _nothing() -> None:
    return None


def run_program(
    target: Target,
    command: Sequence[str | int | Path],
    *,
    text: str = "",
    status: int = 0,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program with the target in its environment; it must end with this status, in time."""
    done = subprocess.run(
        [str(part) for part in command],
        input=text,
        env=target.environment | dict(environment or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done
