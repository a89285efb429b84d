"""Addresses of hosts, roles of servers, and servers whose address is gone."""

from __future__ import annotations

import socket
from time import monotonic

import pytest
import trio
import trio.testing

from poolproxy.ipc.messages import (
    CancelKey,
    Permit,
    PoolKey,
    Resolve,
    Resolved,
    ServersCome,
    ServerYielded,
    Yield,
)
from poolproxy.pool.hosts import Role
from poolproxy.settings.hosts import Host
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.worker import hosts
from poolproxy.worker.control import obey
from poolproxy.worker.greeting import Greeting
from poolproxy.worker.hosts import ROLE_QUERY, RoleUnknown, addresses, ask_role
from poolproxy.worker.streams import Stream
from poolproxy.worker.upstream import ServerLogin
from tests.worker.house import House, house
from tests.worker.moving import two

POOL = PoolKey("db", "ann")


async def test_addresses_need_no_look_up() -> None:
    """IPv4, IPv6 and Unix sockets are where they say."""
    with house() as h:
        found = [await addresses(h.worker, Host(n, 5)) for n in ("10.0.0.1", "::1", "/run", "@pg")]
        assert found == [
            [(socket.AF_INET, ("10.0.0.1", 5))],
            [(socket.AF_INET6, ("::1", 5))],
            [(socket.AF_UNIX, "/run/.s.PGSQL.5")],
            [(socket.AF_UNIX, "\0pg/.s.PGSQL.5")],
        ]
        assert not h.heard()


async def test_a_name_is_asked_for_once() -> None:
    """All that wait for a name get the acceptor's one answer, in its order."""
    with house() as h:
        found = []

        async def ask() -> None:
            found.append(await addresses(h.worker, Host("db", 5)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert h.heard() == [Resolve("db")]
            obey(h.worker, Resolved("db", ("10.0.0.2", "::2"), ""), [])
        both = [(socket.AF_INET, ("10.0.0.2", 5)), (socket.AF_INET6, ("::2", 5))]
        assert found == [both, both]


async def test_servers_at_an_address_that_is_gone_are_closed_when_free() -> None:
    """An idle one at once, one in use later; those at other addresses, or of other names, stay."""
    with house() as h:
        placed = {}
        for name, where in (("db", "10.0.0.1"), ("db", "10.0.0.2"), ("other", "10.0.0.1")):
            server, _ = h.server()
            server.host, server.address = Host(name, 5), (socket.AF_INET, (where, 5))
            placed[name, where] = server
        busy, _ = h.server()
        busy.host, busy.address = Host("db", 5), (socket.AF_INET, ("10.0.0.1", 5))
        h.pool.idle.remove(busy)
        obey(h.worker, Resolved("db", (), "no such name"), [])
        assert not any(server.closed for server in placed.values())
        obey(h.worker, Resolved("db", ("10.0.0.2",), ""), [])
        assert placed["db", "10.0.0.1"].closed
        assert not placed["db", "10.0.0.2"].closed
        assert not placed["other", "10.0.0.1"].closed
        assert busy.doomed
        assert not busy.closed


@pytest.mark.parametrize(("news", "stays"), [("10.0.0.1", True), ("10.0.0.2", False)])
def test_a_server_that_comes_from_an_address_that_is_gone_ends(news: str, *, stays: bool) -> None:
    """It had left its worker before that was told, and comes to one that was told before."""
    with two() as (a, b):
        server, _ = a.server()
        server.host, server.address = Host("db", 5), (socket.AF_INET, ("10.0.0.1", 5))
        fd = socket.dup(server.fd)
        obey(a.worker, Yield(POOL, 1, monotonic()), [])
        (yielded,) = (message for message in a.heard() if isinstance(message, ServerYielded))
        obey(b.worker, Resolved("db", (news,), ""), [])
        obey(b.worker, ServersCome((yielded.server,), 0), [fd])
        assert bool(b.pool.idle) is stays


def opened(h: House, *news: str) -> socket.socket:
    """A server is opened at 10.0.0.1, and this is told of its name meanwhile; the far end."""
    login = ServerLogin(h.worker, h.pool, Permit(1, POOL, keep=False))
    login.host = Host("db", 5)
    login.sock, postgres = h._pair()
    h.pool.opening += 1
    for address in news:
        obey(h.worker, Resolved("db", (address,), ""), [])
    greeting = Greeting(CancelKey(1, b"1234"), {})
    login._succeed((socket.AF_INET, ("10.0.0.1", 5)), greeting, 0.01)
    return postgres


@pytest.mark.parametrize(
    ("news", "stays"), [((), True), (("10.0.0.2", "10.0.0.1"), True), (("10.0.0.2",), False)]
)
def test_a_server_that_was_being_opened_at_an_address_that_is_gone_ends(
    news: tuple[str, ...], *, stays: bool
) -> None:
    """What holds is what was told last."""
    with house() as h:
        opened(h, *news)
        assert bool(h.pool.idle) is stays


@pytest.mark.parametrize("database", [{}, {"connect_query": "select 2"}], ids=["plain", "query"])
def test_who_waits_is_served_by_such_a_server_once(database: dict[str, str]) -> None:
    """Else names that change with each look-up would let nobody through."""
    with house(database=database) as h:
        client, app = h.client()
        app.send(query("select 1"))
        h.turn()
        postgres = opened(h, "10.0.0.2")
        if database:
            postgres.send(answer(b"2"))
            h.turn()
        assert client.server is not None
        assert client.server.doomed


def test_not_more_names_are_remembered_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that were told of last."""
    monkeypatch.setattr(hosts, "REMEMBERED_NAMES", 2)
    with house() as h:
        for name in ("db", "other", "db", "third"):
            obey(h.worker, Resolved(name, ("10.0.0.1",), ""), [])
        assert list(h.worker.places) == ["db", "third"]


def answer(*cells: bytes) -> bytes:
    body = len(cells).to_bytes(2, "big")
    body += b"".join(len(cell).to_bytes(4, "big") + cell for cell in cells)
    return message(ord("D"), body) + message(ord("C"), b"SELECT 1\0") + ready_for_query()


@pytest.mark.parametrize(
    ("cells", "role"),
    [
        ((b"f", b"off"), Role.PRIMARY),
        ((b"f", b"on"), Role.READ_ONLY),
        ((b"t", b"on"), Role.STANDBY),
        ((b"t", b"off"), Role.STANDBY),
    ],
)
async def test_an_old_server_is_asked_for_its_role(cells: tuple[bytes, ...], role: Role) -> None:
    """PostgreSQL before 14 does not report it: one query tells."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.send(answer(*cells))
        assert await ask_role(Stream(ours)) is role
        assert theirs.recv(1000) == query(ROLE_QUERY)


@pytest.mark.parametrize(
    "sent",
    [
        message(ord("E"), b"SERROR\0C42501\0Mpermission denied\0\0"),
        message(ord("C"), b"SELECT 0\0") + ready_for_query(),
        answer(b"f"),
    ],
)
async def test_a_server_that_does_not_tell_is_not_used(sent: bytes) -> None:
    """An error, no row or another row is no role."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.send(sent)
        with pytest.raises(RoleUnknown):
            await ask_role(Stream(ours))
