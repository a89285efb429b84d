"""Sending clients away, in a worker without its tasks."""

from __future__ import annotations

import socket
from time import monotonic

import pytest

from poolproxy.ipc.messages import Drain
from poolproxy.worker import draining, parting
from poolproxy.worker.parting import LULL
from tests.system.protocol_client import query
from tests.worker.house import House, error, house

READY = b"Z\0\0\0\5I"
IN_TRANSACTION = b"Z\0\0\0\5T"


def drain(one: House, database: str = "db", seconds: float = 0.0, deadline: float = 0.0) -> None:
    now = monotonic()
    draining.begin(one.worker, Drain(database, now + seconds, deadline and now + deadline))


def answered(server: socket.socket, one: House, status: bytes) -> None:
    """The server answers an empty query."""
    server.recv(100)
    server.sendall(b"I\0\0\0\4" + status)
    one.turn()


@pytest.mark.parametrize(
    ("database", "text"), [("db", "database is being drained"), ("", "server shutting down")]
)
def test_an_idle_client_goes_at_once(database: str, text: str) -> None:
    """It hears why, and its socket is not closed with a reset before it has closed its end."""
    with house() as one:
        client, theirs = one.client()
        client.last_activity -= 2 * LULL
        drain(one, database)
        fields = error(theirs)
        assert (fields.message, fields.sqlstate) == (text, "57P01")
        assert len(one.worker.goodbyes) == 1
        theirs.close()
        one.turn()
        assert not one.worker.goodbyes
        assert not one.worker.clients


def test_other_databases_clients_stay() -> None:
    """A drain is for one database."""
    with house() as one:
        client, _ = one.client()
        client.last_activity -= 2 * LULL
        drain(one, "another")
        assert one.worker.clients
        assert not one.pool.draining


def test_a_busy_client_is_told_in_place_of_its_next_answer() -> None:
    """Right behind an answer an error would be lost; the next request is answered with it, not executed."""
    with house() as one:
        client, theirs = one.client()
        _, server = one.server()
        theirs.sendall(query(""))
        one.turn()
        drain(one)
        assert not client.closed
        answered(server, one, READY)
        assert theirs.recv(100) == b"I\0\0\0\4" + READY
        assert not client.closed
        theirs.sendall(query("select 1"))
        one.turn()
        assert error(theirs).sqlstate == "57P01"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(100)


def test_a_busy_client_that_falls_silent_is_told_without_asking() -> None:
    """The timer sees it when its library has surely read the answer."""
    with house() as one:
        client, theirs = one.client()
        _, server = one.server()
        theirs.sendall(query(""))
        one.turn()
        drain(one)
        answered(server, one, READY)
        theirs.recv(100)
        parting.tick(one.worker, client.last_activity + 2 * LULL)
        assert error(theirs).sqlstate == "57P01"


def test_a_transaction_is_not_interrupted_before_the_deadline() -> None:
    """Then it is, in a drain that has one."""
    with house() as one:
        client, theirs = one.client()
        _, server = one.server()
        theirs.sendall(query("begin"))
        one.turn()
        server.recv(100)
        server.sendall(b"C\0\0\0\nBEGIN\0" + IN_TRANSACTION)
        one.turn()
        theirs.recv(100)
        client.last_activity -= 2 * LULL
        drain(one, deadline=5.0)
        draining.tick(one.worker, monotonic() + 1)
        assert not client.closed
        draining.tick(one.worker, monotonic() + 10)
        assert error(theirs).message == "database is being drained"


def test_a_client_that_is_not_read_yet_is_served() -> None:
    """What it has sent before it could know is answered."""
    with house() as one:
        client, theirs = one.client()
        client.last_activity -= 2 * LULL
        theirs.sendall(query("select 1"))
        drain(one)
        assert not client.closed
        assert client.parting is None


def test_the_servers_of_a_drained_database_are_closed() -> None:
    """When no client has a use for them any more."""
    with house() as one:
        idle, _ = one.server()
        busy, server = one.server()
        _, theirs = one.client()
        theirs.sendall(query(""))
        one.turn()
        drain(one)
        assert not idle.closed
        answered(server, one, READY)
        draining.tick(one.worker, monotonic())
        assert idle.closed
        assert busy.closed
        server.close()
        one.turn()


def test_the_end_of_a_drain() -> None:
    """Clients that were to be told so are not; all is as before."""
    with house() as one:
        client, theirs = one.client()
        drain(one)
        assert client.parting is not None
        draining.begin(one.worker, Drain("db", 0.0))
        assert client.parting is None
        assert not one.worker.drains
        assert one.pool.brisk
        theirs.sendall(query("select 1"))
        one.turn()
        assert client in one.pool.waiting
