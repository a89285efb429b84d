"""What KILL and KILL_CLIENT mean for a client that is on its way from worker to worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptor.scene import scene
from tests.acceptor.serving import read_line


@pytest.mark.parametrize("what", ["KILL", "KILL app"])
async def test_a_client_whose_worker_has_not_answered_a_kill_stays_for_it(
    what: str, tmp_path: Path
) -> None:
    """Where it was to go the order may have been carried out; when its worker has answered it can go."""
    async with scene(tmp_path) as s:
        await s.third.say("orders hold")
        await s.other.stream.send_all(f"console {what}\n".encode())
        await s.third.say("orders await")
        assert await s.client.say("move") == "stays"
        await s.third.say("orders obey")
        assert await read_line(s.other.stream) == "KILL"
        assert await s.client.say("move") == f"moved {s.other.slot}"


async def test_a_client_of_another_database_goes_past_a_kill(tmp_path: Path) -> None:
    """It is not meant."""
    async with scene(tmp_path) as s:
        await s.third.say("orders hold")
        await s.other.stream.send_all(b"console KILL other\n")
        await s.third.say("orders await")
        assert await s.client.say("move") == f"moved {s.other.slot}"
        await s.third.say("orders obey")
        assert await read_line(s.other.stream) == "KILL"


@pytest.mark.parametrize("word", ["moved", "stays"])
async def test_kill_client_finds_who_has_left_where_it_was_looked_for(
    word: str, tmp_path: Path
) -> None:
    """It moved, or was refused, before that worker read the order: the next one is asked."""
    async with scene(tmp_path) as s:
        number = s.client.greeting.split()[1]
        asked, arrivals = (s.third, "take") if word == "moved" else (s.other, "refuse")
        await s.other.say("arrivals hold")
        if word == "stays":
            await s.begin_move()
        await asked.say("orders hold")
        await s.fourth.stream.send_all(f"console KILL_CLIENT {number}\n".encode())
        await asked.say("orders await")
        if word == "moved":
            await s.begin_move()
        await s.other.say(f"arrivals {arrivals}")
        assert (await read_line(s.client.stream)).startswith(word)
        await asked.say("orders obey")
        assert await read_line(s.fourth.stream) == "KILL_CLIENT"
        assert await read_line(s.client.stream) == "killed"
