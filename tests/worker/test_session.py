"""A server for a client of session mode at its log-in: which one, and what if the log-in fails."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic

import attrs
import pytest
import trio
import trio.testing

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import (
    Accepted,
    Blocked,
    CancelKey,
    Command,
    Configure,
    Hold,
    LoginWant,
    Message,
    NoServer,
    Parameter,
    Permit,
    PoolKey,
    Reclaim,
    ServerClosed,
    ServerUp,
    Yield,
)
from poolproxy.relay.client import Client
from poolproxy.relay.session import SessionClient, SessionServer
from poolproxy.settings.hosts import Host
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.wire.parameters import Values
from poolproxy.wire.startup import startup_message
from poolproxy.worker import leaving
from poolproxy.worker.control import obey
from poolproxy.worker.janitor import tick
from poolproxy.worker.login import serve_socket
from poolproxy.worker.options import Wishes
from poolproxy.worker.reload import reload
from poolproxy.worker.session import Claim, Own, held, take, unblock
from tests.fixtures.toml import to_toml
from tests.worker.house import DATABASE, PROXY, House

POOL = PoolKey("db", "ann")
REPORTED = {"DateStyle": "ISO, MDY", "application_name": ""}
DONE = message(ord("C"), b"SELECT 1\0") + ready_for_query()
NONE: dict[str, str] = {}


class SessionHouse(House):
    """A worker with a pool in session mode. PostgreSQL reports what ``REPORTED`` has."""

    def __init__(self, **database: object) -> None:
        super().__init__({"auth_type": "any"}, {"pool_mode": "session", "pool_size": 5, **database})
        self.pool.welcomed(tuple(Parameter(*item) for item in REPORTED.items()))

    @property
    def defaults(self) -> Values:
        return self.worker.context.tracker.values(REPORTED)

    def own(self, parameters: dict[str, str] = NONE, *, named_by_us: bool = False) -> Own:
        wanted = Wishes("db", "ann", parameters)
        tracker = self.worker.context.tracker
        return Own.of(wanted, tracker, self.defaults, named_by_us=named_by_us)

    def session_server(
        self, parameters: dict[str, str] = NONE, claim: Claim | None = None
    ) -> tuple[SessionServer, socket.socket]:
        """A server that has logged in, opened with these start-up parameters."""
        ours, theirs = self._pair()
        number = next(self._numbers)
        server = SessionServer(
            self.worker.context,
            ours,
            permit=number,
            keep=False,
            pool=self.pool,
            key=CancelKey(number, b"5678"),
            address=(socket.AF_UNIX, "/nowhere"),
            host=Host("127.0.0.1", 5432),
            role=None,
            values=self.worker.context.tracker.values(REPORTED | parameters),
            name=f"S-{number}",
            connected_at=monotonic(),
            welcome=self.pool.welcome,
            wish=self.own(parameters).opened if parameters else None,
        )
        self.pool.opening += 1
        self.worker.server_up(server, ServerUp(number, server.key, 0.01, ()), claim)
        return server, theirs

    def idler(self) -> SessionClient:
        """A client that has had a server since its log-in and does not use it."""
        server, _ = self.session_server()
        self.pool.idle.remove(server)
        ours, _ = self._pair()
        number = next(self._numbers)
        client = SessionClient(
            self.worker.context,
            ours,
            id=number,
            pool=self.pool,
            user="ann",
            key=CancelKey(number, b"1234"),
            values=self.defaults,
            settings=self.worker.config.client("db", "ann"),
            peer="127.0.0.1",
            port=1,
            connected_at=monotonic(),
        )
        client.have(server)
        self.worker.client_up(client, b"")
        return client

    def reload(self, **database: object) -> None:
        """Configure the database anew."""
        tables = {"poolproxy": PROXY, "databases": {"db": {**DATABASE, **database}}}
        reload(self.worker, Configure(2, "test.toml", to_toml(tables), "", bytes(32)))

    def logins(self) -> dict[str, int]:
        return self.pool.stats.session_logins


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
    accepted = Accepted(7, "127.0.0.1", 1, "127.0.0.1", 2, monotonic(), refused=False)
    nursery.start_soon(serve_socket, h.worker, ours, accepted)
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


# -- what is in others' way ----------------------------------------------------------------------------


def waiting_client(h: SessionHouse) -> Client:
    client, app = h.client()
    app.send(query("select 1"))
    h.turn()
    return client


def test_unused_servers_make_room_where_a_limit_is_in_the_way(h: SessionHouse) -> None:
    """As many as clients wait, less the connections that come or go already."""
    idlers = [h.idler() for _ in range(4)]
    for _ in range(2):
        waiting_client(h)
    unblock(h.worker, h.pool)
    assert all(idler.server for idler in idlers)
    h.pool.opening += 1
    obey(h.worker, Blocked(POOL, True), [])
    assert [bool(idler.server) for idler in idlers] == [False, True, True, True]
    tick(h.worker, monotonic())
    assert h.pool.stats.server_closes == {"unused": 1}
    h.pool.opening -= 1
    waiting_client(h)
    tick(h.worker, monotonic())
    assert [bool(idler.server) for idler in idlers] == [False, False, False, True]
    obey(h.worker, Blocked(POOL, False), [])
    waiting_client(h)
    tick(h.worker, monotonic())
    assert h.pool.stats.server_closes == {"unused": 3}


def test_unused_servers_make_room_for_connections_of_their_own(h: SessionHouse) -> None:
    """A log-in that waits for a permit, as one for replication does, can't use an idle server either."""
    special, _ = h.session_server({"geqo": "off"})
    idler = h.idler()
    h.pool.demands |= {8: 1.0, 9: 1.0}
    h.worker.want(h.pool)
    obey(h.worker, Blocked(POOL, True), [])
    assert special.closed
    assert idler.server is None
    h.pool.demands.clear()


def test_the_ledger_takes_unused_servers_back(h: SessionHouse) -> None:
    """Idle ones first, then those that nobody uses, then one that becomes free."""
    idlers = [h.idler() for _ in range(2)]
    idle, _ = h.session_server()
    special, _ = h.session_server({"geqo": "off"})
    obey(h.worker, Reclaim(POOL, 3), [])
    assert idle.closed
    assert special.closed
    assert [bool(idler.server) for idler in idlers] == [False, True]
    assert h.pool.reclaim == 0
    obey(h.worker, Reclaim(POOL, 2), [])
    assert h.pool.reclaim == 1


def test_a_reload_replaces_unused_servers_too(h: SessionHouse) -> None:
    """Who has not used the old server need not begin with it."""
    idler = h.idler()
    special, _ = h.session_server({"geqo": "off"})
    h.reload(pool_mode="transaction")
    assert idler.server is None
    assert special.closed
    assert not idler.closed


def test_unused_servers_do_not_delay_the_end(h: SessionHouse) -> None:
    """SIGINT waits for sessions, but not for those that have not begun."""
    idler = h.idler()
    leaving.begin(h.worker, "servers")
    leaving.look(h.worker)
    assert idler.closed
    assert not h.pool.servers


def test_an_unused_client_is_idle(h: SessionHouse) -> None:
    """client_idle_timeout is for it too, whether it has a server or not."""
    idler = h.idler()
    idler.settings = attrs.evolve(idler.settings, client_idle_timeout=5.0)
    h.worker.idle_limits = True
    tick(h.worker, idler.last_activity + 4.9)
    assert not idler.closed
    tick(h.worker, idler.last_activity + 5.1)
    assert idler.closed
