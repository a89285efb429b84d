"""Attempts that were under way when a reload or RECONNECT made the ledger forget the server."""

from __future__ import annotations

import pytest

from poolproxy.ipc.messages import (
    CancelKey,
    Message,
    Parameter,
    Permit,
    PoolFailing,
    ServerUp,
    Want,
    Welcome,
)
from poolproxy.pool.ledger import PoolLimits
from tests.pool.test_ledger import PARAMETERS, POOL, Driver, granted

OLD = (Parameter("server_version", "9"),)
LOGIN = Want(POOL, 1, 100.0, True, False)


class Crossing(Driver):
    """One that is told to forget the server by ``order``."""

    def __init__(self, order: str) -> None:
        super().__init__(target="old")
        self._order = order

    def order(self) -> list[tuple[int, Message]]:
        if self._order == "RECONNECT":
            return self.ledger.reconnect("app", self.now)
        limits = PoolLimits(pool_size=2, target="new")
        return self.ledger.configure(lambda key: limits, [], self.now)

    def old_server_up(self, permit: int) -> list[tuple[int, Message]]:
        message = ServerUp(permit, CancelKey(1, b""), 0.001, OLD)
        return self.ledger.server_up(1, message, self.now)


@pytest.fixture(params=["RELOAD", "RECONNECT"])
def driver(request: pytest.FixtureRequest) -> Crossing:
    return Crossing(request.param)


def welcomes(sends: list[tuple[int, Message]]) -> list[Message]:
    return [message for _, message in sends if isinstance(message, Welcome)]


def test_a_server_of_before_welcomes_nobody(driver: Crossing) -> None:
    """Log-ins go on waiting, and are told what the next server says."""
    driver.ledger.want(1, LOGIN, driver.now)
    driver.ledger.want(2, LOGIN, driver.now)
    driver.order()
    sends = driver.old_server_up(1)
    assert not welcomes(sends)
    assert granted(sends) == [2]
    assert welcomes(driver.up(2, 2)) == [Welcome(POOL, PARAMETERS)] * 2


def test_a_refusal_of_before_keeps_nobody_from_the_next_attempt(driver: Crossing) -> None:
    """It says nothing of the server of now: no client hears of it, and the next attempt begins at once."""
    driver.want(1)
    driver.order()
    sends = driver.failed(1, 1, "28P01", from_server=True)
    assert [type(message) for _, message in sends] == [Permit]


def test_what_the_order_itself_has_granted_counts(driver: Crossing) -> None:
    """The pool was failing, so its clients get the next attempt with the order, and hear of its end."""
    driver.want(1)
    driver.failed(1, 1)
    driver.closed(1)
    assert granted(driver.order()) == [1]
    sends = driver.failed(1, 2, "28P01", from_server=True)
    assert [message.kill_waiting for _, message in sends if isinstance(message, PoolFailing)] == [
        True
    ]
    assert granted(driver.closed(2)) == []
