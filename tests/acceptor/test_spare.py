"""The process that is kept ready to be the next worker: the acceptor is real, workers are fakes."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from poolproxy.acceptor import spare
from poolproxy.demo.processes import children
from tests.acceptor.serving import Server, eventually, reload, serving, until

READY = 'poolproxy_workers{state="ready"}'
STATES = {"starting": 0, "ready": 1, "leaving": 0}


def workers() -> set[int]:
    """The process ids of the workers and the spare; this process may have other children as well."""
    return {pid for pid in children(os.getpid()) if b"fake_worker" in command_line(pid)}


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has just ended


@asynccontextmanager
async def with_spare(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Server, set[int]]]:
    """A worker with a spare, and both process ids; at the end there is no process left."""
    monkeypatch.setattr(spare, "FIRST_AFTER", 0.0)
    monkeypatch.setattr(spare, "REST", 0.0)
    assert not workers()
    async with serving(Server(folder, workers=1)) as server:
        await processes(2)
        yield server, workers()
    assert not workers()


async def processes(count: int) -> None:
    """Wait until there are so many."""

    async def reached() -> bool:
        return len(workers()) == count

    await eventually(reached)


async def test_the_spare_takes_the_place_of_a_worker_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No figure counts it before; afterwards there is another one."""
    async with with_spare(tmp_path, monkeypatch) as (server, before):
        metrics = await server.metrics()
        assert {
            state: metrics[f'poolproxy_workers{{state="{state}"}}'] for state in STATES
        } == STATES
        client = await server.connect()
        await client.say("die")
        other = await server.connect()
        assert other.slot == "0"
        await processes(2)
        assert len(before & workers()) == 1
        await until(server, READY, 1)
        for one in (client, other):
            await one.close()


async def test_the_spare_is_an_added_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has all that it needs to know as of then."""
    async with with_spare(tmp_path, monkeypatch) as (server, before):
        await reload(server, workers=2)
        await until(server, READY, 2)
        await processes(3)
        assert before < workers()


async def test_a_spare_that_dies_has_a_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no worker is said to have died."""
    async with with_spare(tmp_path, monkeypatch) as (server, before):
        os.kill(max(before), signal.SIGKILL)

        async def another() -> bool:
            now = workers()
            return len(now) == 2 and now != before

        await eventually(another)
        assert await server.metric("poolproxy_worker_restarts_total") == 0


async def test_a_reload_ends_the_spare_or_starts_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As spare_worker says."""
    async with with_spare(tmp_path, monkeypatch) as (server, _):
        await reload(server, spare_worker=False)
        await processes(1)
        await reload(server, spare_worker=True)
        await processes(2)
