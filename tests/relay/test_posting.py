"""What is posted for the end of a batch: nothing overtakes it; who does not take it stops the other side."""

from __future__ import annotations

import socket
from collections.abc import Callable

import attrs

from poolproxy.relay.client import Client
from poolproxy.wire.build import message, query
from tests.relay.harness import DONE, IN_BLOCK, SELECT, Ended, Host, Peer, Relay, relay, row

ANSWER = message(ord("T"), b"\0\0") + DONE
AMID = ANSWER[:-1] + b"T"
# More than the kernel takes for a peer that does not read.
LARGE = message(ord("T"), b"\0\0") + row(50_000) + DONE[:-1] + b"T"


def begin(app: Peer, postgres: Peer) -> None:
    app.send(query("begin"))
    postgres.receive()
    postgres.send(IN_BLOCK)
    app.receive()


def test_an_answer_amid_a_transaction_that_is_not_taken_stops_the_server() -> None:
    """Its next answer would be kept in our memory, too; the client itself may go on sending."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        begin(app, postgres)
        app.send(SELECT)
        postgres.send(LARGE)
        assert client.out
        assert (server.reading, client.reading) == (False, True)
        assert app.receive() == LARGE
        assert (server.reading, client.reading) == (True, True)


def choked(r: Relay) -> tuple[Client, Peer, Peer, int]:
    """(a client whose request PostgreSQL has answered but not read, both peers, bytes of requests)."""
    server, postgres = r.server()
    client, app = r.client()
    text = query("x" * 8000)
    sent = 0
    while not server.out:
        app.send(text)
        sent += len(text)
        if not server.out:
            postgres.send(ANSWER)
            app.receive()
    return client, app, postgres, sent


def test_a_request_that_is_not_taken_stops_the_client() -> None:
    """All of it arrives in the end, and the client is read again."""
    with relay() as r:
        client, app, postgres, sent = choked(r)
        server = client.server
        assert server is not None
        assert not client.reading
        assert len(postgres.receive()) == sent
        assert client.reading
        postgres.send(ANSWER)
        assert app.receive() == ANSWER
        assert list(r.pool.idle) == [server]


def test_an_answer_to_a_request_that_was_not_taken_costs_the_server() -> None:
    """What it is to make of the rest is not certain; the client gets the answer and goes on."""
    with relay() as r:
        client, app, postgres, _ = choked(r)
        server = client.server
        assert server is not None
        postgres.send(ANSWER)
        assert app.receive() == ANSWER
        assert r.host.ends == [Ended(server, "unsafe to reuse", busy=False, ended=False)]
        _, other = r.server()
        app.send(SELECT)
        assert other.receive() == SELECT


def test_an_error_comes_behind_what_was_posted() -> None:
    """In statement mode a client gets the answer that shows the transaction, then the error."""
    with relay(database={"pool_mode": "statement"}) as r:
        _, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(AMID)
        received = app.receive()
        assert received[: len(AMID)] == AMID
        assert received[len(AMID) :][:1] == b"E"


class Amid:
    """Does something within a batch."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.readable = act

    def other_event(self, mask: int) -> None:
        raise AssertionError(mask)

    def crashed(self, error: Exception) -> None:
        raise error


def amid_a_batch(r: Relay, act: Callable[[], None]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def once() -> None:
            r.engine.forget(ours.fileno())
            act()

        r.engine.watch(ours.fileno(), Amid(once))
        theirs.send(b"x")
        r.settle()


def test_a_write_does_not_overtake_what_was_posted() -> None:
    """A connection gets its bytes in the order in which they were given to it."""
    with relay() as r:
        client, app = r.client()

        def act() -> None:
            r.engine.post((client.quick, b"1", client))
            client.write(b"2")
            r.engine.post((client.quick, b"3", client))

        amid_a_batch(r, act)
        assert app.receive() == b"123"


def test_a_close_does_not_overtake_what_was_posted() -> None:
    """An answer and the client's end may be in the same batch; it may have ended its direction only."""
    with relay() as r:
        client, app = r.client()

        def act() -> None:
            r.engine.post((client.quick, DONE, client))
            client.leave("gone")

        amid_a_batch(r, act)
        assert app.receive() == DONE
        assert app.is_closed()


@attrs.define
class PartingHost(Host):
    """Has a look at what the client has got when it may be sent away."""

    seen: list[bytes] = attrs.Factory(list)
    app: Peer | None = None

    def between_transactions(self, client: Client) -> None:
        assert self.app is not None
        self.seen.append(self.app.pull())


def test_a_client_that_is_given_away_has_its_answer() -> None:
    """What is posted would be written here, and what the kernel does not take would be lost."""
    with relay() as r:
        r.host = r.context.host = host = PartingHost(r.engine)
        _, postgres = r.server()
        _, host.app = r.client()
        r.pool.set_draining(True)
        host.app.send(SELECT)
        postgres.send(ANSWER)
        assert host.seen == [ANSWER]
