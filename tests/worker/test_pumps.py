"""An encrypted client goes to its pool's home while its connection stays: what both workers do."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest
import trio
import trio.testing

from poolproxy.ipc.messages import (
    ClientArrival,
    ClientArrived,
    ClientMove,
    ClientMoved,
    ClientsGone,
    Gather,
    Leave,
    Message,
    Relayed,
    RelayEnds,
    Retire,
)
from poolproxy.relay.client import Client
from poolproxy.relay.client_state import can_be_relayed
from poolproxy.relay.preparing import PreparingClient
from poolproxy.relay.session import SessionClient
from poolproxy.relay.tls import TlsConnection, over_tls
from poolproxy.worker import client_moves, gathering, leaving, pumps, retiring
from poolproxy.worker.control import obey
from tests.fixtures.tls import Certificates, shake_hands
from tests.worker.house import House, house, no_descriptors
from tests.worker.moving import DONE, SELECT, two
from tests.worker.test_gathering import HOME, POOL

OUR_PROXY = {"client_moves": False}
TLS = "TLSv1.3/some_cipher"


@attrs.frozen
class Contexts:
    """Of the worker, and of its clients."""

    ours: ssl.SSLContext
    theirs: ssl.SSLContext


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> Contexts:
    return Contexts(certificates.server_context(), certificates.context())


def encrypted(
    at: House, tls: Contexts, kind: type[Client] = PreparingClient
) -> tuple[Client, ssl.SSLSocket]:
    """A client that has logged in, and its end."""
    plain, far = connection()
    ours = tls.ours.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
    theirs = tls.theirs.wrap_socket(far, server_hostname="127.0.0.1", do_handshake_on_connect=False)
    at._sockets += [ours, theirs]
    shake_hands(theirs, ours)
    client = at.new_client(over_tls(kind), ours, at.worker.context.tracker.nothing)
    assert isinstance(client, TlsConnection)
    client.tls = TLS
    theirs.settimeout(10)
    at.worker.client_up(client, b"")
    return client, theirs


def connection() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
    return near, far


def called(at: House) -> None:
    """The pool's home is elsewhere; nobody has gone yet."""
    at.worker.homes[POOL] = Gather(POOL, HOME, here=False)
    at.worker.apply_orders(at.pool)


def goes(at: House, client: Client) -> tuple[ClientMove, list[int]]:
    """The client is sent; what the acceptor gets."""
    called(at)
    gathering.consider(at.worker, client)
    while (received := at.acceptor.receive_nowait()) is not None:
        if isinstance(received[0], ClientMove):
            return received[0], received[1]
    raise AssertionError("it does not go")


def relayed(a: House, b: House, client: Client) -> Client:
    """What the acceptor does; the client as it is at its new worker."""
    told, fds = goes(a, client)
    assert told.target == HOME
    obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
    assert b.heard()[-1] == ClientArrived(client.id, "")
    obey(a.worker, ClientMoved(client.id, ""), [])
    return b.worker.clients[client.id]


def turns(*houses: House) -> None:
    for _ in range(3):
        for one in houses:
            one.turn()


@contextmanager
def apart(tls: Contexts) -> Iterator[tuple[House, House, Client, ssl.SSLSocket]]:
    """Two workers, and a client that the second serves while the first has its connection."""
    with two(OUR_PROXY) as (a, b):
        client, app = encrypted(a, tls)
        b._numbers = itertools.count(100)  # ids are for all workers
        there = relayed(a, b, client)
        yield a, b, there, app


def test_it_is_served_elsewhere_from_then_on(tls: Contexts) -> None:
    """With all that is known of it, and with what it has sent on the way; the connection stays."""
    with two(OUR_PROXY) as (a, b):
        client, app = encrypted(a, tls)
        told, fds = goes(a, client)
        app.send(SELECT)
        turns(a)
        obey(b.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        obey(a.worker, ClientMoved(client.id, ""), [])
        there = b.worker.clients[client.id]
        assert there.relayed == Relayed(TLS, os.getpid(), *app.getsockname(), *app.getpeername())
        for name in ("id", "key", "user", "peer", "port", "connected_at"):
            assert getattr(there, name) == getattr(client, name), name
        assert (a.pool.clients, b.pool.clients) == (0, 1)
        assert [a.worker.clients, a.worker.departing.clients, a.worker.departing.pipes] == [{}] * 3
        assert len(a.worker.pumps) == 1
        _, postgres = b.server()
        turns(b)
        assert postgres.recv(999) == SELECT
        postgres.send(DONE)
        turns(b, a)
        assert app.recv(999) == DONE


def test_a_busy_one_goes_when_its_transaction_ends(tls: Contexts) -> None:
    """It gets its answer first, and what it has half sent holds it back."""
    with two(OUR_PROXY) as (a, _):
        client, app = encrypted(a, tls)
        called(a)
        _, postgres = a.server()
        app.send(SELECT + SELECT[:3])
        a.turn()
        postgres.send(DONE)
        a.turn()
        assert app.recv(999) == DONE
        assert client.id in a.worker.clients
        app.send(SELECT[3:])
        a.turn()
        postgres.send(DONE)
        a.turn()
        assert client.id not in a.worker.clients
        assert app.recv(999) == DONE


def test_one_that_is_refused_is_whole_again(tls: Contexts) -> None:
    """It goes on where it was, with what it has sent meanwhile, and can go later."""
    with two(OUR_PROXY) as (a, b):
        client, app = encrypted(a, tls)
        _, fds = goes(a, client)
        socket.socket(fileno=fds[0]).close()
        app.send(SELECT)
        turns(a)
        assert not client.wait_since
        obey(a.worker, ClientMoved(client.id, "no room"), [])
        assert client.wait_since
        assert not a.worker.departing.pipes
        assert not a.worker.pumps
        _, postgres = a.server()
        postgres.send(DONE)
        turns(a)
        assert app.recv(999) == DONE
        a.worker.departing.rests_until = 0.0
        relayed(a, b, client)


def test_one_that_is_lost_is_closed(tls: Contexts) -> None:
    """Its new worker may have read of it before it died."""
    with two(OUR_PROXY) as (a, _):
        client, app = encrypted(a, tls)
        _, fds = goes(a, client)
        obey(a.worker, ClientMoved(client.id, "died", lost=True), [])
        assert app.recv(1) == b""
        other = socket.socket(fileno=fds[0])
        assert other.recv(1) == b""
        other.close()
        a.worker.report_gone()
        assert a.heard()[-1] == ClientsGone((client.id,))


def test_where_no_descriptor_is_left_it_stays(tls: Contexts) -> None:
    """It takes a pair of sockets; the client does not notice that there is none, and is not tried again at
    once.
    """
    with two(OUR_PROXY) as (a, _):
        client, app = encrypted(a, tls)
        called(a)
        a.heard()
        with no_descriptors():
            gathering.consider(a.worker, client)
        gathering.consider(a.worker, client)
        assert not [m for m in a.heard() if isinstance(m, ClientMove)]
        app.send(SELECT)
        a.turn()
        assert client.wait_since


def test_sessions_stay_and_so_does_who_has_sent_more(tls: Contexts) -> None:
    """A session is bound to its server; and nothing may be left in OpenSSL."""
    with house() as at:
        client, app = encrypted(at, tls)
        assert can_be_relayed(client)
        app.send(b"x" * 2000)
        assert isinstance(client, TlsConnection)
        client.sock.read(1000)
        assert not can_be_relayed(client)
    with house(database={"pool_mode": "session"}) as at:
        client, _ = encrypted(at, tls, SessionClient)
        assert not can_be_relayed(client)


def test_who_is_relayed_goes_on_to_another_home(tls: Contexts) -> None:
    """No further away from its connection; that of another one stays."""
    with apart(tls) as (a, b, there, app):
        plain, _ = b.client()
        b.heard()
        b.worker.start = lambda *task: None  # type: ignore[method-assign]
        obey(b.worker, Gather(POOL, 3, here=False), [])
        for one in (plain, there):
            b.worker.may_leave(one)
        moves = [m for m in b.heard() if isinstance(m, ClientMove)]
        assert [m.state.id for m in moves] == [plain.id, there.id]
        assert list(b.worker.departing.pipes) == [plain.id]
        assert moves[1].state.relayed == there.relayed
        assert there.id not in b.worker.clients
        assert len(a.worker.pumps) == 1
        obey(b.worker, ClientMoved(there.id, "no room"), [])
        app.send(SELECT)
        turns(a, b)
        assert there.wait_since


def test_its_pools_home_may_come_to_be_where_its_connection_is(tls: Contexts) -> None:
    """It is served there, and not a byte of it goes out in the clear; when it leaves nothing is left."""
    with apart(tls) as (a, b, there, app):
        told, fds = goes(b, there)
        obey(a.worker, Gather(POOL, 3, here=True), [])
        obey(a.worker, ClientArrival(told.sockets, told.state, told.server), fds)
        obey(b.worker, ClientMoved(there.id, ""), [])
        again = a.worker.clients[there.id]
        app.send(SELECT)
        _, postgres = a.server()
        turns(a)
        assert postgres.recv(999) == SELECT
        postgres.send(DONE)
        turns(a)
        assert app.recv(999) == DONE
        app.close()
        turns(a)
        assert again.closed
        assert not a.worker.pumps
        assert not a.worker.clients


def test_the_lane_and_the_pool_know_of_a_lone_server() -> None:
    """From the order, until the next one; also a pool that comes later."""
    with house() as at:
        for lone in (True, False, True):
            obey(at.worker, Gather(POOL, HOME, here=False, lone=lone), [])
            assert at.worker.lane.lone == ({POOL} if lone else set())
            assert at.pool.lone is lone
        del at.worker.pools[POOL]
        again = at.worker.pool(at.pool.settings)
        assert again.lone
        obey(at.worker, Gather(POOL, -1, here=False), [])
        assert not at.worker.lane.lone
        assert not again.lone


def test_of_a_larger_pool_nobody_is_relayed(tls: Contexts) -> None:
    """As the order says; the next one may say otherwise, and nothing is kept of it when there is no home."""
    with house() as at:
        client, _ = encrypted(at, tls)
        at.worker.start = lambda *task: None  # type: ignore[method-assign]
        obey(at.worker, Gather(POOL, HOME, here=False, relay=False), [])
        gathering.consider(at.worker, client)
        assert at.worker.clients == {client.id: client}
        obey(at.worker, Gather(POOL, -1, here=False, relay=False), [])
        assert not at.worker.homes
        obey(at.worker, Gather(POOL, HOME, here=False), [])
        gathering.consider(at.worker, client)
        assert not at.worker.clients


def test_the_balancing_leaves_it_there(tls: Contexts) -> None:
    """Wherever it went it would be relayed."""
    with apart(tls) as (_, b, there, _):
        plain, _ = b.client()
        assert client_moves._may_go(b.worker, plain)
        assert not client_moves._may_go(b.worker, there)


def test_when_it_leaves_the_other_worker_sees_it(tls: Contexts) -> None:
    """And nothing is left of it here."""
    with apart(tls) as (a, b, there, app):
        app.close()
        turns(a, b)
        assert there.closed
        assert not a.worker.pumps
        for one in (a, b):
            one.worker.report_gone()
        assert ClientsGone((there.id,)) in b.heard()
        assert not [m for m in a.heard() if isinstance(m, ClientsGone)]


def test_what_the_other_worker_tells_it_arrives_before_the_end(tls: Contexts) -> None:
    """The connection is open until the client has closed it, so it can't lose the error."""
    with apart(tls) as (a, b, there, app):
        there.fail(retiring.TOO_LATE)
        turns(b, a)
        assert b"worker is being replaced" in app.recv(999)
        assert app.recv(1) == b""
        assert not a.worker.pumps
        assert len(a.worker.goodbyes) == 1
        app.close()
        turns(a)
        assert not a.worker.goodbyes


def test_a_client_that_does_not_read_is_closed_in_the_end(tls: Contexts) -> None:
    """When the other worker has let go of it, it is waited for only so long."""
    with apart(tls) as (a, _, _, _):
        (pump,) = a.worker.pumps.values()
        pumps.tick(a.worker, 1e9)
        assert a.worker.pumps
        pump.deadline = 7.0
        pumps.tick(a.worker, 7.0)
        assert not a.worker.pumps


@pytest.mark.parametrize("mode", ["clients", "retire", "servers"])
def test_a_worker_that_leaves_waits_for_them(mode: str, tls: Contexts) -> None:
    """Other workers send these clients away."""
    with apart(tls) as (a, _, there, _):
        obey(a.worker, Leave(mode), [])
        leaving.look(a.worker)
        assert not a.worker.left.is_set()
        there.leave("bye")
        turns(a)
        for closing in list(a.worker.goodbyes):
            closing.end(clean=False)
        leaving.look(a.worker)
        assert a.worker.left.is_set()


async def test_a_replaced_worker_waits_for_them_until_its_deadline(
    tls: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the other worker is asked to tell them why, and what is left after a while ends all the same."""
    monkeypatch.setattr(retiring, "GOODBYE", 0.5)
    with apart(tls) as (a, b, there, app):
        late, its = encrypted(a, tls)
        other = relayed(a, b, late)
        a.heard()
        async with trio.open_nursery() as nursery:
            a.worker.nursery = nursery
            obey(a.worker, Retire(0.2), [])
            with trio.fail_after(10):
                told: Message | None = None
                while not isinstance(told, RelayEnds):
                    told, _ = await a.acceptor.receive()
                assert told == RelayEnds((there.id, late.id))
                obey(b.worker, RelayEnds((there.id, 12345)), [])
                turns(b, a)
                assert b"worker is being replaced" in app.recv(999)
                assert app.recv(1) == b""
                await a.worker.left.wait()
        assert not a.worker.pumps
        assert its.recv(1) == b""
        turns(b)
        assert other.closed


async def test_an_orphan_does_not_hold_on_to_them(tls: Contexts) -> None:
    """Those on their way are closed at once, the others when the other worker has closed them."""
    with apart(tls) as (a, b, there, app):
        late, its = encrypted(a, tls)
        goes(a, late)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leaving.as_orphan, a.worker)
            await trio.testing.wait_all_tasks_blocked()
            assert not a.worker.departing.pipes
            assert its.recv(1) == b""
            assert not a.worker.left.is_set()
            there.fail(leaving.SHUTTING_DOWN)
            turns(b, a)
            assert b"shutting down" in app.recv(999)
            with trio.fail_after(10):
                await a.worker.left.wait()
