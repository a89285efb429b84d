"""Cancel requests on their way to PostgreSQL: none may arrive when its server serves somebody else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from poolproxy.ipc.messages import CancelKey, Relayed
from poolproxy.relay.client import Client
from poolproxy.relay.server import Server
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.wire.startup import cancel_request
from poolproxy.worker.cancel import send_cancel
from poolproxy.worker.client_cancels import cancel_client
from tests.worker.house import House, house

SELECT = query("select 1")
DONE = message(ord("C"), b"SELECT 1\0") + ready_for_query()
FAILED = message(ord("E"), b"SERROR\0C57014\0Mno\0\0") + ready_for_query()
KEY = CancelKey(1, b"1234")
PATIENCE = 10.0  # seconds


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what trio has no event for."""
    deadline = trio.current_time() + PATIENCE
    while not condition():
        assert trio.current_time() < deadline
        await trio.sleep(0.001)


@attrs.define
class Postmaster:
    """Where cancel requests arrive: each is a connection that the test reads and closes."""

    listener: trio.SocketListener
    address: tuple[int, tuple[str, int]]

    async def arrival(self) -> trio.SocketStream:
        """The next connection, with its whole request read."""
        with trio.fail_after(PATIENCE):
            stream = await self.listener.accept()
            assert len(await stream.receive_some(100)) == 16
            return stream


@asynccontextmanager
async def postmaster() -> AsyncIterator[Postmaster]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        where = listener.socket.getsockname()
        yield Postmaster(listener, (socket.AF_INET, where))


@attrs.define
class Scene:
    """A worker with one server, whose cancel requests go to ``postmaster``."""

    h: House
    postmaster: Postmaster
    nursery: trio.Nursery
    outcomes: list[str] = attrs.Factory(list)

    def server(self) -> tuple[Server, socket.socket]:
        server, postgres = self.h.server()
        server.address = self.postmaster.address
        return server, postgres

    def cancel(self, client: Client) -> None:
        cancel_client(self.h.worker, client.key, self.outcomes.append)

    def answer(self, postgres: socket.socket, data: bytes) -> None:
        postgres.send(data)
        self.h.turn()

    async def outcome(self, *expected: str) -> None:
        """Wait until these have come, in any order."""
        await until(lambda: len(self.outcomes) >= len(expected))
        assert sorted(self.outcomes) == sorted(expected)


@asynccontextmanager
async def scene(**proxy: object) -> AsyncIterator[Scene]:
    async with postmaster() as there, trio.open_nursery() as nursery:
        with house(proxy, nursery=nursery) as h:
            yield Scene(h, there, nursery)
            nursery.cancel_scope.cancel()


async def test_the_query_ends_just_before_its_cancel_arrives() -> None:
    """The server is handed on when PostgreSQL has closed the canceller's connection, not before."""
    async with scene() as s:
        server, postgres = s.server()
        client, _ = s.h.client(SELECT)
        s.cancel(client)
        canceller = await s.postmaster.arrival()
        other, _ = s.h.client(SELECT)
        s.answer(postgres, DONE)
        assert client.server is None
        assert other.server is None
        await wait_all_tasks_blocked()
        assert not s.outcomes
        await canceller.aclose()
        await s.outcome("sent")
        assert other.server is server


async def test_a_query_that_ends_before_its_cancel_is_sent_is_left_alone() -> None:
    """Nothing is sent any more, and the server serves the next at once."""
    async with scene() as s:
        server, postgres = s.server()
        client, _ = s.h.client(SELECT)
        s.cancel(client)
        s.answer(postgres, DONE)
        other, _ = s.h.client(SELECT)
        assert other.server is None
        await s.outcome("nothing_to_cancel")
        assert other.server is server


async def test_many_cancels_at_once_are_one_connection_at_a_time() -> None:
    """Those that come while one is on its way share the next: its signal may have come too early for them."""
    async with scene() as s:
        server, postgres = s.server()
        client, _ = s.h.client(SELECT)
        s.cancel(client)
        first = await s.postmaster.arrival()
        for _ in range(500):
            s.cancel(client)
        await wait_all_tasks_blocked()
        await first.aclose()
        second = await s.postmaster.arrival()
        assert s.outcomes == ["sent"]
        s.answer(postgres, FAILED)
        assert server not in s.h.pool.idle
        await second.aclose()
        await s.outcome(*["sent"] * 501)
        assert server.cancels == 0
        assert list(s.h.pool.idle) == [server]


async def test_a_cancel_that_hangs_costs_the_server_and_hits_nobody() -> None:
    """It was sent, so it may arrive at any time: cancel_wait_timeout lets go of the canceller alone."""
    async with scene(cancel_wait_timeout="50ms") as s:
        server, postgres = s.server()
        client, _ = s.h.client(SELECT)
        s.cancel(client)
        canceller = await s.postmaster.arrival()
        await s.outcome("unconfirmed")
        other, _ = s.h.client(SELECT)
        s.answer(postgres, DONE)
        assert server.closed
        assert other.server is None
        assert other in s.h.pool.waiting
        assert s.h.pool.stats.server_closes == {"cancel_unconfirmed": 1}
        await canceller.aclose()


async def test_a_cancel_whose_connection_breaks_costs_the_server() -> None:
    """Nobody knows whether PostgreSQL had read it."""
    async with scene() as s:
        server, postgres = s.server()
        client, _ = s.h.client(SELECT)
        s.cancel(client)
        canceller = await s.postmaster.arrival()
        linger = b"\1\0\0\0\0\0\0\0"
        canceller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await canceller.aclose()
        await s.outcome("unconfirmed")
        s.answer(postgres, DONE)
        assert server.closed


async def test_a_cancel_that_cannot_be_sent_costs_nothing() -> None:
    """PostgreSQL has never heard of it."""
    async with scene() as s:
        server, postgres = s.server()
        server.address = (socket.AF_UNIX, "/nowhere")
        client, _ = s.h.client(SELECT)
        s.cancel(client)
        await s.outcome("failed")
        s.answer(postgres, DONE)
        assert list(s.h.pool.idle) == [server]


async def test_a_connection_that_is_never_made_is_a_timeout() -> None:
    """A full queue of a Unix socket: nothing was sent."""
    with socket.socket(socket.AF_UNIX) as full:
        full.bind("\0poolproxy-test-cancel-" + str(id(full)))
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for sock in (first, second):
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())
            address = (socket.AF_UNIX, full.getsockname())
            assert await send_cancel(address, KEY, 0.05) == "timeout"


async def test_a_cancel_for_a_client_that_has_left_does_nothing() -> None:
    """Also when its server serves another by then."""
    async with scene() as s:
        _, postgres = s.server()
        client, app = s.h.client(SELECT)
        s.answer(postgres, DONE)
        app.close()
        s.h.turn()
        other, _ = s.h.client(SELECT)
        assert other.server is not None
        s.cancel(client)
        assert s.outcomes == ["nothing_to_cancel"]
        assert other.server.cancels == 0


async def test_a_client_that_leaves_after_its_cancel() -> None:
    """The server is cancelled for as long as it works, and serves the next when both are over."""
    async with scene() as s:
        server, postgres = s.server()
        client, app = s.h.client(SELECT)
        s.cancel(client)
        first = await s.postmaster.arrival()
        app.close()
        s.h.turn()
        assert client.closed
        other, _ = s.h.client(SELECT)
        s.answer(postgres, FAILED)
        assert other.server is None
        await first.aclose()
        await s.outcome("sent")
        await until(lambda: other.server is not None)
        assert other.server is server


async def test_abandoned_work_is_cancelled_again_and_again() -> None:
    """A cancel that comes before its query is read is lost, and of a pipeline it ends one statement."""
    async with scene() as s:
        server, postgres = s.server()
        _, app = s.h.client(SELECT)
        app.close()
        s.h.turn()
        for _ in range(2):
            await (await s.postmaster.arrival()).aclose()
        last = await s.postmaster.arrival()
        s.answer(postgres, FAILED)
        assert server not in s.h.pool.idle
        await last.aclose()
        await until(lambda: server in s.h.pool.idle)
        assert s.h.pool.stats.abandoned == {"reused": 1}


async def test_a_query_that_came_before_its_cancel_is_read_before_it() -> None:
    """Whichever of the two the worker would have looked at first."""
    async with scene() as s:
        s.server()
        client, app = s.h.client()
        app.send(SELECT)
        s.cancel(client)
        await (await s.postmaster.arrival()).aclose()
        await s.outcome("sent")


async def test_a_client_that_is_not_read_from_is_not_for_the_sake_of_a_cancel() -> None:
    """It has yet to take what it was sent."""
    async with scene() as s:
        s.server()
        client, app = s.h.client()
        client.pause()
        app.send(SELECT)
        s.cancel(client)
        assert s.outcomes == ["nothing_to_cancel"]
        assert client.server is None


async def test_a_client_that_has_just_come_is_read_when_it_may_be() -> None:
    """Not before the acceptor can hear that it has arrived."""
    async with scene() as s:
        s.server()
        client, app = s.h.client()
        s.h.worker.departing.unread.add(client.id)
        app.send(SELECT)
        s.cancel(client)
        assert client.server is None
        assert not s.outcomes
        s.h.worker.departing.unread.clear()
        await (await s.postmaster.arrival()).aclose()
        await s.outcome("sent")


async def test_a_relayed_client_that_leaves_meanwhile_is_looked_for_elsewhere() -> None:
    async with scene() as s:
        client, _ = s.h.client()
        client.relayed = Relayed("", 1)
        missed: list[bool] = []
        cancel_client(s.h.worker, client.key, s.outcomes.append, lambda: missed.append(True))
        s.h.worker.let_out(client)
        await until(lambda: missed == [True])
        assert not s.outcomes


@pytest.mark.parametrize("late", [True, False])
async def test_a_relayed_query_may_come_after_its_cancel(late: bool) -> None:
    """The worker that has the connection passes it on when its turn comes; or there is none."""
    async with scene() as s:
        s.server()
        client, app = s.h.client()
        client.relayed = Relayed("", 1)
        s.cancel(client)
        if late:
            app.send(SELECT)
            s.h.turn()
            await (await s.postmaster.arrival()).aclose()
        await s.outcome("sent" if late else "nothing_to_cancel")


async def test_a_cancel_of_a_waiting_client_needs_no_server() -> None:
    """It is answered at once, and PostgreSQL hears nothing."""
    async with scene() as s:
        client, app = s.h.client(SELECT)
        s.cancel(client)
        assert s.outcomes == ["waiting"]
        assert app.recv(1000).endswith(ready_for_query())
        assert not client.closed
        s.cancel(client)
        assert s.outcomes == ["waiting", "nothing_to_cancel"]


@pytest.mark.parametrize("words", [b"", b"EFATAL: could not fork\0"])
async def test_a_cancel_is_over_when_postgresql_has_closed(words: bytes) -> None:
    """Whatever it says before; the request is the protocol's."""
    async with postmaster() as there, trio.open_nursery() as nursery:
        outcomes: list[str] = []

        async def send() -> None:
            outcomes.append(await send_cancel(there.address, KEY, PATIENCE))

        nursery.start_soon(partial(send))
        stream = await there.listener.accept()
        assert await stream.receive_some(100) == cancel_request(1, b"1234")
        await wait_all_tasks_blocked()
        assert not outcomes
        await stream.send_all(words)
        await stream.aclose()
        await until(lambda: bool(outcomes))
        assert outcomes == ["sent"]
