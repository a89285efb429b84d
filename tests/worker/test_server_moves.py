"""A server that comes from another worker, or is asked for by one: what a worker does and says."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

import attrs
import pytest

from poolproxy.ipc.messages import (
    Command,
    Hold,
    NoneIdle,
    ServersCome,
    ServerTaken,
    ServerYielded,
    Yield,
    YieldIdle,
)
from poolproxy.pool.pool import PAUSED
from poolproxy.wire.build import message, query
from poolproxy.worker import retiring, server_moves
from poolproxy.worker.control import obey
from poolproxy.worker.session import Claim
from tests.worker.session_house import POOL, SessionHouse

SELECT = query("select 1")
LOGIN = 99  # the client that logs in
RESUMED = Hold(0, paused=False, suspended=False, databases=(), disabled=())


@contextmanager
def two(**database: Any) -> Iterator[tuple[SessionHouse, SessionHouse]]:
    """Two workers with the same configuration, a pool in session mode."""
    with ExitStack() as stack:
        houses = SessionHouse(**database), SessionHouse(**database)
        for house in houses:
            stack.callback(house.close)
        yield houses


def yielded(source: SessionHouse, client: int = 0) -> tuple[ServerYielded, int]:
    """What the acceptor gets of an idle server, and a descriptor for whoever gets it."""
    server, _ = source.session_server()
    fd = socket.dup(server.fd)
    source.heard()
    order = YieldIdle(POOL, client) if client else Yield(POOL, 1, monotonic())
    obey(source.worker, order, [])
    (message,) = source.heard()
    assert isinstance(message, ServerYielded)
    return message, fd


def claim_of(house: SessionHouse) -> Claim:
    claim = house.worker.claims[LOGIN] = Claim(house.own())
    return claim


def test_a_log_in_gets_the_server_that_was_found_for_it() -> None:
    """Nobody else does."""
    with two() as (a, b):
        claim = claim_of(b)
        message, fd = yielded(a, LOGIN)
        obey(b.worker, ServersCome((message.server,), LOGIN), [fd])
        assert claim.settled.is_set()
        assert claim.server in b.pool.servers
        assert not b.pool.idle


@pytest.mark.parametrize("why", ["reloaded", "lost", "database gone", "leaving", "paused"])
def test_a_log_in_goes_on_if_the_server_found_for_it_is_of_no_use(why: str) -> None:
    """It hears so at once, instead of waiting until its time is over."""
    with two() as (a, b):
        claim = claim_of(b)
        message, fd = yielded(a, LOGIN)
        fds = [fd]
        if why == "reloaded":
            b.worker.generation += 1
        elif why == "lost":
            os.close(fds.pop())
        elif why == "database gone":
            b.worker.config = attrs.evolve(b.worker.config, databases={})
        elif why == "leaving":
            b.worker.leaving = "servers"
        else:
            obey(b.worker, attrs.evolve(RESUMED, paused=True), [])
        obey(b.worker, ServersCome((message.server,), LOGIN), fds)
        assert claim.settled.is_set()
        assert claim.server is None


def test_an_idle_server_that_can_not_be_told_of_is_no_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-in that looks for one is looked for elsewhere."""
    monkeypatch.setattr(server_moves, "MOST_BYTES", 10)
    with two() as (a, _):
        server, _ = a.session_server()
        a.heard()
        obey(a.worker, YieldIdle(POOL, LOGIN), [])
        assert a.heard() == [NoneIdle(POOL, LOGIN)]
        assert not server.closed


def test_a_server_that_comes_into_a_pause_ends() -> None:
    """It had left its worker before that was told of the pause. Nobody is served by it meanwhile."""
    with two(pool_mode="transaction") as (a, b):
        client, app = b.client()
        message, fd = yielded(a)
        obey(b.worker, attrs.evolve(RESUMED, databases=("db",)), [])
        app.send(SELECT)
        b.turn()
        b.heard()
        obey(b.worker, ServersCome((message.server,), 0), [fd])
        assert [m.taken for m in b.heard() if isinstance(m, ServerTaken)] == [True]
        assert client.wait_since
        assert not b.pool.servers


def test_a_pause_that_is_over_dooms_no_server() -> None:
    """A session's server that left amid the pause comes when there is none any more."""
    with two() as (a, b):
        message, fd = yielded(a)
        state = attrs.evolve(message.server, doomed=PAUSED)
        obey(b.worker, ServersCome((state,), 0), [fd])
        assert len(b.pool.idle) == 1


def test_a_server_of_before_a_reconnect_ends_wherever_it_comes() -> None:
    """It had left its worker before that was told of the order."""
    with two() as (a, b):
        b.session_server()
        message, fd = yielded(a)
        obey(b.worker, Command(1, "RECONNECT", "db"), [])
        assert not b.pool.servers
        obey(b.worker, ServersCome((message.server,), 0), [fd])
        assert not b.pool.servers
        assert b.pool.stats.server_closes["config_changed"] == 2


@pytest.mark.parametrize("argument", ["", "db", "other"])
def test_a_reconnect_holds_for_pools_that_are_made_later(argument: str) -> None:
    """The first server of such a pool may come from another worker, which had sent it before that order."""
    with two() as (a, b):
        message, fd = yielded(a)
        b.worker.pools.clear()
        obey(b.worker, Command(1, "RECONNECT", argument), [])
        obey(b.worker, ServersCome((message.server,), 0), [fd])
        assert len(b.pool.servers) == (argument == "other")
        before = len(b.pool.servers)
        message, fd = yielded(a)
        obey(b.worker, ServersCome((message.server,), 0), [fd])
        assert len(b.pool.servers) == before + 1, "it was opened after the order"


@pytest.mark.parametrize("last", [b"", message(ord("E"), b"SFATAL\0C57P01\0Mend\0\0"), b"E\0"])
def test_a_server_that_has_ended_on_its_way_is_nobodys(last: bytes) -> None:
    """Who waits goes on waiting: he would be told of an end that is none of his business."""
    with two(pool_mode="transaction") as (a, b):
        client, app = b.client()
        app.send(SELECT)
        b.turn()
        server, postgres = a.session_server()
        fd = socket.dup(server.fd)
        a.heard()
        obey(a.worker, Yield(POOL, 1, monotonic()), [])
        (told,) = a.heard()
        assert isinstance(told, ServerYielded)
        postgres.send(last)
        postgres.close()
        b.heard()
        obey(b.worker, ServersCome((told.server,), 0), [fd])
        assert b.heard() == [ServerTaken(told.server.permit, taken=False, want=None)]
        assert client.wait_since
        assert not b.pool.servers


def test_a_server_that_has_a_notification_on_its_way_is_taken() -> None:
    """Anybody may have sent it, and it says nothing of the connection."""
    with two() as (a, b):
        server, postgres = a.session_server()
        fd = socket.dup(server.fd)
        a.heard()
        obey(a.worker, Yield(POOL, 1, monotonic()), [])
        (told,) = a.heard()
        assert isinstance(told, ServerYielded)
        postgres.send(message(ord("A"), b"\0\0\0\7news\0\0"))
        obey(b.worker, ServersCome((told.server,), 0), [fd])
        b.turn()
        assert len(b.pool.idle) == 1


def test_a_worker_that_is_to_leave_hands_its_free_servers_on() -> None:
    """First those of pools that have no clients there."""
    with two(pool_mode="transaction") as (a, _):
        a.session_server()
        client, app = a.client()
        a.heard()
        server_moves.hand_all_over(a.worker, retiring.RETIRED, unused_only=True)
        assert a.heard() == []
        app.close()
        a.turn()
        a.session_server()
        assert client.closed
        a.heard()
        server_moves.hand_all_over(a.worker, retiring.RETIRED, unused_only=True)
        assert [type(told) for told in a.heard()] == [ServerYielded, ServerYielded]
        assert not a.pool.servers


def test_what_can_not_be_handed_on_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the worker can leave."""
    monkeypatch.setattr(server_moves, "MOST_BYTES", 10)
    with two() as (a, _):
        server, _ = a.session_server()
        server_moves.hand_all_over(a.worker, retiring.RETIRED, unused_only=True)
        assert server.closed
        assert a.pool.stats.server_closes == {"retired": 1}
