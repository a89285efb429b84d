"""Whose clients come to the home of a larger pool."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.pool.ledger.coming import short_ones

SPREAD = {1: 120, 2: 40, 3: 30, 4: 10}


@pytest.mark.parametrize(
    ("servers", "short"), [(4, {2, 3, 4}), (8, {3, 4}), (12, {4}), (20, {4}), (40, set())]
)
def test_clients_come_of_workers_that_have_hardly_a_server_for_them(
    servers: int, short: set[int]
) -> None:
    """Of 8 servers 4.8, 1.6, 1.2 and 0.4 are the workers' parts."""
    assert short_ones(SPREAD, servers, ()) == short


@pytest.mark.parametrize(("servers", "short"), [(8, {3, 4}), (12, {3, 4}), (16, {4}), (40, set())])
def test_they_go_on_coming_until_it_is_a_good_deal_more(servers: int, short: set[int]) -> None:
    """Each log-in changes the parts, and those that come are not to be sent back at the next one."""
    assert short_ones(SPREAD, servers, {3, 4}) == short


@given(
    connections=st.dictionaries(st.integers(1, 9), st.integers(0, 50)), servers=st.integers(1, 99)
)
def test_there_is_one_whose_clients_stay(connections: Mapping[int, int], servers: int) -> None:
    """Where there are two servers for each worker; and those without clients have none to send."""
    short = short_ones(connections, servers, ())
    assert all(connections[worker] for worker in short)
    if servers >= 2 * len(connections) and any(connections.values()):
        assert short < connections.keys()
