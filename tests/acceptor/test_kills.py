"""What KILL means for a client that is on its way from worker to worker."""

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
