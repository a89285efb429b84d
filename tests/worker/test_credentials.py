"""Commands that print passwords: what counts, and what becomes of those that misbehave."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
import trio

from poolproxy.demo.processes import is_alive
from poolproxy.worker.credentials import MAX_PRINTED, CommandFailed, _run


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


@pytest.mark.parametrize(
    ("script", "password"),
    [
        ("echo token", "token"),
        ("printf token", "token"),
        ("printf 'token\\r\\nmore\\n'", "token"),
        ("printf ' a b \\n'", " a b "),
        ("echo $PGUSER", "ann"),
        ("echo token; echo chatter >&2", "token"),
    ],
)
async def test_the_first_line_counts(script: str, password: str) -> None:
    """Without its end, with its blanks; what goes to stderr is no password."""
    assert await _run(shell(script), {**os.environ, "PGUSER": "ann"}) == password


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "ended with status 3"),
        ("echo token; exit 1", "ended with status 1"),
        ("kill -9 $$", "ended with status -9"),
        ("true", "printed no password"),
        ("echo", "printed no password"),
        ("printf 'to\\000ken'", "printed no password"),
        (f"head -c {MAX_PRINTED + 1} /dev/zero", "prints too much"),
        ("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", "prints too much"),
    ],
)
async def test_what_is_no_password(script: str, words: str) -> None:
    """The reason is for the log; an endless command is ended."""
    with trio.fail_after(20), pytest.raises(CommandFailed, match=words):
        await _run(shell(script), os.environ)


@pytest.mark.parametrize("command", ["/nowhere/at/all", "/etc/passwd", "/"])
async def test_what_can_not_be_run(command: str) -> None:
    """The system's word for it."""
    with pytest.raises(CommandFailed, match="can't be run: "):
        await _run([command], os.environ)


async def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """By server_connect_timeout around it; also one that ignores SIGTERM."""
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sleep 600 & echo $! $$ >{shlex.quote(str(pids))}; wait"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, shell(script), os.environ)
        with trio.fail_after(20):
            while not pids.exists() or not pids.read_text().endswith("\n"):  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    with trio.fail_after(20):
        while any(is_alive(int(pid)) for pid in pids.read_text().split()):  # noqa: ASYNC110
            await trio.sleep(0.01)
