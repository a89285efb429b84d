"""Which worker takes a new client."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poolproxy.acceptor.balancer import BATCH, batches, spread


def test_the_least_laden_worker_comes_first() -> None:
    """A worker that has fewer clients gets new ones until it has as many."""
    assert spread("abcde", {1: 3, 2: 0}) == {1: ["d"], 2: ["a", "b", "c", "e"]}


@given(st.integers(0, 300), st.dictionaries(st.integers(), st.integers(0, 50), min_size=1))
def test_a_storm_levels_the_loads(count: int, loads: dict[int, int]) -> None:
    """Every item is given once; who got any has at most one more than who has least."""
    given_out = spread(range(count), loads)
    assert sorted(item for items in given_out.values() for item in items) == list(range(count))
    after = {worker: load + len(given_out.get(worker, [])) for worker, load in loads.items()}
    assert all(after[worker] <= min(after.values()) + 1 for worker in given_out)


@given(st.lists(st.integers()))
def test_batches_fit_a_message_and_lose_nothing(items: list[int]) -> None:
    """Batches keep the order and are never empty or too large."""
    found = list(batches(items))
    assert [item for batch in found for item in batch] == items
    assert all(0 < len(batch) <= BATCH for batch in found)
