"""The homes of pools with a server for each worker, or more."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from poolproxy.ipc.messages import Gather, PoolKey
from poolproxy.pool.ledger.gathering import (
    COMING,
    FULL,
    LITTLE,
    MOST_CLIENTS,
    QUEUED_LOOKS,
)
from poolproxy.pool.ledger.state import NOBODY
from tests.pool.gatherer import IDLE, SOME, Gatherer, all_move, many, nothing
from tests.pool.test_ledger import POOL


@pytest.mark.parametrize(
    ("work", "clients", "homes"),
    [(0.1, 20, {1}), (0.5, 20, set()), (0.1, MOST_CLIENTS + 1, set())],
)
def test_a_larger_pool_whose_servers_move_gets_a_home_if_that_is_much_of_what_it_takes(
    work: float, clients: int, homes: set[int]
) -> None:
    """It has a server for each worker, but now one needs two of them, then another one. Not if it does a good
    deal more than that, or if thousands of clients would have to move.
    """
    driver = Gatherer(pool_size=4)
    driver.fill(1, 4)
    for _ in range(clients):
        driver.ledger.client_up(1, POOL, driver.now)
    told = driver.heat({**IDLE, 1: work})
    assert {gather.home for gather in told.values()} == homes


@pytest.mark.parametrize("idle", [0, 25, 50])
def test_idle_servers_of_other_pools_do_not_hide_what_a_larger_pool_does(idle: int) -> None:
    """The workers' time is divided by servers, so it seems to take less. All together have more to do than to
    move servers.
    """
    driver = Gatherer(pool_size=4)
    for worker in IDLE:
        driver.fill(worker, 1)
        driver.others(worker, idle)
    assert driver.heat(dict.fromkeys(IDLE, 0.6)) == {}


@pytest.mark.parametrize("known", [(), (1, 2, 3)])
def test_a_larger_pool_has_no_home_while_it_is_not_known_what_workers_do(
    known: tuple[int, ...],
) -> None:
    """Its moves may be next to nothing of that."""
    driver = Gatherer(pool_size=4)
    driver.fill(1, 4)
    assert driver.heat(dict.fromkeys(known, 0.04)) == {}
    assert driver.heat(dict.fromkeys(IDLE, 0.04)) != {}


def test_a_larger_pool_that_moves_comes_after_those_that_have_homes() -> None:
    """What these do does not count against it."""
    driver = Gatherer(pool_size=4)
    first, last = many(driver, 3, 4), PoolKey("app", "last")
    busy = {**dict.fromkeys(IDLE, 0.01), 1: 0.2}
    driver.look(busy)
    homes = [all_move(driver, first, busy) for _ in range(2)]
    assert [len(new) for new in homes] == [0, 3]
    driver.fill(1, 4, last)
    driver.want(2, pool=last)
    driver.look(busy)
    told = [all_move(driver, [last], busy) for _ in range(2)]
    assert [list(new) for new in told] == [[], [last]]


def queued(busy: Mapping[int, float] = SOME, clients: int = 20) -> tuple[Gatherer, list[int]]:
    """A larger pool whose clients wait at its limit, and the homes that are told in the next few looks."""
    driver = Gatherer(pool_size=4)
    driver.fill(1, 4)
    for _ in range(clients):
        driver.ledger.client_up(2, POOL, driver.now)
    driver.want(2)
    told = [driver.look(busy) for _ in range(QUEUED_LOOKS + 1)]
    return driver, [news[2].home if news else NOBODY for news in told]


def test_a_larger_pool_has_one_when_its_clients_have_queued_for_a_while() -> None:
    """They wait in one queue then."""
    driver, homes = queued()
    assert homes == [NOBODY] * QUEUED_LOOKS + [1]
    for _ in range(20):
        driver.ledger.client_gone(2, POOL, driver.now)
        driver.ledger.client_up(1, POOL, driver.now)
    driver.want(1)
    assert driver.look(SOME, after=COMING) == {}


def test_a_queue_that_comes_and_goes_is_no_reason() -> None:
    """Nor is one in front of a limit that is not reached: a server is being opened there."""
    driver = Gatherer(pool_size=4)
    driver.fill(1, 4)
    for _ in range(4):
        driver.want(2)
        for _ in range(QUEUED_LOOKS - 1):
            assert driver.look(SOME) == {}
        driver.ledger.want(2, nothing(POOL), driver.now)
        assert driver.look(SOME) == {}
    driver = Gatherer(pool_size=4)
    driver.fill(1, 3)
    driver.want(2)
    assert all(driver.look(SOME) == {} for _ in range(2 * QUEUED_LOOKS))


@pytest.mark.parametrize(
    ("busy", "clients"),
    [
        ({**IDLE, 1: LITTLE / 2}, 20),
        (dict.fromkeys(IDLE, 0.9), 20),
        (SOME, MOST_CLIENTS + 1),
    ],
)
def test_a_larger_pool_has_none_where_it_does_not_pay(busy: dict[int, float], clients: int) -> None:
    """It takes next to no time, or more than one worker has, or thousands of clients would have to move."""
    _, homes = queued(busy, clients)
    assert set(homes) == {NOBODY}


@pytest.mark.parametrize("client_moves", [True, False])
def test_a_larger_pool_of_encrypted_servers_has_one(*, client_moves: bool) -> None:
    """Its servers are closed and opened anew where they are wanted, so all its clients come to them."""
    driver = Gatherer(pool_size=4)
    driver.movable, driver.client_moves = False, client_moves
    driver.fill(1, 2)
    driver.fill(3, 2)
    for worker in (1, 2):
        driver.want(worker)
    told = driver.look(SOME) | driver.look(SOME) | driver.look(SOME)
    assert {gather.home for gather in told.values()} in ({1}, {3})
    assert all(gather.relay for gather in told.values())


def gathered(client_moves: bool) -> tuple[Gatherer, dict[int, Gather]]:
    """A larger pool that has got a home, and what the workers were told."""
    driver = Gatherer(pool_size=4)
    driver.client_moves = client_moves
    driver.fill(1, 4)
    driver.want(2)
    told = {}
    for _ in range(QUEUED_LOOKS + 1):
        told |= driver.look(SOME)
    return driver, told


@pytest.mark.parametrize("client_moves", [True, False])
def test_the_clients_of_a_larger_pool_are_relayed_where_they_cannot_go(client_moves: bool) -> None:
    """So that all wait in one queue there, too; where they can go, those that can't stay where they are."""
    _, told = gathered(client_moves)
    assert {gather.home for gather in told.values()} == {1}
    assert all(gather.relay is not client_moves for gather in told.values())


@pytest.mark.parametrize("client_moves", [True, False])
def test_whether_clients_are_relayed_follows_a_reload(client_moves: bool) -> None:
    """Every worker is told, once; the home stays."""
    driver, _ = gathered(client_moves)
    driver.client_moves = not client_moves
    told = driver.look(SOME)
    assert told == {w: Gather(POOL, 1, here=w == 1, relay=client_moves) for w in (1, 2)}
    assert driver.look(SOME) == {}


def test_the_home_of_a_larger_pool_is_given_up_sooner() -> None:
    """Its servers don't have to move, so it loses less than a worker does that has no time left."""
    driver, homes = queued()
    told = driver.look({**SOME, homes[-1]: FULL}, after=COMING)
    assert {gather.home for gather in told.values()} == {NOBODY}
    assert all(driver.look(SOME) == {} for _ in range(2 * QUEUED_LOOKS))
