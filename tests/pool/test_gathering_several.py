"""The homes of several pools, and when they change."""

from __future__ import annotations

from collections import Counter

import pytest

from poolproxy.ipc.messages import PoolKey
from poolproxy.pool.ledger.gathering import (
    ARRIVED,
    HOLD,
    MOST_NEW,
)
from poolproxy.pool.ledger.home import QUEUED_LOOKS
from tests.pool.gatherer import IDLE, LOOK, Gatherer, all_look, all_move, many, nothing


def test_many_pools_are_spread_evenly_over_the_workers() -> None:
    """However little each takes, and not all at once; the work that a home will bring is reckoned in before
    it is measured.
    """
    driver = Gatherer()
    pools = many(driver, MOST_NEW + 8)
    busy = {**IDLE, 1: 0.8}
    driver.look(busy)
    told = [all_move(driver, pools, busy) for _ in range(3)]
    assert [len(new) for new in told] == [0, MOST_NEW, 8]
    homes = Counter(home for new in told for home in new.values())
    assert homes == dict.fromkeys(IDLE, len(pools) // 4)


@pytest.mark.parametrize("size", [1, 4])
def test_equal_pools_are_spread_evenly_wherever_their_servers_are_just_then(size: int) -> None:
    """Where these are says hardly anything, nor how busy those workers have been of late."""
    for busy in ({**IDLE, 1: 0.3, 2: 0.1}, {**IDLE, 1: 0.1, 2: 0.3}, {**IDLE, 1: 0.02, 2: 0.38}):
        driver = Gatherer(pool_size=size)
        pools = many(driver, 8, size)
        driver.look(busy)
        for pool in pools[:3]:
            driver.bring(2, pool)
        told = [all_move(driver, pools, busy) for _ in range(2)]
        assert sorted(Counter(told[-1].values()).values()) == [2, 2, 2, 2]


def uneven(driver: Gatherer) -> tuple[list[PoolKey], int]:
    """Four pools of which two come to be on one worker, and that worker."""
    pools = many(driver, 4)
    busy = {**IDLE, 1: 0.4, 4: 0.2}  # by other pools' work, that then ends
    driver.others(4, 5)
    driver.look(busy)
    homes = [all_move(driver, pools, busy) for _ in range(2)][-1]
    [(worker, count), *_] = Counter(homes.values()).most_common(1)
    assert count == 2
    for pool, home in homes.items():
        driver.bring(home, pool)
        driver.want(home, pool=pool)
    return pools, worker


def test_what_was_chosen_badly_is_mended_as_soon_as_it_is_measured() -> None:
    """One pool, and one only, of the worker that has two goes to the one that has none."""
    driver = Gatherer()
    pools, worker = uneven(driver)
    busy = {**dict.fromkeys(IDLE, 0.1), worker: 0.2, 4: 0.0}
    assert all_look(driver, busy, ARRIVED / 2) == {}
    told = all_look(driver, busy, ARRIVED / 2)
    assert list(told.values()) == [4]
    assert set(told) <= set(pools)
    for pool in told:
        driver.ledger.want(worker, nothing(pool), driver.now)
        driver.bring(4, pool)
        driver.want(4, pool=pool)
    assert all_look(driver, dict.fromkeys(IDLE, 0.1), 2 * ARRIVED) == {}


def test_a_home_is_thought_over_less_and_less_often() -> None:
    """However much the measured shares change: half a minute is between two changes in the end."""
    driver = Gatherer()
    uneven(driver)
    began, changes = driver.now, []
    while driver.now < began + 4 * HOLD:
        shares = [0.5 * ((driver.now * 7 + n) % 4 > 2) for n in range(4)]
        if all_look(driver, dict(zip(IDLE, shares, strict=True)), LOOK):
            changes.append(driver.now - began)
    late = [at for at in changes if at > 2 * HOLD]
    assert late
    assert len(late) <= 2 * 4
    assert len(changes) <= 4 * (6 + 4)


def test_the_home_of_relayed_clients_changes_for_much_room_only() -> None:
    """They cost where they are as well, so less is gained."""
    for client_moves, changes in ((True, 1), (False, 0)):
        driver = Gatherer()
        driver.client_moves = client_moves
        _, worker = uneven(driver)
        busy = {**dict.fromkeys(IDLE, 0.1), worker: 0.2, 4: 0.0}
        assert len(all_look(driver, busy, ARRIVED)) == changes


def test_a_worker_with_hardly_any_work_or_no_more_than_others_keeps_its_pools() -> None:
    """There is nothing to be gained."""
    for least, changes in ((0.0, True), (0.15, False)):
        driver = Gatherer()
        _, worker = uneven(driver)
        driver.others(worker, 6)
        told = all_look(driver, {**dict.fromkeys(IDLE, 0.8), 4: 4 * least}, ARRIVED)
        assert bool(told) is changes
    for work, changes in ((0.02, False), (0.08, True)):
        driver = Gatherer()
        uneven(driver)
        assert bool(all_look(driver, {1: work, 2: work, 3: work, 4: 0.0}, ARRIVED)) is changes


def test_nobody_is_sent_to_a_worker_of_which_nothing_is_known() -> None:
    """It may be stuck; nor is anybody sent away from one."""
    driver = Gatherer()
    _, worker = uneven(driver)
    known = {**dict.fromkeys(IDLE, 0.1), worker: 0.3}
    del known[4]
    assert 4 not in all_look(driver, known, ARRIVED).values()
    driver = Gatherer()
    _, worker = uneven(driver)
    known = {**dict.fromkeys(IDLE, 0.1), 4: 0.0}
    del known[worker]
    assert all_look(driver, known, ARRIVED) == {}
    assert driver.homed({1: 0.3, 2: 0.3, 3: 0.1}) != 4


def test_what_larger_pools_take_is_what_they_seem_to_take() -> None:
    """Their servers stay where they are. So one that takes little has a home beside one that takes much."""
    driver, light = Gatherer(pool_size=4), PoolKey("app", "light")
    driver.fill(1, 2)
    driver.fill(2, 2)
    driver.fill(3, 2, light)
    driver.fill(4, 2, light)
    driver.want(1)
    driver.want(3, pool=light)
    told = {}
    for _ in range(QUEUED_LOOKS + 1):
        told |= all_look(driver, {1: 0.95, 2: 0.95, 3: 0.1, 4: 0.1}, LOOK)
    assert set(told) == {light}


def test_the_pool_stays_where_it_seems_to_take_more_than_its_part() -> None:
    """That its server is there now makes it none the worse."""
    driver = Gatherer()
    first, second = many(driver, 2)
    for pool in (first, second):
        for _ in range(5):
            driver.ledger.client_up(1, pool, driver.now)
    driver.others(2, 3)
    busy = {1: 0.4, 2: 0.4, 3: 0.4, 4: 0.4}
    driver.look(busy)
    homes = [all_move(driver, [first, second], busy) for _ in range(2)][-1]
    assert 1 in homes.values()


def test_the_pool_with_most_work_gets_its_home_first() -> None:
    """A large one beside four small ones has a worker of its own, and the others share what that leaves."""
    driver, large = Gatherer(pool_size=3), PoolKey("app", "large")
    pools = many(driver, 4)
    driver.fill(1, 3, large)
    driver.want(2, pool=large)
    busy = {**IDLE, 1: 0.7}
    driver.look(busy)
    homes = [all_move(driver, [*pools, large], busy) for _ in range(2)][-1]
    alone = homes.pop(large)
    assert sorted(Counter(homes.values()).values()) == [1, 1, 2]
    assert alone not in homes.values()


def test_pools_that_are_hot_get_homes_with_others() -> None:
    """One look is enough then, and later it would have to take what room they left; alone it is not."""
    driver = Gatherer()
    first, second = many(driver, 2)
    driver.look()
    assert all_move(driver, [first], IDLE) == {}
    assert all_move(driver, [first, second], IDLE).keys() == {first, second}


def test_the_work_that_a_home_brings_is_measured_after_a_while() -> None:
    """From then on it counts as what it is, and no more as what was expected."""
    for after, expected in ((0.0, True), (ARRIVED, False)):
        driver = Gatherer()
        (first,) = many(driver, 1)
        driver.look()
        for _ in range(2):
            told = all_move(driver, [first], {**IDLE, 1: 0.6})
        home, second = told[first], PoolKey("app", "second")
        driver.bring(home, first)
        driver.now += after
        driver.others(1, 3)
        driver.fill(1, 1, second)
        driver.want(2, pool=second)
        driver.look()
        for _ in range(2):
            told = all_move(driver, [second], {**dict.fromkeys(IDLE, 0.4), home: 0.05})
        assert (told[second] != home) == expected
