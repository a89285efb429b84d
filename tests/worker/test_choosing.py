"""Hosts are tried in turn, each with its part of the time."""

from __future__ import annotations

import pytest
import trio

from poolproxy.ipc.messages import Candidate
from poolproxy.settings.enums import TargetSession
from poolproxy.settings.hosts import Host
from poolproxy.worker.choosing import SUSPECT_SECONDS, Elsewhere, NoHost, choose

HOSTS = [Candidate("a", 1, False), Candidate("b", 1, False), Candidate("c", 1, False)]


class Tries:
    """What hosts do by their names: a reason to go on, or "" to be taken."""

    def __init__(self, *, unreachable: str = "", unsuitable: str = "") -> None:
        self.unreachable = unreachable
        self.unsuitable = unsuitable
        self.tried: list[tuple[str, str, float]] = []

    async def __call__(self, host: Host, wish: TargetSession, seconds: float) -> str:
        await trio.lowlevel.checkpoint()
        self.tried.append((host.name, wish.value, seconds))
        if host.name in self.unreachable:
            raise Elsewhere("refused", reachable=False)
        if host.name in self.unsuitable and wish is not TargetSession.ANY:
            raise Elsewhere("primary", reachable=True)
        return host.name


async def test_the_first_host_that_will_do_is_taken() -> None:
    """Those behind it are not tried."""
    tries = Tries(unreachable="a")
    assert await choose(HOSTS, TargetSession.ANY, tries) == "b"
    assert [name for name, *_ in tries.tried] == ["a", "b"]


async def test_prefer_standby_is_content_with_any_in_the_end() -> None:
    """When no host is a standby the first one that was reached is taken, and the dead are not tried again."""
    tries = Tries(unreachable="a", unsuitable="bc")
    assert await choose(HOSTS, TargetSession.PREFER_STANDBY, tries) == "b"
    assert [(name, wish) for name, wish, _ in tries.tried] == [
        ("a", "prefer-standby"),
        ("b", "prefer-standby"),
        ("c", "prefer-standby"),
        ("b", "any"),
    ]


async def test_every_reason_is_told() -> None:
    """Where no host will do it is said what is wrong with each."""
    with pytest.raises(NoHost) as caught:
        await choose(HOSTS, TargetSession.STANDBY, Tries(unreachable="a", unsuitable="bc"))
    assert str(caught.value) == "no standby host: a:1: refused; b:1: primary; c:1: primary"
    with pytest.raises(NoHost) as caught:
        await choose(HOSTS[:1], TargetSession.ANY, Tries(unreachable="a"))
    assert str(caught.value) == "a:1: refused"


async def test_the_time_is_shared() -> None:
    """Each host has an equal part of what is left, a suspect one little, the last one all."""
    tries = Tries(unreachable="abc")
    candidates = [HOSTS[0], Candidate("b", 1, True), HOSTS[2]]
    with trio.fail_after(30), pytest.raises(NoHost):
        await choose(candidates, TargetSession.ANY, tries)
    first, second, third = (seconds for *_, seconds in tries.tried)
    assert 9 < first <= 10
    assert second == SUSPECT_SECONDS
    assert third == float("inf")


async def test_any_other_error_ends_the_search() -> None:
    """What says something of us and not of the host is not tried elsewhere."""

    async def try_one(host: Host, wish: TargetSession, seconds: float) -> str:
        await trio.lowlevel.checkpoint()
        raise RuntimeError(host.name)

    with pytest.raises(RuntimeError, match="a"):
        await choose(HOSTS, TargetSession.ANY, try_one)
