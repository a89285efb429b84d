"""Whose clients stay where they are although their pool is a small one that has a home."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.ipc.messages import Gather, Permit
from poolproxy.pool.ledger.coming import FAIR, are_fair, keepers
from poolproxy.pool.ledger.gathering import SETTLED, UNREST
from poolproxy.pool.ledger.home import LOOKS, REST
from tests.pool.gatherer import IDLE, SOME, Gatherer
from tests.pool.test_ledger import POOL

SPREAD = {1: 120, 2: 40, 3: 30, 4: 10}


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
    assert keepers(connections, servers, 1, IDLE.keys()) == kept


def test_any_worker_may_be_the_home() -> None:
    """Then the one with most clients may keep them; not one that leaves."""
    assert keepers(SPREAD, 3, 4, IDLE.keys()) == {1}
    assert keepers(SPREAD, 3, 4, {2, 3, 4}) == {2}
    assert keepers(SPREAD, 3, 1, {1, 3, 4}) == set()


@given(
    connections=st.dictionaries(st.integers(1, 9), st.integers(0, 50)),
    servers=st.integers(1, 8),
    home=st.integers(1, 9),
)
def test_nobody_waits_much_longer_than_in_one_queue(
    connections: Mapping[int, int], servers: int, home: int
) -> None:
    """Nor are servers kept for hardly anybody; and what is fair to begin is fair to go on."""
    kept = keepers(connections, servers, home, connections.keys())
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
        assert are_fair(connections, servers, kept)


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
    assert told == _orders({1: 1, 2: 2, 3: 1, 4: 1})
    driver.come(1, {3: 30, 4: 10})
    driver.now += SETTLED
    assert all(driver.look(SOME) == {} for _ in range(3 * UNREST))


def test_clients_that_can_move_all_come() -> None:
    """To move costs nothing after it is done."""
    _, told = saturated(client_moves=True)
    assert told == _orders(dict.fromkeys(SPREAD, 1))


def test_all_come_if_servers_move_all_the_same() -> None:
    """As its clients rest between queries. For a while it is not tried again."""
    driver, _ = saturated()
    assert driver.look(after=SETTLED) == {}
    told: dict[int, Gather] = {}
    for _ in range(UNREST):
        assert told == {}
        _shuttle(driver)
        told = driver.look()
    assert told == _orders({2: 1})
    assert all(driver.look() == {} for _ in range(3 * UNREST))
    driver.now += REST
    assert driver.look() == _orders({2: 2})


def test_all_come_if_encrypted_servers_are_opened_again_and_again() -> None:
    """One that was too old is opened anew, which is no reason; to close one here and open one there is."""
    driver, _ = saturated(movable=False)
    driver.now += SETTLED
    _reopen(driver)
    assert all(driver.look() == {} for _ in range(3 * UNREST))
    told: dict[int, Gather] = {}
    for number in range(2 * UNREST):
        if number % 4 == 0:
            _reopen(driver)
        told |= driver.look()
    assert told == _orders({2: 1})


def _reopen(driver: Gatherer) -> None:
    for worker, message in driver.closed(driver.permit()):
        if isinstance(message, Permit):
            driver.up(worker, message.permit)


def test_who_stays_follows_the_clients() -> None:
    """When those that stay are too many for their server they come; when others have enough, these stay."""
    driver, _ = saturated()
    driver.come(1, {3: 30, 4: 10})
    driver.enter({2: 80})
    told: dict[int, Gather] = {}
    for _ in range(UNREST + 1):
        told |= driver.look(SOME)
    assert told == _orders({2: 1})
    driver.enter({1: 180})
    driver.want(1, 300)
    assert driver.look(SOME) == _orders({2: 2})


def test_while_nobody_waits_all_stays_as_it_is() -> None:
    """Also if idle servers end."""
    driver, _ = saturated()
    for worker in SPREAD:
        driver.meet(worker)
    driver.ledger.server_closed(3, driver.now)
    assert all(driver.look(SOME) == {} for _ in range(2 * UNREST))


def test_clients_of_a_worker_that_leaves_come_too() -> None:
    """It keeps no servers."""
    driver, _ = saturated()
    driver.ledger.worker_retired(2)
    assert driver.look(SOME)[2] == Gather(POOL, 1, here=False)


def test_clients_come_when_they_may_move() -> None:
    """A reload; and back."""
    driver, _ = saturated()
    driver.client_moves = True
    assert driver.look(SOME) == _orders({2: 1})
    driver.client_moves = False
    assert driver.look(SOME) == _orders({2: 2})
