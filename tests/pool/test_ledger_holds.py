"""Paused databases in the ledger."""

from __future__ import annotations

from poolproxy.ipc.messages import LoginWant, NoServer, Welcome
from tests.pool.test_ledger import OTHER, POOL, Driver, asked, granted


def test_a_paused_database_gets_no_permits() -> None:
    """Its clients wait; with RESUME the one that waits longest is served."""
    driver = Driver(min_pool_size=1, reserve_pool_size=1, reserve_pool_timeout=1.0)
    assert driver.ledger.hold({"app"}.__contains__, driver.now) == []
    assert driver.want(2, since=99.0) == []
    assert driver.want(1, since=98.0) == []
    assert driver.tick_at(200.0) == []
    assert driver.ledger.next_deadline() is None
    assert granted(driver.ledger.hold(set().__contains__, driver.now)) == [1]


def test_nobody_is_asked_to_give_back_for_a_paused_database() -> None:
    """What it has is closed by its workers anyway."""
    driver = Driver(pool_size=1)
    [permit] = driver.fill(1, 1)
    driver.ledger.hold({"app"}.__contains__, driver.now)
    sends = driver.want(2) + driver.tick_at(300.0)
    assert (granted(sends), asked(sends)) == ([], [])
    assert not driver.ledger.quiet("app")
    driver.closed(permit)
    assert driver.ledger.quiet("app")


def test_a_session_client_logs_in_without_a_server() -> None:
    """While its database is paused."""
    driver = Driver()
    driver.ledger.hold({"app"}.__contains__, driver.now)
    assert driver.ledger.login_want(1, LoginWant(7, POOL), driver.now) == [(1, NoServer(7))]


def test_quiet_counts_to_the_last_close() -> None:
    """A connection counts from before connect() until PostgreSQL has closed its end."""
    driver = Driver()
    assert driver.ledger.quiet("")
    permits = driver.fill(1, 1) + driver.fill(2, 1, OTHER)
    assert not driver.ledger.quiet("")
    assert driver.ledger.quiet("elsewhere")
    driver.ledger.worker_gone(1, driver.now)
    driver.closed(permits[1])
    assert not driver.ledger.quiet("app")
    driver.closed(permits[0])
    assert driver.ledger.quiet("")


def test_reconnect_forgets_the_welcome() -> None:
    """The next log-in waits for a server that tells it anew."""
    driver = Driver()
    driver.fill(1, 1)
    assert driver.ledger.reconnect("elsewhere", driver.now) == []
    assert (1, Welcome(POOL, ())) in driver.ledger.reconnect("app", driver.now)
    assert driver.ledger.reconnect("", driver.now) == []
