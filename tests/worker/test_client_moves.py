"""A client that goes from one worker to another: what each of them does and says."""

from __future__ import annotations

import random
import socket
from typing import Any

import attrs
import pytest

from poolproxy.auth.scram import ScramKeys, stored_key
from poolproxy.auth.secrets import Md5Secret, PlainSecret, ScramSecret
from poolproxy.ipc.messages import (
    Cancel,
    CancelDone,
    CancelMissed,
    ClientArrival,
    ClientArrived,
    ClientMoved,
    ClientNames,
    Parameter,
    Shed,
)
from poolproxy.relay.client_state import is_quiet
from poolproxy.wire.build import message, ready_for_query
from poolproxy.worker import client_moves
from poolproxy.worker.control import obey
from poolproxy.worker.lookup import Found
from poolproxy.worker.shedding import Burden, choose
from tests.worker.house import error, no_descriptors
from tests.worker.moving import BIND, DONE, PARSE, PARSED, SELECT, move, sent, two


def test_all_that_is_known_of_a_client_comes_along() -> None:
    """Who it is, since when, its parameters and its cancel key; and it is read at its new worker only."""
    with two() as (a, b):
        client, app = a.client()
        tracker = a.worker.context.tracker
        client.values = tracker.wished(
            {"application_name": "shop", "geqo": "off"},
            tracker.values({"application_name": "", "TimeZone": "UTC"}),
        )
        there = move(a, b, client)
        for name in (
            "id",
            "key",
            "user",
            "values",
            "peer",
            "port",
            "connected_at",
            "last_activity",
        ):
            assert getattr(there, name) == getattr(client, name), name
        assert b.worker.keys[client.key] is there
        assert (a.pool.clients, b.pool.clients) == (0, 1)
        assert [a.worker.clients, a.worker.keys, a.worker.departing.clients] == [{}, {}, {}]
        app.send(SELECT)
        a.turn()
        b.turn()
        assert list(b.pool.waiting) == [there]


def test_what_it_sends_on_its_way_is_read_when_it_arrives() -> None:
    """At once, so that a cancel request that comes next finds the query."""
    with two() as (a, b):
        client, app = a.client()
        told, fds = sent(a, client)
        app.send(SELECT)
        a.turn()
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        assert b.worker.clients[client.id].wait_since


def test_it_is_acknowledged_before_it_is_read() -> None:
    """As long as the kernel has not taken the answer, nothing of the client is read there."""
    with two() as (a, b):
        client, app = a.client()
        told, fds = sent(a, client)
        app.send(SELECT)
        started: list[Any] = []
        b.worker.start = lambda *task: started.append(task)  # type: ignore[method-assign]
        while b.worker.channel.flushed:
            b.worker.channel.post(CancelDone(1))
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        b.turn()
        assert len(started) == 1
        assert not b.worker.clients[client.id].wait_since


def test_prepared_statements_come_along() -> None:
    """The next worker's server, which lacks it, is given the statement that the client executes."""
    with two() as (a, b):
        client, app = a.client()
        _, postgres = a.server()
        app.send(PARSE)
        a.turn()
        assert b"select 1" in postgres.recv(1 << 16)
        postgres.send(PARSED)
        a.turn()
        assert app.recv(1 << 16) == PARSED
        there = move(a, b, client)
        _, postgres = b.server()
        b.heard()
        app.send(BIND)
        b.turn()
        asked = postgres.recv(1 << 16)
        assert asked[:1] == b"P"
        assert b"select 1" in asked
        assert there.names is not None
        assert there.names.size == len(b"mine" + b"select 1\0\0\0")


def test_a_refused_client_goes_on_where_it_was() -> None:
    """Also with what it has sent meanwhile."""
    with two() as (a, _):
        client, app = a.client()
        _, fds = sent(a, client)
        socket.socket(fileno=fds[0]).close()
        app.send(SELECT)
        obey(a.worker, ClientMoved(client.id, "no room"), [])
        assert client.wait_since
        assert a.worker.keys[client.key] is client
        assert a.pool.clients == 1


def test_a_lost_client_is_closed() -> None:
    """Another worker may have read of it, so it must not go on as if nothing had been."""
    with two() as (a, _):
        client, app = a.client()
        _, fds = sent(a, client)
        socket.socket(fileno=fds[0]).close()
        obey(a.worker, ClientMoved(client.id, "died", lost=True), [])
        assert app.recv(1) == b""
        assert client.closed
        a.worker.report_gone()
        assert a.heard()[-1].clients == (client.id,)  # type: ignore[union-attr]


def test_a_client_that_comes_back_to_a_worker_without_its_database_is_told() -> None:
    """The database went out of the configuration while it was on its way."""
    with two() as (a, _):
        client, app = a.client()
        _, fds = sent(a, client)
        socket.socket(fileno=fds[0]).close()
        a.worker.config = attrs.evolve(a.worker.config, databases={})
        obey(a.worker, ClientMoved(client.id, "not wanted there"), [])
        assert error(app).message == "database removed"


@pytest.mark.parametrize("why", ["leaving", "no such database", "no descriptor", "same key"])
def test_a_worker_refuses_what_it_can_not_serve(why: str) -> None:
    """The descriptor is closed and the acceptor told; the sender still has the client."""
    with two() as (a, b):
        client, app = a.client()
        told, fds = sent(a, client)
        if why == "leaving":
            b.worker.leaving = "clients"
        elif why == "no such database":
            b.worker.config = attrs.evolve(b.worker.config, databases={})
        elif why == "no descriptor":
            socket.socket(fileno=fds.pop()).close()
        else:
            b.worker.keys[client.key] = client
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        (answer,) = b.heard()
        assert isinstance(answer, ClientArrived)
        assert answer.refused
        assert not b.worker.clients
        obey(a.worker, ClientMoved(client.id, answer.refused), [])
        app.send(SELECT)
        a.turn()
        assert client.wait_since


def test_a_client_with_much_to_tell_is_refused_where_no_file_can_be_opened() -> None:
    """Its state travels in a file of its own, for which there is always room: the sender gets an answer."""
    with two() as (a, b):
        client, app = a.client()
        told, fds = sent(a, client)
        state = attrs.evolve(told.state, values=(Parameter("search_path", "x" * 100_000),))
        b.acceptor.post(ClientArrival(told.sockets, state, None), fds)
        with no_descriptors():
            received = b.worker.channel.receive_nowait()
            assert received is not None
            obey(b.worker, *received)
            assert b.heard() == [ClientArrived(client.id, "out of file descriptors")]
        obey(a.worker, ClientMoved(client.id, "out of file descriptors"), [])
        app.send(SELECT)
        a.turn()
        assert client.wait_since


def test_a_cancel_for_a_client_on_its_way_is_for_its_next_worker() -> None:
    """The one that it has left can't know what it runs there."""
    with two() as (a, b):
        client, _ = a.client()
        told, fds = sent(a, client)
        obey(a.worker, Cancel(7, client.key), [])
        assert a.heard() == [CancelMissed(7)]
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        obey(b.worker, Cancel(7, client.key), [])
        assert b.heard() == [ClientArrived(client.id, ""), CancelDone(7)]


def test_what_can_not_be_told_of_a_client_ends_only_that_client() -> None:
    """A mistake of ours in packing or unpacking costs no worker."""
    with two() as (a, b):
        client, app = a.client()
        told, fds = sent(a, client)
        state = attrs.evolve(told.state, values=(Parameter("TimeZone", "UTC"),), unreported=7)
        b.worker.context.tracker.place = None  # type: ignore[assignment]
        state = attrs.evolve(state, names=ClientNames((), unnamed=False, passed=False))
        obey(b.worker, ClientArrival(told.sockets, state, None), fds)
        (answer,) = b.heard()
        assert isinstance(answer, ClientArrived)
        assert answer.refused
        obey(a.worker, ClientMoved(client.id, answer.refused), [])
        assert not client.closed
        client.peer = object()  # type: ignore[assignment]
        assert not client_moves.send(a.worker, client, 0)
        assert app.recv(1) == b""
        assert client.closed


def test_a_client_is_quiet_only_between_transactions_with_nothing_pending() -> None:
    """Not while it waits, has a server, has sent half a message, or has not read its answer."""
    with two({"max_prepared_statements": 0}) as (a, _):
        client, app = a.client()
        assert is_quiet(client)
        app.send(SELECT[:3])
        a.turn()
        assert not is_quiet(client)
        app.send(SELECT[3:])
        a.turn()
        assert not is_quiet(client)
        _, postgres = a.server()
        assert not is_quiet(client)
        postgres.send(message(ord("C"), b"BEGIN\0") + ready_for_query(ord("T")))
        a.turn()
        assert not is_quiet(client)
        app.send(SELECT)
        a.turn()
        postgres.send(DONE)
        a.turn()
        assert is_quiet(client)
        client.out = b"unread"
        assert not is_quiet(client)


def test_a_guarded_client_is_quiet_when_its_door_is() -> None:
    """Half a message may be kept there, too."""
    with two(session_state="error") as (a, b):
        client, app = a.client()
        there = move(a, b, client)
        app.send(SELECT[:7])
        b.turn()
        assert not is_quiet(there)


@pytest.mark.parametrize("secret", [PlainSecret("s"), Md5Secret("0" * 32), None])
def test_what_log_ins_to_the_server_need_comes_along(
    secret: PlainSecret | Md5Secret | None,
) -> None:
    """The SCRAM keys that fit the pool's secret, and what auth_query has said; the newer answer wins."""
    lookup = {"auth_user": "ann", "user": "ann"}
    with two({"auth_query": "select $1, $1"}, **lookup) as (a, b):
        keys = ScramKeys(b"c" * 32, b"s" * 32)
        a.worker.keep_keys(keys)
        name = ("db", "ann")
        a.worker.found[name] = Found(secret, 5.0)
        client, _ = a.client()
        a.worker.keep_password(*name, "from \udce4 directory")
        move(a, b, client)
        assert b.worker.found[name] == Found(secret, 5.0)
        assert b.worker.passwords == a.worker.passwords
        a.worker.found[name] = Found(ScramSecret(4096, b"x", stored_key(b"c" * 32), b"y" * 32), 4.0)
        client, _ = a.client()
        move(a, b, client)
        assert b.worker.found[name] == Found(secret, 5.0)
        assert b.worker.scram_keys[stored_key(keys.client_key)] == keys


def test_the_work_that_is_to_go_is_made_up_by_chance_and_bounded() -> None:
    """About the ordered share, at most so many clients, and none that would tip the scales."""
    chance = random.Random(5).random
    equal = [Burden(number, 4, movable=True) for number in range(40)]
    chosen = choose(equal, [Shed(1, 0.25, 100), Shed(2, 0.5, 100)], chance)
    assert sorted(chosen.values()) == [1] * 10 + [2] * 20
    assert set(choose(equal, [Shed(1, 0.25, 100)], chance)) != set(range(10))
    assert len(choose(equal, [Shed(1, 0.9, 3)], chance)) == 3
    alone = [Burden("busy", 12, movable=True), Burden("idle", 1, movable=True)]
    assert "busy" not in choose(alone, [Shed(1, 0.5, 100)], chance)
    fixed = [Burden("fixed", 10, movable=False), Burden("free", 2, movable=True)]
    assert choose(fixed, [Shed(1, 0.5, 100)], chance) == {"free": 1}
