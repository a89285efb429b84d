"""A worker process that is not yet told which worker it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from poolproxy.demo.processes import process_name, wait_for
from poolproxy.ipc.channel import Channel, pair
from poolproxy.ipc.messages import Begin, Leave, Message


def spare(*messages: Message) -> subprocess.Popen[str]:
    """A process that is told these, and then that the acceptor is gone, once it has loaded everything."""
    ours, theirs = pair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "poolproxy.worker", "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert wait_for(lambda: process_name(process.pid) == "poolproxy-spare", 20)
        channel = Channel(ours)
        for message in messages:
            channel.post(message)
    return process


@pytest.mark.parametrize("messages", [(), (Begin(3),)], ids=["nothing", "Begin"])
def test_a_spare_leaves_with_the_acceptor(messages: tuple[Message, ...]) -> None:
    """Without a word: there was nothing for it to do."""
    with spare(*messages) as process:
        assert process.communicate(timeout=20)[1] == ""
        assert process.returncode == 0


def test_a_spare_wants_to_know_who_it_is_first() -> None:
    """Any other message is an error."""
    with spare(Leave("now")) as process:
        assert "a worker can't begin: Leave instead of Begin" in process.communicate(timeout=20)[1]
        assert process.returncode == 1


def test_the_channel_is_above_all_other_descriptors() -> None:
    """It is what a death closes first: when clients lose their connections, the acceptor can know why."""
    ours, theirs = pair()
    with ours, theirs:
        fd = theirs.fileno()
        command = [sys.executable, "-m", "poolproxy.worker", "--fd", str(fd)]
        with subprocess.Popen(command, pass_fds=[fd]) as process:
            assert wait_for(lambda: process_name(process.pid) == "poolproxy-spare", 20)
            folder = Path(f"/proc/{process.pid}/fd")
            numbers = sorted(int(entry.name) for entry in folder.iterdir())
            assert (folder / str(numbers[-1])).stat().st_ino == os.fstat(fd).st_ino
            assert numbers[-1] > 1000 > numbers[-2]
            ours.close()
            theirs.close()
