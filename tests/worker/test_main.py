"""A worker process that is not yet told which worker it is."""

from __future__ import annotations

import subprocess
import sys

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
