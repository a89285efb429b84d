"""When the lane of the relayed connections may be held, for how long, and what that costs them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.relay.engine import BATCH, LINGER
from poolproxy.relay.lane import (
    LATE,
    LONG_WAIT,
    LONGEST_TICK,
    MANY,
    QUICK,
    RESOLUTION,
    TICK,
    lateness,
    may_be_late,
    mean_wait,
    tick,
)


@pytest.mark.parametrize(
    ("events", "since", "wait", "bulk", "late"),
    [
        (2, 1.0, LONG_WAIT, False, True),
        (BATCH - 1, TICK, 1.0, False, True),
        (1, TICK, LONG_WAIT, False, True),
        (1, 2 * TICK, LONG_WAIT, False, False),
        (1, 2 * TICK, 4 * LONG_WAIT, False, True),
        (0, TICK, LONG_WAIT, False, True),
        (0, 2 * TICK, LONG_WAIT, False, False),
        (BATCH, TICK, LONG_WAIT, False, False),
        (2, TICK, LONG_WAIT - 0.001, False, False),
        (2, TICK, 0.0, False, False),
        (2, TICK, LONG_WAIT, True, False),
    ],
)
def test_what_may_be_late(events: int, since: float, wait: float, bulk: bool, late: bool) -> None:
    """There is something to gather, all who were answered have waited long, and nobody sends much."""
    assert may_be_late(events, since, wait, bulk=bulk) is late


@pytest.mark.parametrize("wait", [LONG_WAIT, 0.0063, 0.009, 2 * LONG_WAIT, 60.0])
def test_a_tick_is_a_small_part_of_the_wait(wait: float) -> None:
    """Up to a half; what comes at once seems to take one, which is quick; a wait of two is not."""
    assert TICK <= tick(wait) <= min(0.5 * wait, LONGEST_TICK)
    assert mean_wait(wait, 1.2 * tick(wait)) == mean_wait(wait, 0.0)
    assert mean_wait(wait, 2 * tick(wait)) > mean_wait(wait, 0.0)


@pytest.mark.parametrize("mean", [LONG_WAIT, 1.0])
def test_being_held_is_no_reason_to_be_held(mean: float) -> None:
    """Not even where each look comes later by what epoll rounds up."""
    for _ in range(2 * MANY):
        mean = mean_wait(mean, tick(mean) + LINGER)
    assert mean < LONG_WAIT


def test_who_is_relayed_is_late_where_others_wait_long() -> None:
    """Nobody is where the lane is armed, as waits are short or relayed clients come seldom."""
    wait = LONG_WAIT + LATE * (TICK + RESOLUTION / 2)
    assert lateness(LONG_WAIT, 0.0) == 0.0
    assert lateness(wait, 1.9 * TICK) == pytest.approx(LATE * (TICK + RESOLUTION / 2))
    assert lateness(wait, 3 * TICK) == 0.0
    assert lateness(60.0, 2 * TICK) == LATE * (LONGEST_TICK + RESOLUTION / 2)


@given(st.floats(0.0, 60.0))
def test_a_relayed_client_waits_long_enough_for_a_lane_that_is_armed_to_be_held(
    wait: float,
) -> None:
    """Else it would not be late, but served before others for ever."""
    assert wait - lateness(wait, 0.0) >= min(wait, LONG_WAIT)


@given(st.floats(0.0105, 0.021))
def test_home_and_worker_mean_the_same_tick(wait: float) -> None:
    """The one knows how long its first client waits, the other what it sees of that."""
    late = lateness(wait, 0.0)
    ticked = late / LATE - RESOLUTION / 2
    seen = wait - (LATE - 0.5) * ticked
    assert ticked == pytest.approx(tick(seen), abs=1.01 * RESOLUTION)


@pytest.mark.parametrize("waited", [LONG_WAIT * 1.5, LONG_WAIT * 2, 60.0])
def test_it_takes_many_long_waits_until_their_mean_is_long(waited: float) -> None:
    """However long they are; a few quick ones undo them."""
    mean, count = 0.0, 0
    while mean < LONG_WAIT:
        mean, count = mean_wait(mean, waited), count + 1
    assert MANY / 3 < count < 2 * MANY
    mean = 2 * LONG_WAIT
    for _ in range(12):
        mean = mean_wait(mean, QUICK * tick(mean) - 0.0001)
    assert mean < LONG_WAIT


def test_the_mean_is_one() -> None:
    """Answers of all sorts that are not quick count alike; below the bound it never gets there."""
    mean = 0.0
    for _ in range(10 * MANY):
        mean = mean_wait(mean_wait(mean, LONG_WAIT * 0.7), LONG_WAIT * 1.1)
    assert mean == pytest.approx(LONG_WAIT * 0.9, rel=0.02)
