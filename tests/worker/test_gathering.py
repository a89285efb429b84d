"""Clients of a small pool go to its home when nothing of them is under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from poolproxy.ipc.messages import ClientMove, ClientMoved, Gather, PoolKey
from poolproxy.wire.statements import Names
from poolproxy.worker import client_moves
from poolproxy.worker.client_moves import MOST_IN_FLIGHT, RETRY_EVERY
from poolproxy.worker.control import obey
from poolproxy.worker.shedding import Burden
from tests.worker.house import House, house
from tests.worker.test_client_moves import DONE, SELECT

HOME = 7  # another worker
POOL = PoolKey("db", "ann")


@contextmanager
def gathering() -> Iterator[House]:
    """A worker whose pool's home is elsewhere."""
    with house() as at:
        assert at.pool.key == POOL
        obey(at.worker, Gather(POOL, HOME, here=False), [])
        yield at


def gone(at: House) -> list[tuple[int, int]]:
    """The clients that were sent, and where to."""
    told = at.heard()
    return [(m.state.id, m.target) for m in told if isinstance(m, ClientMove)]


def test_a_client_goes_when_its_transaction_ends() -> None:
    """It gets its answer first; what it sends then is read there."""
    with gathering() as at:
        client, app = at.client()
        _, postgres = at.server()
        app.send(SELECT)
        at.turn()
        assert postgres.recv(999) == SELECT
        assert gone(at) == []
        postgres.send(DONE)
        app.setblocking(True)
        at.turn()
        assert app.recv(999) == DONE
        app.send(SELECT)
        assert gone(at) == [(client.id, HOME)]
        at.turn()
        postgres.setblocking(False)
        assert not at.pool.waiting
        assert client.id not in at.worker.clients


def test_one_that_has_sent_more_goes_later() -> None:
    """A client with half a message here stays until that is through."""
    with gathering() as at:
        client, app = at.client()
        _, postgres = at.server()
        app.send(SELECT + SELECT[:3])
        at.turn()
        postgres.send(DONE)
        at.turn()
        assert gone(at) == []
        app.send(SELECT[3:])
        at.turn()
        postgres.send(DONE)
        at.turn()
        assert gone(at) == [(client.id, HOME)]


def test_at_its_home_a_client_stays() -> None:
    """Nothing is done for it there, nor when the pool has no home any more."""
    with gathering() as at:
        for order in (Gather(POOL, 3, here=True), Gather(POOL, -1, here=False)):
            obey(at.worker, order, [])
            assert not at.pool.draining
            client, _ = at.client()
            at.worker.may_leave(client)
            assert gone(at) == []
        assert not at.worker.homes


def test_a_new_pool_knows_of_its_home() -> None:
    """The order may come before the pool's first client."""
    with house() as at:
        obey(at.worker, Gather(POOL, HOME, here=False), [])
        assert at.pool.draining


def test_while_many_are_on_their_way_the_others_wait() -> None:
    """Descriptors in channels are bounded, and after a refusal there is a pause."""
    with gathering() as at:
        client, _ = at.client()
        other, _ = at.client()
        at.worker.may_leave(client)
        assert gone(at) == [(client.id, HOME)]
        obey(at.worker, ClientMoved(client.id, "not wanted there"), [])
        at.worker.may_leave(other)
        assert gone(at) == []
        at.worker.departing.rests_until -= RETRY_EVERY
        departing = at.worker.departing.clients
        departing.update(dict.fromkeys(range(1000, 1000 + MOST_IN_FLIGHT), other))
        at.worker.may_leave(other)
        assert gone(at) == []
        departing.clear()
        at.worker.may_leave(other)
        assert gone(at) == [(other.id, HOME)]


def test_a_client_with_many_statements_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """To pass their texts on would hold the acceptor up for all others."""
    with gathering() as at:
        client, _ = at.client()
        client.names = Names("")
        monkeypatch.setattr(client_moves, "MOST_STATEMENT_BYTES", client.names.size - 1)
        at.worker.may_leave(client)
        assert gone(at) == []
        monkeypatch.undo()
        at.worker.may_leave(client)
        assert gone(at) == [(client.id, HOME)]


async def test_who_was_chosen_by_the_balancing_goes_once() -> None:
    """A client that has gone to its pool's home meanwhile is not sent a second time, nor one that has left,
    nor one whose pool has got a home.
    """
    with house() as at:
        one, _ = at.client()
        other, _ = at.client()
        third, _ = at.client()
        chosen = {one: 3, other: 3, third: 3}
        assert client_moves.send(at.worker, one, HOME)
        other.leave("it has left")
        at.worker.homes[POOL] = Gather(POOL, HOME, here=False)
        with trio.fail_after(5):
            await client_moves._catch(at.worker, chosen)
        assert gone(at) == [(one.id, HOME)]
        assert at.worker.clients == {third.id: third}


async def test_those_that_do_nothing_are_sent_at_once() -> None:
    """All of them, a few at a time; clients of session mode stay."""
    with house() as at, house(database={"pool_mode": "session"}) as sessions:
        clients = [at.client()[0] for _ in range(40)]
        staying, *_ = sessions.session()
        async with trio.open_nursery() as nursery:
            for one in (at, sessions):
                one.worker.nursery = nursery
                obey(one.worker, Gather(POOL, HOME, here=False), [])
        assert sorted(gone(at)) == [(client.id, HOME) for client in clients]
        assert sessions.worker.clients == {staying.id: staying}


async def test_the_balancing_leaves_gathered_clients_where_they_are() -> None:
    """They count for what their worker does, but don't go."""
    with house() as at:
        client, app = at.client()
        at.server()
        obey(at.worker, Gather(POOL, 3, here=True), [])

        async def work() -> None:
            await trio.sleep(0.02)
            app.send(SELECT)
            at.turn()

        found: list[Burden[object]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            found += await client_moves._look(at.worker)
        assert [(one.client, one.movable) for one in found] == [(client, False)]
