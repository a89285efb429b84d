"""How servers that can't move are shared by workers, of which each has some."""

from __future__ import annotations

import pytest

from poolproxy.pool.ledger.state import REFRESH, SLICE_MIN
from tests.pool.test_ledger import POOL, Driver, asked

LOOK = REFRESH / 2


def test_shares_follow_demand() -> None:
    """A worker with few servers and many waiters gets some of one with many and few."""
    driver = Driver(pool_size=8)
    driver.fill(1, 7)
    driver.now += 1
    driver.want(2)
    driver.up(2, 8)
    driver.want(2, 0)
    driver.now += 1
    assert asked(driver.want(2, 15, since=driver.now)) == []
    assert asked(driver.tick_at(driver.now + REFRESH)) == [(1, "alice", 4)]


def test_equal_shares_are_left_alone() -> None:
    """Two saturated workers with as many servers each take nothing from each other."""
    driver = Driver(pool_size=2)
    driver.want(1, 9, since=99.0)
    driver.want(2, 9, since=99.1)
    driver.up(1, 1)
    driver.up(2, 2)
    driver.now += 1
    assert driver.want(1, 9, since=driver.now - 0.2) == []
    assert asked(driver.want(2, 9, since=driver.now - 0.25)) == []
    assert asked(driver.tick_at(driver.now + 0.05)) == []


def sharing(first: int, second: int) -> Driver:
    """Two workers have so many servers, and no client waits."""
    driver = Driver(pool_size=first + second)
    driver.fill(1, first)
    driver.fill(2, second)
    driver.now += 1
    return driver


def wait(driver: Driver, first: int, second: int) -> list[int]:
    """So many clients wait, none of them long; the workers that are asked for servers."""
    told = []
    for _ in range(round(2 * SLICE_MIN / LOOK)):
        told += asked(driver.want(1, first, since=driver.now))
        told += asked(driver.want(2, second, since=driver.now))
        told += asked(driver.tick_at(driver.now + LOOK))
    return [holder for holder, _, _ in told]


@pytest.mark.parametrize("rests", [False, True])
def test_a_queue_that_runs_empty_for_a_moment_is_no_reason_to_take_servers(rests: bool) -> None:
    """Clients pause, and one worker's have got their answers before another one's; then all go on. Where
    none come for a slice their servers are idle.
    """
    driver = sharing(5, 3)
    assert wait(driver, 50, 30) == []
    driver.want(1, 0)
    assert asked(driver.tick_at(driver.now + LOOK)) == []
    assert wait(driver, 0 if rests else 50, 30) == [1] * rests


@pytest.mark.parametrize(
    ("servers", "clients", "asks"),
    [
        ((4, 4), (160, 40), [2]),
        ((5, 3), (160, 40), [2]),
        ((6, 2), (160, 40), []),
        ((7, 1), (160, 40), [1]),
        ((6, 2), (170, 30), []),
        ((7, 1), (170, 30), []),
    ],
)
def test_a_server_goes_if_those_who_wait_longest_gain(
    servers: tuple[int, int], clients: tuple[int, int], asks: list[int]
) -> None:
    """With shares of 6.4 and 1.6 servers these are 6 and 2; with 6.8 and 1.2 each of two ways is as good."""
    (first, second), (many, few) = servers, clients
    assert wait(sharing(first, second), many - first, few - second) == asks


def test_as_many_go_as_are_idle_elsewhere() -> None:
    """Whatever one more would be worth to a worker that has many."""
    driver = sharing(80, 20)
    assert set(wait(driver, 0, 1000)) == {1}


def test_the_last_server_stays_where_clients_are() -> None:
    """By the shares: only for one who waits for long it goes."""
    driver = sharing(1, 1)
    driver.ledger.client_up(2, POOL, driver.now)
    assert wait(driver, 50, 0) == []
