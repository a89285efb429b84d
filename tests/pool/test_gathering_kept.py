"""Whose clients stay where they are although their pool is a small one that has a home."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.ipc.messages import Gather, Permit, PoolKey
from poolproxy.pool.ledger.gathering import COMING
from poolproxy.pool.ledger.home import LOOKS, QUEUED_LOOKS
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
from tests.pool.gatherer import IDLE, LOOK, SOME, Gatherer, nothing
from tests.pool.test_ledger import POOL

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


def saturated(
    spread: Mapping[int, int] = SPREAD, *, movable: bool = True, client_moves: bool = False
) -> tuple[Gatherer, dict[int, Gather]]:
    """A pool of 3 whose clients queue at all workers, and what these are told. Its home is worker 1."""
    driver = Gatherer(pool_size=3)
    driver.movable, driver.client_moves = movable, client_moves
    driver.fill(1, 3)
    driver.enter(spread)
    for worker in spread:
        driver.want(worker, spread[worker])
    told: dict[int, Gather] = {}
    for _ in range(LOOKS + 2):
        _shuttle(driver)
        told |= driver.look()
    return driver, told


def _shuttle(driver: Gatherer) -> None:
    """As clients wait everywhere servers go round, if they can."""
    if driver.movable:
        driver.ledger._books.moved[POOL] += 10


def _orders(home: Mapping[int, int]) -> dict[int, Gather]:
    return {worker: Gather(POOL, at, here=at == worker) for worker, at in home.items()}


@pytest.mark.parametrize("movable", [True, False])
def test_a_worker_with_a_whole_server_keeps_its_clients(movable: bool) -> None:
    """Those of the others come to the home, from the beginning; and that is all."""
    driver, told = saturated(movable=movable)
    assert told == _orders({1: 1, 3: 1, 4: 1})
    driver.come(1, {3: 30, 4: 10})
    driver.now += SETTLED
    assert all(driver.look(SOME) == {} for _ in range(MANY))


def test_clients_that_can_move_all_come() -> None:
    """To move costs nothing after it is done."""
    _, told = saturated(client_moves=True)
    assert told == _orders(dict.fromkeys(SPREAD, 1))


def test_the_home_is_one_that_leaves_others_their_clients() -> None:
    """If there is any; else it is one with most room, however little the pool takes."""
    for clients, homes in (({1: 8, 2: 4, 3: 2, 4: 2}, {1}), ({1: 8, 2: 8}, {2})):
        driver = Gatherer(pool_size=3)
        driver.movable = driver.client_moves = False
        driver.fill(1, 3)
        driver.enter(clients)
        for worker in clients:
            driver.want(worker, clients[worker])
        driver.others(1, 20)
        told = {}
        for _ in range(LOOKS + 1):
            told |= driver.look({1: 0.2, 2: 0.0, 3: 0.0, 4: 0.0})
        assert {order.home for order in told.values()} <= homes


def test_the_home_changes_to_one_that_leaves_others_their_clients() -> None:
    """At first it was not known what that worker has to do. The former home keeps its own clients as soon as
    those of others have left.
    """
    driver = Gatherer(pool_size=3)
    driver.movable = driver.client_moves = False
    driver.fill(2, 3)
    driver.enter({1: 8, 2: 4, 3: 2, 4: 2})
    for worker in SPREAD:
        driver.want(worker)
    told: dict[int, Gather] = {}
    while not told:
        told = driver.look({2: 0.1})
    assert told == _orders(dict.fromkeys(SPREAD, 2))
    driver.come(2, {1: 8, 3: 2, 4: 2})
    told = {}
    while not told:
        told = driver.look(SOME)
    assert told == _orders(dict.fromkeys(SPREAD, 1))
    assert all(driver.look(SOME) == {} for _ in range(3 * STEADY_LOOKS))
    for _ in range(16):
        driver.ledger.client_gone(2, POOL, driver.now)
        driver.ledger.client_up(1, POOL, driver.now)
    driver.relayed = Counter({1: -8, 2: 4, 3: 2, 4: 2})
    assert _steady(driver) == {2: Gather(POOL, -1, here=False)}


def test_all_come_if_servers_move_all_the_same() -> None:
    """As its clients rest between queries. For a while it is not tried again."""
    driver, _ = saturated()
    assert driver.look(after=SETTLED) == {}
    told: dict[int, Gather] = {}
    for _ in range(TOO_MUCH // AMISS):
        assert told == {}
        _shuttle(driver)
        told = driver.look()
    assert told == _orders({2: 1})
    assert all(driver.look() == {} for _ in range(MANY))
    driver.now += REST
    assert _steady(driver) == {2: Gather(POOL, -1, here=False)}


def _steady(driver: Gatherer) -> dict[int, Gather]:
    """What is told while it looks the same for as long as it takes."""
    told: dict[int, Gather] = {}
    for _ in range(STEADY_LOOKS):
        assert told == {}
        told = driver.look(SOME)
    return told


def test_all_come_if_servers_are_idle_while_others_wait() -> None:
    """Clients of the home rest, say, and encrypted servers can't move."""
    driver, _ = saturated(movable=False)
    driver.now += SETTLED
    assert driver.look() == {}
    driver.ledger.want(1, nothing(POOL), driver.now)
    told: dict[int, Gather] = {}
    for _ in range(TOO_MUCH // AMISS):
        assert told == {}
        told = driver.look()
    assert told == _orders({2: 1})


def test_all_come_if_encrypted_servers_are_opened_again_and_again() -> None:
    """One that was too old is opened anew, which is no reason; to close one here and open one there is."""
    driver, _ = saturated(movable=False)
    driver.now += SETTLED
    _reopen(driver)
    assert all(driver.look() == {} for _ in range(MANY))
    told: dict[int, Gather] = {}
    for number in range(MANY):
        if number % 4 == 0:
            _reopen(driver)
        told |= driver.look()
    assert told == _orders({2: 1})


def _reopen(driver: Gatherer) -> None:
    for worker, message in driver.closed(driver.permit()):
        if isinstance(message, Permit):
            driver.up(worker, message.permit)


def test_clients_of_a_worker_that_leaves_come_too() -> None:
    """It keeps no servers."""
    driver, _ = saturated()
    driver.ledger.worker_retired(2)
    assert driver.look(SOME)[2] == Gather(POOL, 1, here=False)


def test_nothing_changes_when_a_worker_is_replaced() -> None:
    """For a moment the pool has as many servers as there are workers."""
    driver, _ = saturated(spread={1: 120, 2: 40, 3: 40})
    for _ in range(3):
        driver.ledger.worker_gone(4, driver.now)
        assert all(driver.look(SOME) == {} for _ in range(QUEUED_LOOKS - 1))
        driver.ledger.worker_up(4, driver.now)
        assert driver.look(SOME) == {}


def test_who_stays_does_so_when_the_pool_becomes_a_larger_one() -> None:
    """A reload has raised its limit: who has enough is not relayed in between."""
    driver, _ = saturated()
    driver.come(1, {3: 30, 4: 10})
    driver.limits = attrs.evolve(driver.limits, pool_size=8)
    driver.ledger.configure(lambda key: driver.limits, (), driver.now)
    while driver.ledger._books.pools[POOL].opening:
        for lease in list(driver.ledger._books.leases.values()):
            driver.up(lease.worker, lease.permit)
    told: dict[int, Gather] = {}
    for _ in range(2 * QUEUED_LOOKS):
        told |= driver.look(SOME)
    assert 2 not in told


def test_the_former_home_gets_rid_of_the_clients_that_it_serves_for_others() -> None:
    """So it keeps none of its own at first, until they have left."""
    driver, _ = saturated(movable=False)
    driver.come(1, {3: 30, 4: 10})
    for number in range(20):
        driver.fill(1, 1, PoolKey("app", f"user {number}"))
    busy = {1: 0.99, 2: 0.0, 3: 0.0, 4: 0.0}
    told: dict[int, Gather] = {}
    while not told:
        told = driver.look(busy)
    home = told[1].home
    assert home != 1
    assert told == _orders(dict.fromkeys(SPREAD, home))
    assert all(driver.look(busy) == {} for _ in range(int(COMING / LOOK) - 1))


def test_clients_come_when_they_may_move() -> None:
    """A reload; and back."""
    driver, _ = saturated()
    driver.client_moves = True
    assert driver.look(SOME) == _orders({2: 1})
    driver.client_moves = False
    assert _steady(driver) == {2: Gather(POOL, -1, here=False)}
