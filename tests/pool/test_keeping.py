"""Whose clients may stay, and when that has an end: by itself."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.pool.ledger.keeping import (
    AMISS,
    FAIR,
    OPENED,
    REST,
    SETTLED,
    SHORT_REST,
    STEADY_LOOKS,
    TOO_MUCH,
    Kept,
    Ring,
)
from tests.pool.gatherer import IDLE

SPREAD = {1: 120, 2: 40, 3: 30, 4: 10}
MANY = 2 * TOO_MUCH  # looks


@pytest.mark.parametrize(
    ("connections", "servers", "kept"),
    [
        (SPREAD, 3, {2}),
        (SPREAD, 2, set()),
        (SPREAD, 1, set()),
        ({1: 50, 2: 50, 3: 50, 4: 50}, 3, {2}),
        ({1: 50, 2: 50, 3: 50, 4: 50}, 2, set()),
        ({1: 50, 2: 50, 3: 50}, 2, set()),
        ({1: 198, 2: 2}, 3, set()),
        ({1: 3, 2: 1, 3: 1}, 3, set()),
        ({1: 2, 2: 8, 3: 4, 4: 2}, 3, {3}),
        ({1: 10, 2: 0}, 3, set()),
        ({}, 3, set()),
    ],
)
def test_who_has_whole_servers_keeps_its_clients(
    connections: Mapping[int, int], servers: int, kept: set[int]
) -> None:
    """Of 3 servers 1.8, 0.6, 0.45 and 0.15 are the parts of the first spread: 2 for 2.4 and 1 for 0.6."""
    assert Ring(connections, servers, 1, IDLE.keys()).keepers() == kept


def test_any_worker_may_be_the_home() -> None:
    """Then the one with most clients may keep them; not one that leaves."""
    assert Ring(SPREAD, 3, 4, IDLE.keys()).keepers() == {1}
    assert Ring(SPREAD, 3, 4, {2, 3, 4}).keepers() == {2}
    assert Ring(SPREAD, 3, 1, {1, 3, 4}).keepers() == set()


@given(
    connections=st.dictionaries(st.integers(1, 9), st.integers(0, 50)),
    servers=st.integers(1, 8),
    home=st.integers(1, 9),
)
def test_nobody_waits_much_longer_than_in_one_queue(
    connections: Mapping[int, int], servers: int, home: int
) -> None:
    """Nor are servers kept for hardly anybody; and what is fair to begin is fair to go on."""
    ring = Ring(connections, servers, home, connections.keys())
    kept = ring.keepers()
    assert home not in kept
    assert len(kept) < servers
    each = servers / max(1, sum(connections.values()))
    parts = {worker: each * connections[worker] for worker in kept}
    whole = {worker: max(1, round(part)) for worker, part in parts.items()}
    for worker in kept:
        assert 0.5 <= parts[worker] / whole[worker] <= FAIR + 1e-6
    if kept:
        rest = servers - sum(whole.values())
        assert rest >= 1
        assert servers - sum(parts.values()) <= FAIR * rest + 1e-6
        assert ring.is_fair(kept)
    else:
        assert not any(ring.is_fair({worker}, FAIR, 0.5) for worker in connections.keys() - {home})


def test_a_worker_that_serves_others_does_not_begin_to_keep_its_own() -> None:
    """It was the home, and those would not leave; once it is a keeper that does not matter."""
    ring = attrs.evolve(RING, strange={2})
    assert ring.keepers() == set()
    one = kept()
    one.look(ring, SETTLED, queued=True, new=False, amiss=0)
    assert one.keepers == {2}


RING = Ring(SPREAD, 3, 1, IDLE.keys())
CROWDED = attrs.evolve(RING, connections={1: 120, 2: 120, 3: 30, 4: 10})


def kept(ring: Ring = RING) -> Kept:
    """Those of a home that is new at 0.0."""
    found = Kept()
    found.look(ring, 0.0, queued=True, new=True, amiss=0)
    return found


def test_without_a_new_home_it_must_look_steady() -> None:
    """Else keepers would come and go with each log-in; while nobody waits nothing is known."""
    one = Kept()
    for ring in (RING, attrs.evolve(RING, servers=2)):
        for _ in range(STEADY_LOOKS - 1):
            one.look(ring, 0.0, queued=True, new=False, amiss=0)
            one.look(ring, 0.0, queued=False, new=False, amiss=0)
            assert not one.keepers
    for _ in range(STEADY_LOOKS):
        assert not one.keepers
        one.look(RING, 0.0, queued=True, new=False, amiss=0)
    assert one.keepers == {2}


def test_unrest_grows_if_something_is_amiss_in_a_third_of_the_looks() -> None:
    """It does not have to be so all the time."""
    for every, ends in ((2, True), (3, False), (4, False)):
        one = kept()
        for number in range(200):
            amiss = AMISS * (number % every == 0)
            one.look(RING, SETTLED + number, queued=True, new=False, amiss=amiss)
        assert (not one.keepers) is ends, every


def test_servers_that_are_opened_again_and_again_are_unrest() -> None:
    """One each second is too much, in the end, one in two seconds is not; five looks are a second."""
    for every, ends in ((5, True), (10, False)):
        one = kept()
        for number in range(200):
            amiss = OPENED * (number % every == 0)
            one.look(RING, SETTLED + number, queued=False, new=False, amiss=amiss)
        assert (not one.keepers) is ends


def test_what_is_amiss_until_servers_have_settled_does_not_count() -> None:
    """They have to come to where they are to be."""
    one = kept()
    for number in range(MANY):
        one.look(RING, number * SETTLED / (MANY + 1), queued=True, new=False, amiss=OPENED)
    assert one.keepers


def test_clients_that_are_too_many_for_their_server_come() -> None:
    """After two seconds; it is tried again sooner than where servers found no rest."""
    for ring, amiss, rest in ((CROWDED, 0, SHORT_REST), (RING, AMISS, REST)):
        one = kept()
        for _ in range(TOO_MUCH // AMISS):
            assert one.keepers
            one.look(ring, SETTLED, queued=True, new=False, amiss=amiss)
        assert not one.keepers
        for now, known in ((rest, False), (SETTLED + rest, True)):
            for _ in range(STEADY_LOOKS):
                one.look(RING, now, queued=True, new=False, amiss=0)
            assert bool(one.keepers) is known


def test_while_nobody_waits_the_number_of_connections_says_nothing() -> None:
    """Servers end as they are idle, and clients may log in that never ask."""
    one = kept()
    for number in range(MANY):
        one.look(CROWDED, SETTLED + number, queued=False, new=False, amiss=0)
    assert one.keepers
