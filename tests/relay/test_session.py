"""Session mode: who gets a server that was opened with start-up parameters, and who loses an unused one."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator, Mapping
from time import monotonic

import pytest

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import CancelKey
from poolproxy.relay.client import Client
from poolproxy.relay.server import Server
from poolproxy.relay.session import (
    UNSUITABLE,
    UNUSED,
    SessionClient,
    SessionServer,
    is_unused,
    let_go,
    make_room,
    ready,
)
from poolproxy.settings.hosts import Host
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.wire.parameters import Values
from tests.relay.harness import DATABASE, DONE, FAILED, SELECT, Peer, Relay

REPORTED = {"DateStyle": "ISO, MDY", "TimeZone": "UTC", "application_name": ""}
DISCARD = query("DISCARD ALL")


class SessionRelay(Relay):
    """A relay whose pool is in session mode. PostgreSQL reports what ``REPORTED`` has."""

    ids = itertools.count(1)

    def wish(self, parameters: Mapping[str, str]) -> Values:
        tracker = self.context.tracker
        return tracker.wished(parameters, tracker.values(REPORTED))

    def session_client(
        self, server: Server | None = None, early: bytes = b"", **parameters: str
    ) -> tuple[Client, Peer]:
        ours, theirs = self._pair()
        client = SessionClient(
            self.context,
            ours,
            id=next(self.ids),
            pool=self.pool,
            user="ann",
            key=CancelKey(1, b"1234"),
            values=self.wish(parameters),
            settings=self.config.client("db", "ann"),
            peer="127.0.0.1",
            port=1,
            connected_at=monotonic(),
        )
        if server is not None:
            client.have(server)
        client.begin(early)
        return client, Peer(self, theirs)

    def session_server(self, *, held: bool = False, **own: str) -> tuple[SessionServer, Peer]:
        """``own``: the start-up parameters that it is opened with; ``held``: it is not for anybody yet."""
        ours, theirs = self._pair()
        tracker = self.context.tracker
        reported = {name: own.get(name, value) for name, value in REPORTED.items()}
        server = SessionServer(
            self.context,
            ours,
            permit=next(self.ids),
            keep=False,
            pool=self.pool,
            key=CancelKey(1, b"5678"),
            address=(socket.AF_UNIX, "/nowhere"),
            host=Host("127.0.0.1", 5432),
            role=None,
            values=tracker.values(reported),
            name="S",
            connected_at=monotonic(),
            welcome=(),
            wish=self.wish(own) if own else None,
        )
        self.pool.servers.add(server)
        server.watch()
        if not held:
            server.pass_on(monotonic())
        return server, Peer(self, theirs)

    def ends(self) -> list[str]:
        return [end.reason for end in self.host.ends]


@pytest.fixture
def r() -> Iterator[SessionRelay]:
    one = SessionRelay({}, {**DATABASE, "pool_mode": "session"})
    yield one
    one.close()


def test_servers_that_were_opened_alike_are_equal(r: SessionRelay) -> None:
    """With the same parameters, whatever the server makes of them; or where it makes no difference."""
    plain, _ = r.session_server()
    german, _ = r.session_server(DateStyle="German")
    special, _ = r.session_server(geqo="off", role="x")
    assert plain.equals(r.wish({}))
    assert plain.equals(r.wish({"DateStyle": "iso, mdy"}))
    assert german.equals(r.wish({"datestyle": "German"}))
    assert special.equals(r.wish({"geqo": "off"}))
    for server, other in (
        (plain, {"geqo": "off"}),
        (german, {}),
        (special, {}),
        (plain, {"TimeZone": "x"}),
    ):
        assert not server.equals(r.wish(other))


def test_only_unreported_parameters_make_a_server_special(r: SessionRelay) -> None:
    """What is reported can be set for anybody; what is not was for clients with the same."""
    german, _ = r.session_server(DateStyle="German")
    special, _ = r.session_server(geqo="off")
    assert list(r.pool.idle) == [german]
    assert list(r.pool.aside) == [special]
    assert r.pool.resting() == [german, special]
    assert german.suits(r.wish({"geqo": "off"}))
    assert special.suits(r.wish({"geqo": "off", "role": "x"}))
    assert not special.suits(r.wish({}))


def test_a_client_is_brought_to_its_own_values(r: SessionRelay) -> None:
    """A server that was opened for another client gets what this one has, or would have had."""
    server, postgres = r.session_server(DateStyle="German")
    _, app = r.session_client()
    app.send(SELECT)
    assert postgres.receive() == query("SELECT pg_catalog.set_config('DateStyle','ISO, MDY',false)")
    postgres.send(DONE)
    assert postgres.receive() == SELECT
    assert server.client is not None


def test_a_waiting_client_that_a_special_server_suits_gets_it(r: SessionRelay) -> None:
    """It has what this client wants already, so nothing is set."""
    client, app = r.session_client(geqo="off")
    app.send(SELECT)
    server, postgres = r.session_server(geqo="off")
    assert client.server is server
    assert postgres.receive() == SELECT


def test_a_special_server_is_closed_for_a_waiting_client_that_it_does_not_suit(
    r: SessionRelay,
) -> None:
    """Its permit is worth more than the server."""
    client, app = r.session_client()
    app.send(SELECT)
    r.session_server(geqo="off")
    assert r.ends() == [UNSUITABLE]
    assert client in r.pool.waiting


def test_after_a_reset_a_special_server_has_its_own_values_again(r: SessionRelay) -> None:
    """RESET ALL goes back to what it was opened with, so the next client needs no more."""
    server, postgres = r.session_server(held=True, geqo="off")
    client, app = r.session_client(server, geqo="off")
    app.send(SELECT)
    assert postgres.receive() == SELECT
    postgres.send(DONE)
    app.close()
    assert postgres.receive() == DISCARD
    postgres.send(DONE)
    assert client.closed
    assert list(r.pool.aside) == [server]
    assert server.values == server.initial == r.wish({"geqo": "off"})


def test_a_client_has_its_server_before_its_first_query(r: SessionRelay) -> None:
    """The query goes there at once, and the server stays with the client after it."""
    server, postgres = r.session_server(held=True)
    client, app = r.session_client(server)
    assert is_unused(client)
    app.send(SELECT)
    assert not is_unused(client)
    assert postgres.receive() == SELECT
    postgres.send(DONE)
    assert app.receive() == DONE
    assert client.server is server
    assert not is_unused(client)
    assert let_go(r.pool, 9) == 0


def test_a_client_that_has_begun_to_send_uses_its_server(r: SessionRelay) -> None:
    """Even a part of a header counts."""
    server, _ = r.session_server(held=True)
    client, app = r.session_client(server)
    app.send(SELECT[:2])
    assert not is_unused(client)


def test_early_bytes_go_to_the_server(r: SessionRelay) -> None:
    """A client may send its first query before it has heard that it is in."""
    server, postgres = r.session_server(held=True)
    r.session_client(server, SELECT)
    assert postgres.receive() == SELECT


def test_an_unused_server_needs_no_reset(r: SessionRelay) -> None:
    """A client that leaves without a query gives it back as it was."""
    server, postgres = r.session_server(held=True)
    _, app = r.session_client(server)
    app.send(message(ord("X"), b""))
    assert postgres.receive() == b""
    assert list(r.pool.idle) == [server]


def test_the_unused_server_of_a_client_is_closed_and_the_client_lives_on(r: SessionRelay) -> None:
    """The longest unused first; the client gets another server when it needs one."""
    servers = [r.session_server(held=True)[0] for _ in range(3)]
    clients = [r.session_client(server) for server in servers]
    assert let_go(r.pool, 2) == 2
    assert r.ends() == [UNUSED] * 2
    assert [client.server for client, _ in clients] == [None, None, servers[2]]
    client, app = clients[0]
    app.send(SELECT)
    assert client in r.pool.waiting
    _, postgres = r.session_server()
    assert postgres.receive() == SELECT
    postgres.send(DONE)
    assert app.receive() == DONE


def test_a_client_that_has_heard_its_servers_farewell_goes_with_it(r: SessionRelay) -> None:
    """PostgreSQL's FATAL error has reached it: it must not go on, with another server or none."""
    server, postgres = r.session_server(held=True)
    _, app = r.session_client(server)
    farewell = message(ord("E"), b"SFATAL\0C57P01\0Mgo\0\0")
    postgres.send(farewell)
    assert app.receive() == farewell
    assert let_go(r.pool, 1) == 0
    postgres.close()
    assert app.error().message == "server conn crashed?"


def test_room_is_made_of_what_serves_nobody(r: SessionRelay) -> None:
    """Special idle servers first, those that a waiting client can use excepted; then unused ones."""
    held, _ = r.session_server(held=True)
    idler, _ = r.session_client(held)
    special, _ = r.session_server(work_mem="1MB")
    for parameters in ({"geqo": "off"}, {}):
        _, app = r.session_client(**parameters)
        app.send(SELECT)
    make_room(r.pool, 1)
    assert r.ends() == [UNSUITABLE]
    assert special.closed
    make_room(r.pool, 1)
    assert r.ends() == [UNSUITABLE, UNUSED]
    assert idler.server is None
    suited, _ = r.session_server(held=True, geqo="off")
    r.pool.aside.append(suited)
    make_room(r.pool, 2)
    assert suited.client is not None
    assert len(r.pool.waiting) == 1


def told(r: SessionRelay, server: Server, values: Values) -> list[tuple[bool, PoolerError | None]]:
    heard: list[tuple[bool, PoolerError | None]] = []
    ready(server, values, monotonic(), lambda *what: heard.append(what))
    r.settle()
    return heard


def test_a_server_that_has_all_is_ready_at_once(r: SessionRelay) -> None:
    """Nothing is asked of it."""
    server, postgres = r.session_server(held=True)
    assert told(r, server, server.values) == [(True, None)]
    assert postgres.receive() == b""


def test_a_server_is_ready_when_it_has_the_values(r: SessionRelay) -> None:
    """It is remembered what was set."""
    server, postgres = r.session_server(held=True)
    wish = r.wish({"geqo": "off"})
    heard = told(r, server, wish)
    assert heard == []
    assert postgres.receive() == query("SELECT pg_catalog.set_config('geqo','off',false)")
    postgres.send(DONE)
    assert heard == [(True, None)]
    assert server.values == wish
    assert server.task is None


def test_a_refused_parameter_is_the_clients_error(r: SessionRelay) -> None:
    """The server is as it was, and goes to the pool."""
    server, postgres = r.session_server(held=True)
    heard = told(r, server, r.wish({"geqo": "perhaps"}))
    postgres.send(FAILED + ready_for_query())
    ((is_ready, error),) = heard
    assert not is_ready
    assert error is not None
    assert error.sqlstate == "42601"
    assert list(r.pool.idle) == [server]


def test_a_server_that_is_lost_is_not_ready(r: SessionRelay) -> None:
    """Whoever waits for it hears so."""
    server, postgres = r.session_server(held=True)
    heard = told(r, server, r.wish({"geqo": "off"}))
    postgres.close()
    assert heard == [(False, None)]
    assert server.closed


def test_a_server_that_fails_its_check_is_not_ready() -> None:
    """It is ended."""
    proxy = {"server_check_delay": "0s", "server_check_query": "select 1"}
    one = SessionRelay(proxy, {**DATABASE, "pool_mode": "session"})
    try:
        server, postgres = one.session_server(held=True)
        heard = told(one, server, one.wish({"geqo": "off"}))
        assert postgres.receive() == SELECT
        postgres.send(FAILED + ready_for_query())
        assert heard == [(False, None)]
        assert server.closed
    finally:
        one.close()
