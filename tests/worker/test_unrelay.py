"""A client in the clear whose connection stays where clients are not to be moved, and how it comes back."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.lowlevel

from poolproxy.ipc.channel import Channel, close_fds
from poolproxy.ipc.messages import (
    ClientArrival,
    ClientArrived,
    ClientMove,
    ClientMoved,
    Gather,
    Message,
    Relayed,
    Retire,
    Unrelay,
)
from poolproxy.relay.client import Client
from poolproxy.relay.client_state import is_quiet
from poolproxy.relay.preparing import PreparingClient
from poolproxy.relay.tls import TlsConnection
from poolproxy.wire.build import message, ready_for_query
from poolproxy.worker import client_moves, holding, pumps
from poolproxy.worker.control import obey
from poolproxy.worker.parting import may_go
from tests.worker.house import House
from tests.worker.moving import DONE, SELECT, two
from tests.worker.test_gathering import HOME, POOL
from tests.worker.test_pumps import (
    OUR_PROXY,
    TLS,
    Contexts,
    connection,
    encrypted,
    relayed,
    tls,
    turns,
)

__all__ = ["tls"]
HERE = 3  # the number of the worker that has the connection, as the acceptor tells it


@contextmanager
def apart(tls: Contexts | None = None) -> Iterator[tuple[House, House, Client, socket.socket]]:
    """Two workers, and a client that the second serves while the first has its connection."""
    with two(OUR_PROXY) as (a, b):
        client, app = encrypted(a, tls) if tls is not None else plain(a)
        b._numbers = itertools.count(100)  # ids are for all workers
        yield a, b, relayed(a, b, client), app


def plain(at: House) -> tuple[Client, socket.socket]:
    """A client that has logged in, and its end."""
    ours, theirs = connection()
    at._sockets += [ours, theirs]
    client = at.new_client(PreparingClient, ours, at.worker.context.tracker.nothing)
    theirs.settimeout(10)
    at.worker.client_up(client, b"")
    return client, theirs


def sent_back(b: House) -> tuple[ClientMove, list[int]]:
    """The client is sent by the second worker; what the acceptor gets."""
    while (received := b.acceptor.receive_nowait()) is not None:
        if isinstance(received[0], ClientMove):
            return received[0], received[1]
    raise AssertionError("it does not go")


def back(a: House, b: House, there: Client) -> Client:
    """What the acceptor does when the first worker has asked for the client; the client as it is there. The
    pool has no home any more.
    """
    obey(a.worker, Gather(POOL, -1, here=False), [])
    assert client_moves.send(b.worker, there, HERE)
    told, fds = sent_back(b)
    obey(a.worker, ClientArrival(told.sockets, told.state, told.server), fds)
    assert ClientArrived(there.id, "") in a.heard()
    obey(b.worker, ClientMoved(there.id, ""), [])
    return a.worker.clients[there.id]


def whole(a: House, client: Client, app: socket.socket) -> None:
    """It is a client as any here, and nothing is left of the relay."""
    assert client.relayed is None
    assert client.sock.getpeername() == app.getsockname()
    assert not a.worker.pumps
    assert not a.worker.departing.pipes


def test_it_is_served_elsewhere_and_its_connection_stays() -> None:
    """As an encrypted one, but that people see no cipher."""
    with apart() as (a, b, there, app):
        assert there.relayed == Relayed("", os.getpid(), *app.getsockname(), *app.getpeername())
        assert len(a.worker.pumps) == 1
        _, postgres = b.server()
        app.send(SELECT)
        turns(a, b)
        assert postgres.recv(999) == SELECT
        postgres.send(DONE)
        turns(b, a)
        assert app.recv(999) == DONE
        app.close()
        turns(a, b)
        assert there.closed
        assert not a.worker.pumps


def test_it_comes_back() -> None:
    """And is served here from then on."""
    with apart() as (a, b, there, app):
        client = back(a, b, there)
        whole(a, client, app)
        assert not b.worker.clients
        _, postgres = a.server()
        app.send(SELECT)
        turns(a)
        assert postgres.recv(999) == SELECT
        postgres.send(DONE)
        turns(a)
        assert app.recv(999) == DONE


def test_an_encrypted_one_comes_back_where_its_pool_has_its_home(tls: Contexts) -> None:
    """With what it has said and what it was told meanwhile, and its cipher; then it can go again."""
    with apart(tls) as (a, b, there, app):
        _, postgres = b.server()
        app.send(SELECT)
        turns(a, b)
        postgres.send(DONE)
        turns(b)
        client = back(a, b, there)
        app.send(SELECT)
        turns(a)
        assert app.recv(999) == DONE
        assert not a.worker.pumps
        assert isinstance(client, TlsConnection)
        assert (client.tls, client.relayed) == (TLS, None)
        _, postgres = a.server()
        turns(a)
        postgres.send(DONE)
        turns(a)
        assert app.recv(999) == DONE
        assert relayed(a, b, client).relayed is not None


@pytest.mark.parametrize("seen", ["", "here", "on the way"])
def test_what_it_has_sent_meanwhile_is_not_lost(seen: str) -> None:
    """Wherever it is when the client comes back: in its socket, in the pipe, or part of it in each."""
    with apart() as (a, b, there, app):
        app.send(SELECT)
        if seen:
            turns(a)
        if seen == "on the way":
            app.send(SELECT[:5])
        client = back(a, b, there)
        app.send(SELECT[5:] if seen == "on the way" else b"")
        turns(a)
        assert client.wait_since
        _, postgres = a.server()
        turns(a)
        postgres.send(DONE)
        turns(a)
        assert app.recv(999) == DONE
        whole(a, client, app)


LONG = message(ord("D"), bytes(range(256)) * 512) + ready_for_query()


def unread(a: House, b: House, app: socket.socket) -> None:
    """The client is slow: of LONG, which it was sent there, little is in its socket, the rest on the way."""
    (pump,) = a.worker.pumps.values()
    app.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    pump.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    _, postgres = b.server()
    app.send(SELECT)
    turns(a, b)
    assert postgres.send(LONG) == len(LONG)
    turns(b, a)


@pytest.mark.parametrize("asks", [True, False])
def test_what_it_has_not_read_yet_comes_first(asks: bool) -> None:
    """A slow client gets all that it was sent there, then what it is sent here, in this order."""
    with apart() as (a, b, there, app):
        unread(a, b, app)
        assert not there.out
        client = back(a, b, there)
        assert client.out
        expected = LONG
        if asks:
            app.send(SELECT)
            _, postgres = a.server()
            turns(a)
            postgres.send(DONE)
            expected += DONE
        received = bytearray()
        while len(received) < len(expected):
            received += app.recv(1 << 16)
            turns(a)
        assert bytes(received) == expected
        whole(a, client, app)


async def later(*_: object) -> None:
    """Nothing is begun yet."""


async def test_it_may_come_back_while_the_pooler_is_being_suspended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it has not read yet waits until it is watched."""
    with apart() as (a, b, there, app):
        unread(a, b, app)
        obey(a.worker, Gather(POOL, -1, here=False), [])
        assert client_moves.send(b.worker, there, HERE)
        told, fds = sent_back(b)
        monkeypatch.setattr(Channel, "flushed", False)
        monkeypatch.setattr(client_moves, "_begin_later", later)
        async with trio.open_nursery() as nursery:
            a.worker.nursery = nursery
            obey(a.worker, ClientArrival(told.sockets, told.state, told.server), fds)
            obey(b.worker, ClientMoved(there.id, ""), [])
        assert a.worker.clients[there.id].out
        app.recv(1 << 16)
        with trio.fail_after(10):
            await holding._flush(a.worker, a.worker.held)


async def test_until_it_is_begun_it_is_not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has sent is here already, so it may neither be sent away nor go on without it."""
    with apart() as (a, b, there, app):
        app.send(SELECT)
        turns(a)
        obey(a.worker, Gather(POOL, -1, here=False), [])
        assert client_moves.send(b.worker, there, HERE)
        told, fds = sent_back(b)
        monkeypatch.setattr(Channel, "flushed", False)
        async with trio.open_nursery() as nursery:
            a.worker.nursery = nursery
            obey(a.worker, ClientArrival(told.sockets, told.state, told.server), fds)
            obey(b.worker, ClientMoved(there.id, ""), [])
            client = a.worker.clients[there.id]
            assert not client.wait_since
            assert not is_quiet(client)
            assert not may_go(client)
            nursery.start_soon(a.worker.channel.flush_forever)
            with trio.fail_after(10):
                while not client.wait_since:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


def test_one_that_says_goodbye_on_the_way_takes_nobody_along() -> None:
    """It is closed as soon as it is back, and no other connection is read for it."""
    with apart() as (a, b, there, app):
        a._numbers = itertools.count(1000)
        innocent, its = plain(a)
        assert innocent.fd == len(a.worker.engine._receivers) - 1
        obey(a.worker, Gather(POOL, -1, here=False), [])
        assert client_moves.send(b.worker, there, HERE)
        told, fds = sent_back(b)
        app.send(message(ord("X"), b""))
        turns(a)
        obey(a.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        obey(b.worker, ClientMoved(there.id, ""), [])
        assert there.id not in a.worker.clients
        its.send(SELECT)
        turns(a)
        assert innocent.wait_since


async def test_one_that_is_back_is_not_sent_to_oneself() -> None:
    """Another order for it may have been on its way."""
    with apart() as (a, b, there, _):
        client = back(a, b, there)
        async with trio.open_nursery() as nursery:
            a.worker.nursery = nursery
            obey(a.worker, Unrelay((client.id,), HERE), [])
        assert a.worker.clients == {client.id: client}


def test_one_that_has_left_meanwhile_is_not_taken() -> None:
    """The other worker hears of its end by the pipe, as ever."""
    with apart() as (a, b, there, app):
        assert client_moves.send(b.worker, there, HERE)
        told, fds = sent_back(b)
        app.close()
        turns(a)
        obey(a.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        refusals = [m for m in a.heard() if isinstance(m, ClientArrived)]
        assert [m.client for m in refusals] == [there.id]
        assert [client.id for client in a.worker.clients.values() if client.id == there.id] == []
        obey(b.worker, ClientMoved(there.id, "no"), [])
        turns(b)
        assert there.closed


def test_one_that_can_not_be_taken_is_relayed_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the relay is undone before the client is whole here."""
    with apart() as (a, b, there, app):
        assert client_moves.send(b.worker, there, HERE)
        told, fds = sent_back(b)
        monkeypatch.setattr(client_moves, "arrived", None)
        obey(a.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        obey(b.worker, ClientMoved(there.id, "no"), [])
        app.send(SELECT)
        turns(a, b)
        assert there.wait_since
        assert len(a.worker.pumps) == 1


def asked(at: House) -> list[Unrelay]:
    at.worker.departing.asked_at = -1e9
    at.heard()
    pumps.tick(at.worker, 0.0)
    return [m for m in at.heard() if isinstance(m, Unrelay)]


def test_who_is_asked_for(tls: Contexts) -> None:
    """All when their pool has no home any more; those in the clear when clients may be moved or this worker
    is to go; not without cause, nor all the time.
    """
    with apart() as (a, b, there, _):
        late, _ = encrypted(a, tls)
        relayed(a, b, late)
        a.worker.homes[POOL] = Gather(POOL, HOME, here=False)
        assert asked(a) == []
        obey(a.worker, Gather(POOL, -1, here=False), [])
        assert [set(told.clients) for told in asked(a)] == [{there.id, late.id}]
        a.worker.homes[POOL] = Gather(POOL, HOME, here=False)
        a.worker.departing.for_good = True
        assert asked(a) == [Unrelay((there.id,))]
        pumps.tick(a.worker, pumps.ASK_EVERY - 0.01)
        assert a.heard() == []
        pumps.tick(a.worker, pumps.ASK_EVERY)
        assert a.heard() == [Unrelay((there.id,))]
        a.worker.departing.for_good = False
        assert asked(a) == []
    with two() as (a, b):
        client, _ = plain(a)
        b._numbers = itertools.count(100)
        assert client_moves.send(a.worker, client, 1, relay=True)
        told, fds = sent_back(a)
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        obey(a.worker, ClientMoved(client.id, ""), [])
        assert asked(a) == [Unrelay((client.id,))]


async def test_they_go_back_as_each_is_quiet() -> None:
    """A busy one when it has its answer; one that has gone is no matter."""
    with apart() as (a, b, there, app):
        _, postgres = b.server()
        app.send(SELECT)
        turns(a, b)
        b.heard()
        async with trio.open_nursery() as nursery:
            b.worker.nursery = nursery
            obey(b.worker, Unrelay((there.id, 4711), HERE), [])
            await trio.sleep(client_moves.CATCH_EVERY * 3)
            assert not [m for m in b.heard() if isinstance(m, ClientMove)]
            postgres.send(DONE)
            turns(b)
        told, fds = sent_back(b)
        assert (told.state.id, told.target) == (there.id, HERE)
        obey(a.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        obey(b.worker, ClientMoved(there.id, ""), [])
        turns(a)
        assert app.recv(999) == DONE


async def test_from_a_worker_that_is_replaced_they_go_on() -> None:
    """It asks for them, moves them as it moves the others, and leaves; nobody is relayed anew."""
    with apart() as (a, b, there, _):
        a.heard()
        async with trio.open_nursery() as nursery:
            a.worker.nursery = nursery
            obey(a.worker, Retire(0.0), [])
            pumps.tick(a.worker, 1e9)
            told: Message | None = None
            with trio.fail_after(10):
                while not isinstance(told, Unrelay):
                    told, _ = await a.acceptor.receive()
            assert told == Unrelay((there.id,))
            assert client_moves.send(b.worker, there, HERE)
            its, fds = sent_back(b)
            obey(a.worker, ClientArrival(its.sockets, its.state, its.server), fds)
            obey(b.worker, ClientMoved(there.id, ""), [])
            with trio.fail_after(10):
                while not isinstance(told, ClientMove):
                    told, fds = await a.acceptor.receive()
            close_fds(fds)
            assert (told.state.relayed, told.target) == (None, HOME)
            assert not a.worker.departing.pipes
            obey(a.worker, ClientMoved(there.id, ""), [])
            with trio.fail_after(10):
                await a.worker.left.wait()
        assert not a.worker.pumps
