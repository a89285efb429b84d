"""Which clients go when a worker is to give up some of its work. Pure: chance is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import attrs

from poolproxy.ipc.messages import Shed

C = TypeVar("C")

# One that does more than what is to go may still go if it does not tip the scales the other way: at
# twice as much both workers would only have changed places, and it would come back.
TOO_MUCH = 1.5


@attrs.frozen
class Burden(Generic[C]):
    """``done``: how much it has done of late, in any unit."""

    client: C
    done: int
    movable: bool


def choose(
    candidates: Iterable[Burden[C]], orders: Iterable[Shed], draw: Callable[[], float]
) -> dict[C, int]:
    """The clients that go, each with its target. ``draw``: numbers by chance, so that it can be anyone."""
    candidates = list(candidates)
    total = sum(one.done for one in candidates)
    left = sorted((c for c in candidates if c.movable), key=lambda _: draw())
    chosen: dict[C, int] = {}
    for order in sorted(orders, key=lambda order: -order.share):
        to_go = order.share * total
        most = order.most
        stay = []
        for one in left:
            if most and one.done <= TOO_MUCH * to_go:
                chosen[one.client] = order.target
                to_go -= one.done
                most -= 1
            else:
                stay.append(one)
        left = stay
    return chosen
