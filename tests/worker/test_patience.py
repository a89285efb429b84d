"""Who must make room when too many clients are logging in."""

from __future__ import annotations

import socket
from time import monotonic

import pytest
import trio
import trio.testing

from poolproxy.errors import PoolerError
from poolproxy.settings.schema import Settings
from poolproxy.worker.patience import GRACE, enforce, most_logins, unproven
from tests.worker.house import House, house

LATER = GRACE + 1


async def log_in(one: House, number: int, sock: socket.socket, ended: dict[int, str]) -> None:
    try:
        with unproven(one.worker, number, sock) as waiting:
            if number == 9:
                waiting.excused = True
            await trio.sleep_forever()
    except PoolerError as error:
        ended[number] = error.reason


async def test_the_silent_ones_go_first_to_come_first() -> None:
    """Beyond the limit, and after a grace: not those who have sent something, not those who wait for us."""
    ended: dict[int, str] = {}
    pairs = {number: socket.socketpair() for number in (4, 9, 3, 1, 2)}
    with house({"max_logins": 3}) as one:
        async with trio.open_nursery() as nursery:
            for number, (ours, _) in pairs.items():
                nursery.start_soon(log_in, one, number, ours, ended)
                await trio.testing.wait_all_tasks_blocked()
            pairs[1][1].send(b"x")
            enforce(one.worker, monotonic())
            await trio.testing.wait_all_tasks_blocked()
            assert ended == {}
            enforce(one.worker, monotonic() + LATER)
            await trio.testing.wait_all_tasks_blocked()
            assert ended == {2: "max_logins", 3: "max_logins"}
            assert set(one.worker.logins) == {9, 1, 4}
            enforce(one.worker, monotonic() + LATER)
            await trio.testing.wait_all_tasks_blocked()
            assert len(ended) == 2
            nursery.cancel_scope.cancel()
        assert not one.worker.logins
    for ours, theirs in pairs.values():
        ours.close()
        theirs.close()


async def test_who_answers_has_new_time() -> None:
    """A slow client that answers each question in time is left alone."""
    ours, theirs = socket.socketpair()
    with house({"max_logins": 1}) as one, unproven(one.worker, 1, ours) as waiting:
        assert waiting.is_silent(monotonic() + LATER)
        waiting.since -= LATER
        waiting.anew()
        assert not waiting.is_silent(monotonic())
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({"max_logins": 7, "workers": 2, "max_client_conn": 100}, 7),
        ({"workers": 2, "max_client_conn": 100}, 25),
        ({"workers": 64, "max_client_conn": 2}, 1),
    ],
)
def test_half_of_the_clients(given: dict[str, int], most: int) -> None:
    """By default the workers together let half of max_client_conn be silent."""
    assert most_logins(Settings(**given)) == most
