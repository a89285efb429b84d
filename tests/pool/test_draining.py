"""The pace at which clients are sent away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poolproxy.pool.draining import PER_SECOND, Draining

MANY = 10_000


def test_many_go_evenly_over_the_time() -> None:
    """None at once, half of them at half time, all at the end."""
    drain = Draining(MANY, 100.0, 120.0)
    assert drain.due(MANY, 100.0) == 0
    assert drain.due(MANY, 105.0) == MANY // 4
    assert drain.due(MANY - 1000, 105.0) == MANY // 4 - 1000
    assert drain.due(MANY, 120.0) == MANY


def test_few_go_faster_than_the_time_allows() -> None:
    """A handful need not take half a minute."""
    drain = Draining(5, 100.0, 120.0)
    assert drain.due(5, 100.0 + 5 / PER_SECOND) == 5


def test_those_that_came_later_are_due_first_of_all() -> None:
    """There were two; now there are ten: eight are too many at once."""
    assert Draining(2, 100.0, 120.0).due(10, 100.0) == 8


def test_nobody_was_there() -> None:
    """Who logs in during a drain of nobody goes at once."""
    assert Draining(0, 100.0, 120.0).due(3, 100.0) == 3


@given(
    clients=st.integers(0, MANY),
    seconds=st.floats(0, 1000),
    remaining=st.integers(0, 2 * MANY),
    after=st.floats(0, 2000),
)
def test_the_pace_has_bounds(clients: int, seconds: float, remaining: int, after: float) -> None:
    """Never fewer than none, never more than there are, and all when the time is over."""
    drain = Draining(clients, 5.0, 5.0 + seconds)
    due = drain.due(remaining, 5.0 + after)
    assert 0 <= due <= remaining
    if after > seconds:
        assert due == remaining
