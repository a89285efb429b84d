"""Clients and servers that end, and what becomes of the other side."""

from __future__ import annotations

import pytest

from poolproxy.wire.build import message, query
from tests.relay.harness import (
    DONE,
    IN_BLOCK,
    SELECT,
    TERMINATE,
    relay,
    row,
)


def test_a_client_that_leaves_in_mid_query_costs_the_server() -> None:
    """Where abandoned_work says so. It may be working on; the host cancels that first (busy)."""
    with relay({"abandoned_work": "close"}) as r:
        server, _ = r.server()
        client, app = r.client()
        app.send(SELECT)
        app.close()
        (end,) = r.host.ends
        assert (end.server, end.busy, end.ended) == (server, True, False)
        assert end.reason == "client disconnect while server was not ready"
        assert r.host.closed == [(client, "client unexpected eof", False)]
        assert not r.pool.servers


def test_a_client_that_leaves_in_a_transaction_costs_the_server() -> None:
    """The same; idle in it, so there is nothing to cancel."""
    with relay({"abandoned_work": "close"}) as r:
        _, postgres = r.server()
        _, app = r.client()
        app.send(query("begin"))
        postgres.send(IN_BLOCK)
        app.close()
        assert [one.busy for one in r.host.ends] == [False]


def test_a_client_that_leaves_between_transactions_costs_nothing() -> None:
    """The usual good-bye."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        postgres.send(DONE)
        app.send(TERMINATE)
        assert r.host.closed == [(client, "client close request", False)]
        assert list(r.pool.idle) == [server]


def test_a_waiting_client_that_leaves_is_forgotten() -> None:
    """The server that comes later is for others."""
    with relay() as r:
        _, app = r.client()
        app.send(SELECT)
        app.close()
        assert not r.pool.waiting
        server, _ = r.server()
        assert list(r.pool.idle) == [server]


def test_a_server_that_ends_in_mid_message_ends_its_client_without_a_word() -> None:
    """An error would be read as the rest of the row."""
    with relay() as r:
        _, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        half = row(1000)[:500]
        postgres.send(half)
        postgres.close()
        assert app.receive() == half
        assert app.is_closed()
        assert r.host.closed == [(client, "server conn crashed?", False)]


def test_a_server_that_ends_between_messages_ends_its_client_with_an_error() -> None:
    """What arrived before is delivered first."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(row(10))
        postgres.close()
        error = app.error()
        assert (error.message, error.sqlstate) == ("server conn crashed?", "08006")
        assert [(one.server, one.ended) for one in r.host.ends] == [(server, True)]


def test_an_idle_server_that_ends_is_gone() -> None:
    """Nobody is told but the host."""
    with relay() as r:
        _, postgres = r.server()
        postgres.close()
        assert not r.pool.idle
        assert [one.ended for one in r.host.ends] == [True]


@pytest.mark.parametrize("reply", ["client", "server"])
def test_a_hang_up_is_seen_while_reading_is_off(reply: str) -> None:
    """epoll reports it whatever is asked for: it must end the connection, not spin."""
    with relay({"abandoned_work": "close"}) as r:
        _, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        postgres.flood(row(10_000_000))
        assert client.out
        (app if reply == "client" else postgres).close()
        assert client.closed
        assert not r.pool.servers


def test_a_violation_ends_both() -> None:
    """A server out of step is never reused, and its client can't know what it has read."""
    with relay() as r:
        _, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(message(ord("1"), b""))
        assert app.error().message == "unknown pkt"
        assert [one.reason for one in r.host.ends] == ["unknown pkt"]


def test_rubbish_from_a_client_ends_it() -> None:
    """With the reason; the server is idle and stays."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(DONE)
        app.receive()
        app.send(b"\xff\0\0\0\4")
        assert app.error().message == "unknown pkt"
        assert list(r.pool.idle) == [server]
