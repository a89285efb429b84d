"""What a new configuration means for what is under way."""

from __future__ import annotations

import socket

import pytest

from poolproxy.ipc.messages import CancelKey, Command, Permit
from poolproxy.worker.control import obey
from poolproxy.worker.greeting import Greeting
from poolproxy.worker.upstream import ServerLogin
from tests.worker.session_house import POOL, SessionHouse


@pytest.mark.parametrize(
    ("order", "stays"), [("nothing", True), ("RECONNECT", False), ("RELOAD", False)]
)
def test_a_server_that_was_being_opened_is_replaced_like_the_others(
    order: str, *, stays: bool
) -> None:
    """It may be on the host of before."""
    house = SessionHouse()
    try:
        login = ServerLogin(house.worker, house.pool, Permit(1, POOL, keep=False, client=0))
        login.sock, _ = house._pair()
        house.pool.opening += 1
        if order == "RECONNECT":
            obey(house.worker, Command(1, order, ""), [])
        elif order == "RELOAD":
            house.reload(host="127.0.0.2", pool_mode="session")
        login._succeed((socket.AF_UNIX, "/nowhere"), Greeting(CancelKey(1, b"1234"), {}), 0.01)
        assert bool(house.pool.idle) is stays
    finally:
        house.close()
