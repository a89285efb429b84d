"""Trying the hosts of a database in turn, until one is what is wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from poolproxy.ipc.messages import Candidate
from poolproxy.settings.enums import TargetSession
from poolproxy.settings.hosts import Host

T = TypeVar("T")

# What a host that has failed before gets as long as there are others to try, in seconds.
SUSPECT_SECONDS = 2.0


class Elsewhere(Exception):
    """This host won't do, another one may. ``reachable``: it is there, and only not what is wanted."""

    def __init__(self, reason: str, *, reachable: bool) -> None:
        super().__init__(reason)
        self.reachable = reachable


class NoHost(Exception):
    """None of the hosts will do; the text says why for each."""


async def choose(
    candidates: Sequence[Candidate],
    wanted: TargetSession,
    try_one: Callable[[Host, TargetSession, float], Awaitable[T]],
) -> T:
    """What ``try_one`` returns for the first host that will do; raises NoHost.

    It is called with a host, with what that must be, and with the seconds that it may take, so that the
    others have their part of the time; it raises Elsewhere, or any other exception to end the search.
    """
    left = list(candidates)
    reasons: dict[Host, str] = {}
    for wish in _wishes(wanted):
        reachable = []
        for place, candidate in enumerate(left):
            host = Host(candidate.host, candidate.port)
            seconds = _share(len(left) - place, suspect=candidate.suspect)
            try:
                return await try_one(host, wish, seconds)
            except Elsewhere as fault:
                reasons[host] = str(fault)
                if fault.reachable:
                    reachable.append(candidate)
        left = reachable
    told = "; ".join(f"{host}: {reason}" for host, reason in reasons.items())
    raise NoHost(told if wanted is TargetSession.ANY else f"no {wanted.value} host: {told}")


def _wishes(wanted: TargetSession) -> tuple[TargetSession, ...]:
    if wanted is TargetSession.PREFER_STANDBY:
        return wanted, TargetSession.ANY
    return (wanted,)


def _share(left: int, *, suspect: bool) -> float:
    """Seconds for one of ``left`` hosts."""
    if left == 1:
        return float("inf")
    remaining = trio.current_effective_deadline() - trio.current_time()
    return min(remaining / left, SUSPECT_SECONDS if suspect else float("inf"))
