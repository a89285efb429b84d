"""Servers for clients of session pools at their log-in, one rule after the other."""

from __future__ import annotations

import pytest

from poolproxy.ipc.messages import (
    Blocked,
    LoginWant,
    Message,
    NoServer,
    Permit,
    PoolKey,
    ServerFailed,
)
from tests.pool.test_ledger import OTHER, POOL, Driver, granted

Sent = list[tuple[int, Message]]


def login(
    driver: Driver, client: int, worker: int = 1, pool: PoolKey = POOL, wanted: bool = True
) -> Sent:
    return driver.ledger.login_want(worker, LoginWant(client, pool, wanted), driver.now)


def permits(sends: Sent) -> list[tuple[int, int]]:
    """(worker, client) of each permit."""
    return [(worker, m.client) for worker, m in sends if isinstance(m, Permit)]


def turned_away(sends: Sent) -> list[tuple[int, int]]:
    return [(worker, m.client) for worker, m in sends if isinstance(m, NoServer)]


def blocked(sends: Sent) -> list[tuple[int, bool]]:
    return [(worker, m.blocked) for worker, m in sends if isinstance(m, Blocked)]


def test_a_login_gets_a_permit_of_its_own() -> None:
    """It names the client, while one for those who wait names none."""
    driver = Driver(session_mode=True)
    assert permits(login(driver, 7)) == [(1, 7)]
    driver.up(1, 1)
    assert permits(driver.want(2)) == [(2, 0)]


def test_logins_take_turns() -> None:
    """One connection attempt at a time, in the order in which they came, over all workers."""
    driver = Driver(session_mode=True, pool_size=3)
    login(driver, 7)
    assert login(driver, 8, worker=2) == login(driver, 9) == []
    assert permits(driver.up(1, 1)) == [(2, 8)]
    assert permits(driver.up(2, 2)) == [(1, 9)]


def test_nobody_queues_for_more_than_there_is() -> None:
    """Whoever can get no permit, even after those before it, is told so at once."""
    driver = Driver(session_mode=True, pool_size=2)
    login(driver, 7)
    assert login(driver, 8) == []
    assert turned_away(login(driver, 9, worker=2)) == [(2, 9)]


def test_without_limits_all_logins_get_one() -> None:
    """pool_size 0: each in its turn."""
    driver = Driver(session_mode=True, pool_size=0)
    login(driver, 1)
    assert not any(turned_away(login(driver, client)) for client in range(2, 50))
    assert all(permits(driver.up(1, permit)) == [(1, permit + 1)] for permit in range(1, 49))


@pytest.mark.parametrize("limit", ["max_db_connections", "max_user_connections"])
def test_logins_keep_to_limits_over_pools(limit: str) -> None:
    """A permit that another pool of the database or user has is not to be had."""
    driver = Driver(session_mode=True, pool_size=5, **{limit: 1})
    driver.ledger.configure(lambda key: driver.limits, (), driver.now)
    rival = OTHER if limit == "max_db_connections" else PoolKey("two", "alice")
    driver.fill(1, 1, rival)
    assert turned_away(login(driver, 7)) == [(1, 7)]


def test_the_reserve_is_not_for_logins() -> None:
    """It is for those who wait."""
    driver = Driver(session_mode=True, pool_size=1, reserve_pool_size=5)
    driver.fill(1, 1)
    driver.now += 60
    assert turned_away(login(driver, 7)) == [(1, 7)]


@pytest.mark.parametrize("pool", [POOL, OTHER])
def test_those_who_wait_come_before_logins(pool: PoolKey) -> None:
    """Whoever needs a server now, in this pool or one that shares a limit, is served first."""
    driver = Driver(session_mode=True, pool_size=9, max_db_connections=9)
    login(driver, 7)
    login(driver, 8)
    sends = driver.want(2, pool=pool)
    assert turned_away(sends) == [(1, 8)]
    assert granted(sends + driver.up(1, 1)) == [2]
    assert turned_away(login(driver, 9)) == [(1, 9)]


def test_logins_come_before_min_pool_size() -> None:
    """Servers that nobody needs yet are opened when nobody logs in."""
    driver = Driver(session_mode=True, pool_size=5, min_pool_size=5)
    driver.ledger.client_up(2, POOL, driver.now)
    login(driver, 7)
    assert permits(driver.up(2, 1)) == [(1, 7)]
    assert permits(driver.up(1, 2)) == [(2, 0)]


def test_a_failing_pool_has_none() -> None:
    """Nobody tries a dead server out with a log-in; those who wait for their turn are let in."""
    driver = Driver(session_mode=True)
    login(driver, 7)
    login(driver, 8)
    assert turned_away(driver.failed(1, 1)) == [(1, 8)]
    driver.closed(1)
    assert turned_away(login(driver, 9)) == [(1, 9)]


def test_a_client_with_bad_parameters_does_not_make_the_pool_fail() -> None:
    """A failure without a reason frees the permit; the next attempt begins at once."""
    driver = Driver(session_mode=True, pool_size=1)
    login(driver, 7)
    failed = ServerFailed(1, "", "42704", True)
    assert driver.ledger.server_failed(1, failed, driver.now) == []
    assert driver.ledger.statistics()[0].failing == ""
    driver.closed(1)
    assert permits(login(driver, 8)) == [(1, 8)]


def test_a_login_that_is_over_gets_none() -> None:
    """Its place in the queue goes to the next."""
    driver = Driver(session_mode=True, pool_size=3)
    for client in (7, 8, 9):
        login(driver, client)
    assert login(driver, 8, wanted=False) == []
    assert permits(driver.up(1, 1)) == [(1, 9)]


def test_logins_of_a_dead_worker_are_forgotten() -> None:
    """The next in line is another worker's."""
    driver = Driver(session_mode=True, pool_size=4)
    login(driver, 7)
    login(driver, 8)
    login(driver, 9, worker=2)
    _, sends = driver.ledger.worker_gone(1, driver.now)
    assert permits(sends) == [(2, 9)]


def test_a_permit_that_came_back_unused_does_not_turn_the_next_away() -> None:
    """It waits for the end of the short pause."""
    driver = Driver(session_mode=True, pool_size=1)
    login(driver, 7)
    driver.closed(1)
    assert login(driver, 8) == []
    deadline = driver.ledger.next_deadline()
    assert deadline is not None
    assert permits(driver.tick_at(deadline)) == [(1, 8)]


def test_an_unknown_pool_has_none() -> None:
    """The database was removed between two messages."""
    driver = Driver(session_mode=True)
    assert login(driver, 7, pool=PoolKey("gone", "bob")) == [(1, NoServer(7))]


def test_nobody_gets_one_while_the_pooler_leaves() -> None:
    """A server that no client waits for is not opened any more."""
    driver = Driver(session_mode=True)
    driver.ledger.leave()
    assert turned_away(login(driver, 7)) == [(1, 7)]


def test_workers_hear_that_a_limit_keeps_their_clients_waiting() -> None:
    """Once, and once more when it does so no longer; not about an attempt that is under way."""
    driver = Driver(session_mode=True, pool_size=2)
    assert blocked(driver.want(1, 1)) == []
    assert blocked(driver.want(1, 0)) == []
    driver.up(1, 1)
    driver.fill(1, 1)
    assert blocked(driver.want(1, 2)) == [(1, True)]
    assert blocked(driver.want(2, 1)) == [(2, True)]
    sends = driver.closed(1)
    assert len(granted(sends)) == 1
    assert blocked(driver.want(1, 0)) == [(2, False)]


def test_no_worker_is_told_of_pools_in_other_modes() -> None:
    """There a server that is linked is in use."""
    driver = Driver(pool_size=1)
    driver.fill(1, 1)
    assert blocked(driver.want(1, 2)) == []
