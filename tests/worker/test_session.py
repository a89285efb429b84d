"""A server for a client of session mode at its log-in: which one, and what if the log-in fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import monotonic

import pytest
import trio
import trio.testing

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import (
    Accepted,
    Command,
    Handoff,
    Hold,
    Leave,
    LoginWant,
    Message,
    NoServer,
    Permit,
    Reclaim,
    ServerClosed,
    Yield,
)
from poolproxy.relay.session import SessionServer
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.wire.startup import startup_message
from poolproxy.worker.control import obey
from poolproxy.worker.session import Claim, Own, held, take
from tests.worker.session_house import POOL, SessionHouse

DONE = message(ord("C"), b"SELECT 1\0") + ready_for_query()


@pytest.fixture
def h() -> Iterator[SessionHouse]:
    one = SessionHouse()
    yield one
    one.close()


async def taken(h: SessionHouse, own: Own, client: int = 7) -> SessionServer | None:
    """What a client gets that must not wait."""
    with trio.fail_after(5):
        return await take(h.worker, h.pool, client, own)


# -- which one -----------------------------------------------------------------------------------------


async def test_an_equal_idle_server_comes_first(h: SessionHouse) -> None:
    """Nobody is asked for a permit."""
    h.session_server()
    equal, _ = h.session_server({"DateStyle": "German"})
    h.session_server()
    h.heard()
    assert await taken(h, h.own({"DateStyle": "German"})) is equal
    assert h.heard() == []
    assert equal not in h.pool.idle
    assert h.logins() == {"equal": 1}


async def test_else_one_is_opened(h: SessionHouse, nursery: trio.Nursery) -> None:
    """Although others are idle: they stay."""
    other, _ = h.session_server()
    h.heard()
    got: list[SessionServer | None] = []

    async def log_in() -> None:
        got.append(await taken(h, h.own({"DateStyle": "German"})))

    nursery.start_soon(log_in)
    await trio.testing.wait_all_tasks_blocked()
    assert h.heard() == [LoginWant(7, POOL)]
    opened, _ = h.session_server({"DateStyle": "German"}, h.worker.claims[7])
    await trio.testing.wait_all_tasks_blocked()
    assert got == [opened]
    assert list(h.pool.idle) == [other]
    assert h.logins() == {"opened": 1}
    assert not h.worker.claims


async def test_else_any_that_can_be_brought_to_its_values(
    h: SessionHouse, nursery: trio.Nursery
) -> None:
    """No permit is to be had, but there is an idle server."""
    other, postgres = h.session_server()
    got: list[SessionServer | None] = []

    async def log_in() -> None:
        got.append(await taken(h, h.own({"DateStyle": "German"})))

    nursery.start_soon(log_in)
    await trio.testing.wait_all_tasks_blocked()
    obey(h.worker, NoServer(7), [])
    await trio.testing.wait_all_tasks_blocked()
    assert postgres.recv(100) == query("SELECT pg_catalog.set_config('DateStyle','German',false)")
    postgres.send(DONE)
    h.turn()
    await trio.testing.wait_all_tasks_blocked()
    assert got == [other]
    assert h.logins() == {"adapted": 1}


async def test_else_none(h: SessionHouse, nursery: trio.Nursery) -> None:
    """A special server that does not suit is left alone."""
    special, _ = h.session_server({"geqo": "off"})
    got: list[SessionServer | None] = []

    async def log_in() -> None:
        got.append(await taken(h, h.own()))

    nursery.start_soon(log_in)
    await trio.testing.wait_all_tasks_blocked()
    obey(h.worker, NoServer(7), [])
    await trio.testing.wait_all_tasks_blocked()
    assert got == [None]
    assert list(h.pool.aside) == [special]
    assert h.logins() == {"later": 1}


async def test_nothing_is_taken_while_others_wait(h: SessionHouse) -> None:
    """Neither here nor, as the ledger has said, elsewhere."""
    server, _ = h.session_server({"geqo": "off"})
    waiting, app = h.client()
    app.send(query("select 1"))
    h.turn()
    assert waiting in h.pool.waiting
    assert await taken(h, h.own({"geqo": "off"})) is None
    h.pool.waiting.clear()
    h.pool.reclaim = 1
    h.pool.failing = "it is down"
    assert await taken(h, h.own({"geqo": "off"})) is None
    assert not server.closed


async def test_the_name_that_we_give_makes_no_difference(h: SessionHouse) -> None:
    """A server's application_name is set where it has the client's address in it."""
    server, postgres = h.session_server({"DateStyle": "German"})
    own = h.own({"DateStyle": "German", "application_name": "a - host"}, named_by_us=True)
    assert own.parameters == {"DateStyle": "German"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taken, h, own)
        await trio.testing.wait_all_tasks_blocked()
        sql = "SELECT pg_catalog.set_config('application_name','a - host',false)"
        assert postgres.recv(100) == query(sql)
        postgres.send(DONE)
        h.turn()
    assert server not in h.pool.idle


def test_a_role_is_no_start_up_parameter_of_a_server(h: SessionHouse) -> None:
    """DISCARD ALL would take it away; so it is set."""
    own = h.own({"role": "boss", "geqo": "off"})
    assert own.parameters == {"geqo": "off"}
    assert h.worker.context.tracker.others(own.values) == {"role": "boss", "geqo": "off"}


# -- when things go wrong ------------------------------------------------------------------------------


async def test_refused_parameters_end_the_login(h: SessionHouse, nursery: trio.Nursery) -> None:
    """With the error of PostgreSQL, at once."""
    errors: list[PoolerError] = []

    async def log_in() -> None:
        with pytest.raises(PoolerError) as caught:
            await taken(h, h.own({"geqo": "perhaps"}))
        errors.append(caught.value)

    nursery.start_soon(log_in)
    await trio.testing.wait_all_tasks_blocked()
    h.worker.claims[7].refuse(PoolerError("no", sqlstate="22023"))
    await trio.testing.wait_all_tasks_blocked()
    assert [error.sqlstate for error in errors] == ["22023"]


@pytest.mark.parametrize(
    ("sqlstate", "from_server", "blamed"),
    [
        ("22023", True, True),
        ("42704", True, True),
        ("55P02", True, True),
        ("55000", True, False),
        ("53300", True, False),
        ("28P01", True, False),
        ("22023", False, False),
    ],
)
def test_whose_fault_it_is(h: SessionHouse, sqlstate: str, from_server: bool, blamed: bool) -> None:
    """A client's parameters are to blame for errors in parameters, if it has given any."""
    assert Claim(h.own({"geqo": "off"})).blames(sqlstate, from_server) is blamed
    assert not Claim(h.own()).blames(sqlstate, from_server)


async def test_a_login_that_gives_up_withdraws(h: SessionHouse, nursery: trio.Nursery) -> None:
    """The ledger hears of it, and a server that comes all the same is for everyone."""
    h.worker.nursery = nursery
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as logins:
            logins.start_soon(take, h.worker, h.pool, 7, h.own())
            await trio.testing.wait_all_tasks_blocked()
            claim = h.worker.claims[7]
            scope.cancel()
    assert h.heard() == [LoginWant(7, POOL), LoginWant(7, POOL, wanted=False)]
    server, _ = h.session_server(claim=claim)
    assert list(h.pool.idle) == [server]
    obey(h.worker, Permit(99, POOL, False, 7), [])
    assert ServerClosed(99, True) in h.heard()


async def test_a_login_that_gives_up_while_its_server_is_made_ready(h: SessionHouse) -> None:
    """The server goes to the pool when it is ready."""
    server, postgres = h.session_server({"DateStyle": "German"})
    own = h.own({"DateStyle": "German", "application_name": "a"}, named_by_us=True)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, h.worker, h.pool, 7, own)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert list(h.pool.idle) == []
    postgres.send(DONE)
    h.turn()
    assert list(h.pool.idle) == [server]


async def test_a_server_is_for_those_who_wait_by_then(
    h: SessionHouse, nursery: trio.Nursery
) -> None:
    """A client that needs a server now gets the one that was opened for a log-in."""
    got: list[SessionServer | None] = []

    async def log_in() -> None:
        got.append(await taken(h, h.own()))

    nursery.start_soon(log_in)
    await trio.testing.wait_all_tasks_blocked()
    client, app = h.client()
    app.send(query("select 1"))
    h.turn()
    server, _ = h.session_server(claim=h.worker.claims[7])
    await trio.testing.wait_all_tasks_blocked()
    assert client.server is server
    assert got == [None]


async def test_a_server_lost_before_its_first_use_is_no_server(nursery: trio.Nursery) -> None:
    """connect_query runs before the client gets the server; the log-in does not wait for a dead one."""
    h = SessionHouse(connect_query="select 1")
    got: list[SessionServer | None] = []

    async def log_in() -> None:
        got.append(await taken(h, h.own()))

    try:
        nursery.start_soon(log_in)
        await trio.testing.wait_all_tasks_blocked()
        server, postgres = h.session_server(claim=h.worker.claims[7])
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        postgres.close()
        h.turn()
        await trio.testing.wait_all_tasks_blocked()
        assert server.closed
        assert got == [None]
    finally:
        h.close()


def test_a_held_server_is_passed_on_when_the_login_fails(h: SessionHouse) -> None:
    """A client that goes away before its welcome leaves nothing behind."""
    server, _ = h.session_server()
    h.pool.idle.remove(server)
    with pytest.raises(ValueError, match="gone"), held(server):
        raise ValueError("gone")
    assert list(h.pool.idle) == [server]
    with pytest.raises(ValueError, match="gone"), held(None):
        raise ValueError("gone")


async def test_who_was_handed_over_just_before_the_end_is_told_of_it(
    h: SessionHouse, nursery: trio.Nursery
) -> None:
    """Its log-in has not begun when the worker, which has nobody else, is told to leave."""
    h.worker.nursery = nursery
    ours, app = h._pair()
    accepted = Accepted(7, "127.0.0.1", 1, "127.0.0.1", 2, monotonic(), surplus=False)
    obey(h.worker, Handoff((accepted,)), [os.dup(ours.fileno())])
    ours.close()
    obey(h.worker, Leave("clients"), [])
    assert not h.worker.left.is_set()
    app.send(startup_message({"user": "ann", "database": "db"}, 0))
    await trio.testing.wait_all_tasks_blocked()
    assert b"pooler is shutting down" in app.recv(1000)


@pytest.mark.parametrize(
    "order",
    [
        Hold(0, paused=True, suspended=False, databases=(), disabled=()),
        Command(1, "RECONNECT", "db"),
        Reclaim(POOL, 1),
        Yield(POOL, 1, 1.0),
    ],
    ids=lambda order: type(order).__name__,
)
async def test_an_order_amid_the_login_reaches_its_server(
    h: SessionHouse, nursery: trio.Nursery, order: Message
) -> None:
    """It was nobody's then; the client goes on without it, and nobody waits for its end."""
    h.worker.nursery = nursery
    ours, app = h._pair()
    accepted = Accepted(7, "127.0.0.1", 1, "127.0.0.1", 2, monotonic(), surplus=False)
    obey(h.worker, Handoff((accepted,)), [os.dup(ours.fileno())])
    app.send(startup_message({"user": "ann", "database": "db"}, 0))
    await trio.testing.wait_all_tasks_blocked()
    server, _ = h.session_server(claim=h.worker.claims[7])
    obey(h.worker, order, [])
    assert not server.closed
    await trio.testing.wait_all_tasks_blocked()
    assert h.worker.clients[7].server is None
    assert server.closed
    assert not h.pool.servers
    assert (h.pool.reclaim, h.pool.called) == (0, 0)
    app.send(query("select 1"))
    h.turn()
    assert list(h.pool.waiting) == [h.worker.clients[7]]
