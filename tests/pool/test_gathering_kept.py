"""Whose clients stay where they are although their pool is a small one that has a home."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs
import pytest

from poolproxy.ipc.messages import Gather, Permit, PoolKey
from poolproxy.pool.ledger.gathering import COMING
from poolproxy.pool.ledger.home import LOOKS, QUEUED_LOOKS
from poolproxy.pool.ledger.keeping import (
    AMISS,
    OPENED,
    REST,
    SETTLED,
    STEADY_LOOKS,
    TOO_MUCH,
)
from tests.pool.gatherer import IDLE, LOOK, SOME, Gatherer, nothing
from tests.pool.test_keeping import MANY, SPREAD
from tests.pool.test_ledger import POOL


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


def test_the_home_stays_while_it_has_keepers() -> None:
    """Others could be the home of such as well, now this one, now that one, as clients reconnect."""
    driver, _ = saturated(spread={1: 60, 2: 20, 3: 15, 4: 5}, movable=False)
    for _ in range(10):
        for away in (1, -1):
            driver.relayed = Counter({1: away, 2: -away})
            assert all(driver.look(dict.fromkeys(IDLE, 0.05)) == {} for _ in range(40))


def test_the_home_changes_to_one_that_leaves_others_their_clients() -> None:
    """At first it was not known what that worker has to do. The former home keeps its own clients as soon as
    those of others have left.
    """
    driver = _with_home_2()
    driver.come(2, {1: 8, 3: 2, 4: 2})
    told: dict[int, Gather] = {}
    while not told:
        told = driver.look(SOME)
    assert told == _orders(dict.fromkeys(SPREAD, 1))
    assert all(driver.look(SOME) == {} for _ in range(3 * STEADY_LOOKS))
    for _ in range(16):
        driver.ledger.client_gone(2, POOL, driver.now)
        driver.ledger.client_up(1, POOL, driver.now)
    driver.relayed = Counter({1: -8, 2: 4, 3: 2, 4: 2})
    assert _steady(driver) == {2: Gather(POOL, -1, here=False)}


def _with_home_2() -> Gatherer:
    """A home that can leave nobody their clients, as it was the only worker of which anything was known."""
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
    return driver


def test_it_does_not_change_to_one_that_is_much_busier() -> None:
    """It would change back, for more room."""
    driver = _with_home_2()
    for worker in (1, 3, 4):
        driver.others(worker, 20)
    assert all(driver.look({1: 0.4, 2: 0.1, 3: 0.4, 4: 0.4}) == {} for _ in range(40))


def test_who_leaves_keeps_nobody_of_a_pool_that_has_become_larger() -> None:
    """Also while nobody waits, so that nothing is thought over."""
    driver, _ = saturated(movable=False)
    for worker in SPREAD:
        driver.ledger.want(worker, nothing(POOL), driver.now)
    driver.limits = attrs.evolve(driver.limits, pool_size=8)
    driver.ledger.configure(lambda key: driver.limits, (), driver.now)
    driver.fill(1, 2)
    assert all(driver.look(SOME) == {} for _ in range(2 * QUEUED_LOOKS))
    driver.ledger.worker_retired(2)
    assert driver.look(SOME) == {2: Gather(POOL, 1, here=False)}


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


def test_servers_that_are_all_opened_anew_are_none() -> None:
    """PostgreSQL was restarted, or RECONNECT given: that counts once for all."""
    driver, _ = saturated(movable=False)
    assert driver.look(after=SETTLED) == {}
    for _ in range(3):
        _reopen(driver)
    driver.look()
    assert driver.ledger._gathering._homes[POOL].kept.unrest == OPENED


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
