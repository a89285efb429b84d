"""What a new configuration means for what is under way."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic

import pytest
import trio
import trio.testing

from poolproxy.ipc.messages import (
    Accepted,
    CancelKey,
    Command,
    Parameter,
    Permit,
    ServerUp,
    Welcome,
)
from poolproxy.wire.startup import startup_message
from poolproxy.worker.control import obey
from poolproxy.worker.greeting import Greeting
from poolproxy.worker.login import serve_socket
from poolproxy.worker.upstream import ServerLogin
from tests.worker.session_house import POOL, SessionHouse

OLD, NEW = Parameter("server_version", "9"), Parameter("server_version", "18")


class Later:
    """A nursery that does not come to its tasks: ``attempt`` is the one of the last."""

    def start_soon(self, task: object, attempt: ServerLogin) -> None:
        self.attempt = attempt


@pytest.fixture
def h() -> Iterator[SessionHouse]:
    one = SessionHouse()
    yield one
    one.close()


def attempt(h: SessionHouse, client: int = 0) -> ServerLogin:
    """One that has begun to use a permit."""
    nursery, later = h.worker.nursery, Later()
    h.worker.nursery = later  # type: ignore[assignment]
    obey(h.worker, Permit(1, POOL, keep=False, client=client), [])
    h.worker.nursery = nursery
    return later.attempt


def order(h: SessionHouse, what: str) -> None:
    if what == "RECONNECT":
        obey(h.worker, Command(1, what, ""), [])
    elif what == "RELOAD":
        h.reload(host="127.0.0.2", pool_mode="session")


def succeed(h: SessionHouse, login: ServerLogin) -> ServerUp:
    """Its server logs in; what the acceptor hears of that."""
    login.sock, _ = h._pair()
    greeting = Greeting(CancelKey(1, b"1234"), {OLD.name: OLD.value})
    login._succeed((socket.AF_UNIX, "/nowhere"), greeting, 0.01)
    (up,) = (message for message in h.heard() if isinstance(message, ServerUp))
    return up


@pytest.mark.parametrize(
    ("what", "stays"), [("nothing", True), ("RECONNECT", False), ("RELOAD", False)]
)
def test_a_server_that_was_being_opened_is_replaced_like_the_others(
    h: SessionHouse, what: str, *, stays: bool
) -> None:
    """It may be on the host of before, also if its task has its turn only after the order."""
    login = attempt(h)
    order(h, what)
    succeed(h, login)
    assert bool(h.pool.idle) is stays


@pytest.mark.parametrize(("what", "told"), [("nothing", (OLD,)), ("RECONNECT", ()), ("RELOAD", ())])
def test_what_a_server_of_before_says_is_no_welcome(
    h: SessionHouse, what: str, told: tuple[Parameter, ...]
) -> None:
    """Neither here nor with the acceptor, which would keep it for all that come."""
    h.pool.welcomed(())
    login = attempt(h)
    order(h, what)
    assert succeed(h, login).parameters == told
    assert h.pool.welcome == told


@pytest.mark.parametrize("what", ["RECONNECT", "RELOAD"])
async def test_a_log_in_is_not_welcomed_by_a_server_of_before(
    h: SessionHouse, nursery: trio.Nursery, what: str
) -> None:
    """It waits for what the next one says, although that server was opened for it."""
    h.worker.nursery = nursery
    ours, app = h._pair()
    accepted = Accepted(7, "127.0.0.1", 1, "127.0.0.1", 2, monotonic(), surplus=False)
    nursery.start_soon(serve_socket, h.worker, ours, accepted)
    app.send(startup_message({"user": "ann", "database": "db"}, 0))
    await trio.testing.wait_all_tasks_blocked()
    login = attempt(h, client=7)
    order(h, what)
    succeed(h, login)
    await trio.testing.wait_all_tasks_blocked()
    assert 7 not in h.worker.clients
    obey(h.worker, Welcome(POOL, (NEW,)), [])
    await trio.testing.wait_all_tasks_blocked()
    assert h.worker.clients[7].server is None
    assert b"server_version\x0018\0" in app.recv(1 << 16)
