"""Sessions that go from one worker to another, and orders that reach clients on their way."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from poolproxy.ipc.messages import (
    CancelDone,
    ClientArrival,
    ClientArrived,
    ClientMoved,
    Command,
    Hold,
)
from poolproxy.pool.pool import PAUSED
from poolproxy.relay.client import Client
from poolproxy.relay.client_state import is_quiet
from poolproxy.relay.session import SessionClient
from poolproxy.wire.build import message, ready_for_query
from poolproxy.worker import client_moves
from poolproxy.worker.control import obey
from poolproxy.worker.orders import KILLED
from tests.worker.house import error
from tests.worker.moving import DONE, SELECT, move, sent, two

PAUSE = Hold(0, paused=True, suspended=False, databases=(), disabled=())


@pytest.mark.parametrize("how", ["moved", "refused", "lost"])
def test_a_session_goes_with_its_server(how: str) -> None:
    """Client and server are the next worker's, or both come back, or both end: then without a word, as the
    worker that died may have sent half a row.
    """
    with two(pool_mode="session") as (a, b):
        client, server, app, postgres = a.session()
        assert is_quiet(client)
        told, fds = sent(a, client)
        assert told.sockets == (client.id, server.permit)
        assert not a.pool.servers
        if how == "moved":
            obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
            assert b.heard() == [ClientArrived(client.id, "")]
            obey(a.worker, ClientMoved(client.id, ""), [])
            there, house_ = b.worker.clients[client.id], b
        else:
            for fd in fds:
                socket.socket(fileno=fd).close()
            started: list[Any] = []
            a.worker.start = lambda *task: started.append(task)  # type: ignore[method-assign]
            obey(a.worker, ClientMoved(client.id, "died", lost=how == "lost"), [])
            there, house_ = client, a
        if how == "lost":
            assert app.recv(1) == b""
            assert server.closed
            assert len(started) == 1, "what it may be at work on is cancelled"
            return
        assert there.server is not None
        assert there.server in house_.pool.servers
        assert isinstance(there, SessionClient)
        assert not there.unused
        app.send(SELECT)
        house_.turn()
        assert postgres.recv(1 << 16) == SELECT
        postgres.send(DONE)
        house_.turn()
        assert app.recv(1 << 16) == DONE


def test_a_client_that_is_not_read_yet_is_not_sent_on() -> None:
    """It would be read here when it is another worker's already."""
    with two() as (a, b):
        client, app = a.client()
        told, fds = sent(a, client)
        started: list[Any] = []
        b.worker.start = lambda *task: started.append(task)  # type: ignore[method-assign]
        while b.worker.channel.flushed:
            b.worker.channel.post(CancelDone(1))
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        there = b.worker.clients[client.id]
        assert not client_moves.send(b.worker, there, 0)
        while b.acceptor.receive_nowait() is not None:
            pass
        ((task, *arguments),) = started
        trio.run(task, *arguments)
        app.send(SELECT)
        b.turn()
        assert there.wait_since


@pytest.mark.parametrize("argument", ["", "db"])
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_kill_ends_a_client_that_comes_back(argument: str, mode: str) -> None:
    """It was on its way, and the acceptor did not send it on; others who come later are not meant."""
    with two(pool_mode=mode) as (a, _):
        if mode == "session":
            client: Client
            client, _, app, _ = a.session()
        else:
            client, app = a.client()
        _, fds = sent(a, client)
        obey(a.worker, Command(1, "KILL", argument), [])
        for fd in fds:
            socket.socket(fileno=fd).close()
        obey(a.worker, ClientMoved(client.id, "its worker has not answered KILL"), [])
        assert error(app).message == KILLED.message
        assert not a.pool.servers
        later, _ = a.client()
        assert not later.closed


def test_a_kill_of_another_database_leaves_a_client_that_comes_back() -> None:
    """It goes on where it was."""
    with two() as (a, _):
        client, app = a.client()
        _, fds = sent(a, client)
        obey(a.worker, Command(1, "KILL", "other"), [])
        for fd in fds:
            socket.socket(fileno=fd).close()
        obey(a.worker, ClientMoved(client.id, "refused"), [])
        app.send(SELECT)
        a.turn()
        assert client.wait_since


def test_a_client_that_has_survived_a_kill_can_move_later() -> None:
    """It was logging in then, or was let in by a worker that had read the order before the next one did."""
    with two() as (a, b):
        client, app = a.client()
        for one_ in (a, b):
            obey(one_.worker, Command(1, "KILL", ""), [])
        assert error(app).message == KILLED.message
        survivor, app = a.client()
        survivor.connected_at = client.connected_at
        b.heard()
        there = move(a, b, survivor)
        app.send(SELECT)
        b.turn()
        assert there.wait_since


def test_a_pause_reaches_a_session_on_its_way() -> None:
    """Its server ends as soon as the client has left; at once, if the client has not used it."""
    with two(pool_mode="session") as (a, b):
        client, *_ = a.session()
        told, fds = sent(a, client)
        obey(b.worker, PAUSE, [])
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        server = b.worker.clients[client.id].server
        assert server is not None
        assert server.doomed == PAUSED
        client, *_ = a.session()
        client.taken_at = client.last_activity
        told, fds = sent(a, client)
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        assert b.worker.clients[client.id].server is None
        assert len(b.pool.servers) == 1


def test_nothing_is_read_of_a_client_that_comes_while_all_is_suspended() -> None:
    """What it has sent is read when that is over."""
    with two() as (a, b):
        client, app = a.client()
        told, fds = sent(a, client)
        app.send(SELECT)
        b.worker.engine.suspend()
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        assert not b.worker.clients[client.id].wait_since
        b.worker.engine.resume()
        b.turn()
        assert b.worker.clients[client.id].wait_since


def test_a_session_in_a_transaction_is_not_quiet() -> None:
    """It moves when that is over."""
    with two(pool_mode="session") as (a, _):
        client, _, app, postgres = a.session()
        for answer, quiet in (
            (message(ord("C"), b"BEGIN\0") + ready_for_query(ord("T")), False),
            (DONE, True),
        ):
            app.send(SELECT)
            a.turn()
            assert not is_quiet(client)
            postgres.send(answer)
            a.turn()
            assert is_quiet(client) is quiet
