"""The short way for whole requests and answers does what the general way does."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from poolproxy.relay.client import Client
from poolproxy.relay.engine import CHUNK
from poolproxy.relay.server import Server
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.wire.statements import statement_name
from tests.relay import harness
from tests.relay.harness import DONE, IN_BLOCK, SELECT, SYNC, Peer, Relay, relay, report

TAIL = message(ord("D"), b"P\0") + message(ord("E"), bytes(5)) + SYNC
BATCH = message(ord("P"), b"\0select 1\0\0\0") + message(ord("B"), bytes(8)) + TAIL
DESCRIBED = message(ord("T"), b"\0\0")
PARSED, BOUND = message(ord("1"), b""), message(ord("2"), b"")
EXECUTION = message(ord("B"), b"\0name\0" + bytes(6)) + TAIL
IN_TRANSACTION = DESCRIBED + DONE[:-1] + b"T"
COMMITTED = message(ord("C"), b"COMMIT\0") + ready_for_query()

EXCHANGES = {
    "query": [(SELECT, DESCRIBED + DONE)],
    "no rows": [(query("insert"), message(ord("C"), b"INSERT 0 1\0") + ready_for_query())],
    "batch": [(BATCH, PARSED + BOUND + DESCRIBED + DONE)],
    "setting": [(query("set x = 1"), message(ord("C"), b"SET\0") + ready_for_query())],
    "error": [(SELECT, harness.FAILED + ready_for_query())],
    "transaction": [
        (query("begin"), IN_BLOCK),
        (SELECT, IN_TRANSACTION),
        (BATCH, PARSED + BOUND + IN_TRANSACTION),
        (query("commit"), COMMITTED),
    ],
    "rows that end a transaction": [(query("begin"), IN_BLOCK), (SELECT, DESCRIBED + DONE)],
    "two in a row": [(SELECT, DESCRIBED + DONE), (BATCH, PARSED + BOUND + DESCRIBED + DONE)],
}
SETUPS: dict[str, Callable[[Relay, Server], None]] = {
    "usual": lambda r, server: None,
    "doomed": lambda r, server: setattr(server, "doomed", "gone"),
    "expired": lambda r, server: setattr(server, "expires_at", monotonic()),
    "reclaimed": lambda r, server: r.pool.reclaims(1),
    "cancelled": lambda r, server: setattr(server, "cancels", 1),
}


def send(peer: Peer, data: bytes, *, cut: bool) -> None:
    """In one chunk, or in two."""
    if cut:
        peer.send(data[:-3])
        data = data[-3:]
    peer.send(data)


def outcome(r: Relay, client: Client, server: Server) -> dict[str, Any]:
    stats = r.pool.statistics()
    counts = (
        "query_count",
        "xact_count",
        "server_assignment_count",
        "bytes_received",
        "bytes_sent",
    )
    return {
        "counts": {name: getattr(stats, name) for name in counts},
        "linked": client.server is server,
        "idle": server in r.pool.idle,
        "ends": [ended.reason for ended in r.host.ends],
        "owed": list(server.back.owed),
        "status": server.back.status,
        "whole": server.back.whole,
        "waits": bool(client.wait_since),
        "closed": (client.closed, server.closed),
    }


def run(name: str, setup: str, mode: str, *, cut: bool, waits: bool) -> dict[str, Any]:
    """All exchanges of one client, the server being prepared before the first answer."""
    with relay(database={"pool_mode": mode}) as r:
        if not waits:
            server, postgres = r.server()
        client, app = r.client()
        first = True
        for request, answer in EXCHANGES[name]:
            send(app, request, cut=cut)
            if waits and first:
                server, postgres = r.server()
            if postgres.receive() == request:
                if first:
                    SETUPS[setup](r, server)
                send(postgres, answer, cut=cut)
                assert app.receive() == answer
            first = False
        return outcome(r, client, server)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "waits"])
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("name", EXCHANGES)
def test_both_ways_end_the_same(name: str, setup: str, mode: str, *, waits: bool) -> None:
    """Whatever stands in the way of the server's next use, and in every pool mode."""
    if mode == "statement" and EXCHANGES[name][0][1] is IN_BLOCK:
        name = "query"
    assert run(name, setup, mode, cut=False, waits=waits) == run(
        name, setup, mode, cut=True, waits=waits
    )


NAMED = message(ord("P"), b"name\0select 1\0\0\0") + SYNC
OURS = statement_name(b"select 1\0\0\0", "")


def prepared(r: Relay) -> tuple[Client, Peer, Peer]:
    """A client that has prepared "name" on the only server."""
    _, postgres = r.server()
    client, app = r.client()
    app.send(NAMED)
    assert OURS in postgres.receive()
    postgres.send(PARSED + ready_for_query())
    app.receive()
    return client, app, postgres


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "MAX_PREPARED", 200)


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize("cut", [False, True])
def test_an_execution_gets_the_name_that_the_server_knows(*, cut: bool) -> None:
    """By either way the same bytes, in and out, and it is counted."""
    with relay() as r:
        client, app, postgres = prepared(r)
        for _ in range(3):
            send(app, EXECUTION, cut=cut)
            ours = message(ord("B"), b"\0" + OURS + b"\0" + bytes(6)) + TAIL
            assert postgres.receive() == ours
            send(postgres, BOUND + DESCRIBED + DONE, cut=cut)
            assert app.receive() == BOUND + DESCRIBED + DONE
            assert client.server is None
        stats = r.pool.statistics()
        assert (stats.bind_count, stats.xact_count) == (3, 4)


@pytest.mark.usefixtures("sharing")
def test_an_execution_on_a_server_without_the_statement_prepares_it() -> None:
    """The client is answered as if the server had had it; more that it sends meanwhile follows."""
    with relay() as r:
        client, app, first = prepared(r)
        r.pool.idle[0].end("gone")
        first.close()
        app.send(EXECUTION)
        app.send(EXECUTION)
        _, postgres = r.server()
        sent = postgres.receive()
        assert sent.startswith(message(ord("P"), OURS + b"\0select 1\0\0\0"))
        answer = BOUND + DESCRIBED + DONE
        for _ in range(2):
            assert sent.endswith(TAIL)
            postgres.send((PARSED if OURS + b"\0select" in sent else b"") + answer)
            assert app.receive() == answer
            sent = postgres.receive()
        assert client.server is None


@pytest.mark.usefixtures("sharing")
def test_an_execution_of_an_unknown_name_goes_as_it_is() -> None:
    """PostgreSQL itself says that it does not exist."""
    with relay() as r:
        _, app, postgres = prepared(r)
        unknown = EXECUTION.replace(b"name", b"nope")
        app.send(unknown)
        assert postgres.receive() == unknown


def test_what_is_waited_for_is_whole_until_more_comes() -> None:
    """A client that sends on while it waits gets all of it forwarded, in order."""
    with relay() as r:
        client, app = r.client()
        app.send(SELECT)
        assert client.whole is not None
        app.send(BATCH[:7])
        app.send(BATCH[7:])
        _, postgres = r.server()
        assert postgres.receive() == SELECT + BATCH
        postgres.send(DONE + PARSED + BOUND + DESCRIBED + DONE)
        assert app.receive() == DONE + PARSED + BOUND + DESCRIBED + DONE
        assert client.server is None


@pytest.mark.parametrize("more", [SELECT, SELECT[:3], BATCH])
def test_what_comes_before_the_answer_keeps_the_server(more: bytes) -> None:
    """A whole request with another behind it is no whole any more."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        app.send(more)
        postgres.receive()
        postgres.send(DONE)
        assert app.receive() == DONE
        assert (client.server is server) == (len(more) > 3)
        assert not client.fresh


def test_the_next_in_line_gets_the_server_with_its_values() -> None:
    """One with the same values at once, one with others when they are set."""
    with relay() as r:
        _, postgres = r.server(TimeZone="UTC")
        apps = [r.client(TimeZone=zone)[1] for zone in ("UTC", "UTC", "Asia/Tokyo")]
        for app in apps:
            app.send(SELECT)
        for app in apps[:2]:
            assert postgres.receive() == SELECT
            postgres.send(DONE)
            assert app.receive() == DONE
        assert b"set_config" in postgres.receive()
        postgres.send(report("TimeZone", "Asia/Tokyo") + DONE)
        assert postgres.receive() == SELECT


def test_a_client_that_does_not_read_gets_its_answer_later() -> None:
    """The kernel takes a part; the server is free all the same, and the client is not read until then."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        postgres.receive()
        filler = b"".join(harness.row(1000) for _ in range(50))
        answer = DESCRIBED + filler + DONE
        assert len(answer) < CHUNK
        postgres.push(answer)
        r.settle()
        assert client.server is None
        assert not client.reading
        assert list(r.pool.idle) == [server]
        assert app.receive() == answer
        assert client.reading
        app.send(SELECT)
        assert client.server is server
