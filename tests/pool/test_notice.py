"""Why a client waits: what the ledger says, and what the client reads."""

from __future__ import annotations

import pytest

from poolproxy.ipc.messages import PoolKey, WaitReason
from poolproxy.pool.notice import details
from tests.pool.test_ledger import POOL, Driver


def why(driver: Driver, worker: int = 1) -> WaitReason:
    ((told, message),) = driver.ledger.why_wait(worker, POOL, driver.now)
    assert told == worker
    assert isinstance(message, WaitReason)
    return message


def test_a_limit_that_is_reached_is_named_with_its_value() -> None:
    """pool_size here, and who waits in which worker."""
    driver = Driver()
    driver.fill(1, 2)
    driver.want(1, 3)
    driver.want(2, 4)
    assert why(driver, 2) == WaitReason(POOL, "pool_size", 2, "", 7)


@pytest.mark.parametrize("limit", ["max_db_connections", "max_user_connections"])
def test_a_limit_over_pools_is_named(limit: str) -> None:
    """Though the pool itself is not full."""
    driver = Driver(pool_size=10, **{limit: 2})
    driver.fill(1, 2)
    driver.want(2)
    assert (why(driver).limit, why(driver).size) == (limit, 2)


def test_log_ins_that_fail_are_the_reason_until_the_next_attempt() -> None:
    """In the words that clients get that fail fast."""
    driver = Driver(server_login_retry=15.0)
    driver.want(1)
    driver.failed(1, 1)
    driver.closed(1)
    assert why(driver) == WaitReason(POOL, "", 0, "connect failed", 1)
    driver.now += 15
    assert why(driver).failing == ""


def test_an_unknown_pool_is_not_explained() -> None:
    """It is gone meanwhile."""
    assert Driver().ledger.why_wait(1, PoolKey("other", "x"), 100.0) == []


@pytest.mark.parametrize(
    ("reason", "detail", "hint"),
    [
        (
            WaitReason(POOL, "pool_size", 20, "", 17),
            "Waiting for 5 s, number 3 of 17 in the queue."
            " The limit pool_size (20) on server connections is reached.",
            "Raise pool_size, or look for long transactions that hold server connections;"
            " the wait ends after query_wait_timeout.",
        ),
        (
            WaitReason(POOL, "", 0, "connect failed: Connection refused", 40),
            "Waiting for 5 s, number 3 of 17 in the queue of its worker process, 40 wait in all."
            " The log-in to the database server has been failing: connect failed: Connection refused.",
            "The next attempt is made after server_login_retry;"
            " the wait ends after query_wait_timeout.",
        ),
        (
            WaitReason(POOL, "", 0, "", 2),
            "Waiting for 5 s, number 3 of 17 in the queue. A server connection is being opened.",
            "The wait ends after query_wait_timeout.",
        ),
    ],
    ids=["limit", "failing", "opening"],
)
def test_place_reason_and_cure_are_told(reason: WaitReason, detail: str, hint: str) -> None:
    """A failure goes before a limit: raising that would not help."""
    assert details(3, 17, 5.2, reason) == (detail, hint)
