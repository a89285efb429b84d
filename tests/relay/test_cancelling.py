"""A cancel for a client that waits for a server ends its wait, and its session goes on."""

from __future__ import annotations

import pytest

from poolproxy.relay.cancelling import cancel_wait
from poolproxy.relay.client import HOLD, Client
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.wire.read import MessageReader, error_fields
from tests.relay.harness import DONE, SELECT, SYNC, TERMINATE, Peer, Relay, relay, report

READY = ready_for_query()
PARSE = message(ord("P"), b"\0select 1\0\0\0")
NAMED = message(ord("P"), b"one\0select 1\0\0\0")
BIND = message(ord("B"), bytes(8))
BIND_NAMED = message(ord("B"), b"\0one\0" + bytes(6))
EXECUTE = message(ord("E"), bytes(5))
BATCH = PARSE + BIND + EXECUTE
NAMED_BATCH = NAMED + BIND_NAMED + EXECUTE
FLUSH = message(ord("H"), b"")
BEHIND = query("select 'behind'")


def in_words(answer: bytes) -> str:
    """The types of an answer's messages; its errors must be those of a cancel."""
    reader = MessageReader(1 << 20)
    reader.feed(answer)
    words = ""
    while (found := reader.next_message()) is not None:
        code, body = found
        if code == ord("E"):
            fields = error_fields(body)
            assert (fields.severity, fields.sqlstate) == ("ERROR", "57014")
            assert fields.message == "canceling statement due to user request"
        elif code == ord("Z"):
            assert body == b"I"
        words += chr(code)
    assert not reader.rest()
    return words


def waiting(r: Relay, *chunks: bytes) -> tuple[Client, Peer]:
    """A client in the queue that has sent this."""
    client, app = r.client()
    for chunk in chunks:
        app.send(chunk)
    assert client in r.pool.waiting
    return client, app


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (SELECT, "EZ"),
        (SELECT + SELECT, "EZEZ"),
        (BATCH + SYNC, "EZ"),
        (NAMED_BATCH + SYNC, "EZ"),
        (BATCH + SYNC + NAMED_BATCH + SYNC + SELECT, "EZEZEZ"),
        (SYNC, "Z"),
    ],
    ids=["query", "queries", "batch", "named", "pipeline", "Sync"],
)
def test_all_that_waits_is_refused_and_the_session_goes_on(sent: bytes, answer: str) -> None:
    """Nothing of it reaches a server that comes later; what the client sends then does."""
    with relay() as r:
        client, app = waiting(r, sent)
        cancel_wait(client)
        assert in_words(app.receive()) == answer
        assert not r.pool.waiting
        assert client.wait_since == 0
        server, postgres = r.server()
        assert list(r.pool.idle) == [server]
        app.send(BEHIND)
        assert postgres.receive() == BEHIND
        postgres.send(DONE)
        assert app.receive() == DONE
        assert r.pool.stats.errors == {"cancel_request": 1}
        assert not r.host.closed


@pytest.mark.parametrize("tail", [b"", FLUSH], ids=["cut", "flushed"])
@pytest.mark.parametrize("batch", [BATCH, NAMED_BATCH], ids=["plain", "named"])
def test_a_batch_is_refused_up_to_its_sync(batch: bytes, tail: bytes) -> None:
    """What comes of it afterwards is dropped, in any pieces; what comes behind it is served."""
    with relay() as r:
        client, app = waiting(r, batch + tail)
        cancel_wait(client)
        assert in_words(app.receive()) == "E"
        _, postgres = r.server()
        for byte in BIND_NAMED + EXECUTE + SELECT:
            app.send(bytes((byte,)))
        assert app.receive() == b""
        assert client.server is None
        app.send(SYNC[:2])
        app.send(SYNC[2:] + BEHIND)
        assert app.receive() == READY
        assert postgres.receive() == BEHIND
        postgres.send(DONE)
        assert app.receive() == DONE


def test_a_named_statement_that_was_refused_does_not_exist() -> None:
    """The client may prepare it again under the same name."""
    with relay() as r:
        client, app = waiting(r, NAMED_BATCH + SYNC)
        cancel_wait(client)
        app.receive()
        _, postgres = r.server()
        app.send(NAMED + SYNC)
        sent = postgres.receive()
        assert sent.count(b"select 1") == 1
        postgres.send(message(ord("1"), b"") + READY)
        assert app.receive() == message(ord("1"), b"") + READY


def test_whole_messages_are_refused_and_a_cut_one_waits_for_its_rest() -> None:
    """It is the next request, and has a server when it is complete."""
    for cut in range(1, len(BEHIND)):
        with relay() as r:
            client, app = waiting(r, SELECT + BEHIND[:cut])
            cancel_wait(client)
            assert in_words(app.receive()) == "EZ"
            _, postgres = r.server()
            assert client.server is None
            app.send(BEHIND[cut:])
            assert postgres.receive() == BEHIND


def test_a_message_in_the_middle_of_a_refused_batch_is_dropped() -> None:
    """Cut anywhere, and so is the Sync behind it."""
    whole = BIND + EXECUTE + SYNC + BEHIND
    for cut in range(1, len(BIND + EXECUTE + SYNC)):
        with relay() as r:
            client, app = waiting(r, PARSE + whole[:cut])
            cancel_wait(client)
            assert in_words(app.receive()) == "E"
            _, postgres = r.server()
            app.send(whole[cut:])
            assert app.receive() == READY
            assert postgres.receive() == BEHIND


def test_what_cannot_be_answered_ends_the_client() -> None:
    """A large message that is not complete: it is not known what it will be."""
    with relay() as r:
        client, app = waiting(r, query("x" * 3 * HOLD)[: 2 * HOLD])
        cancel_wait(client)
        error = app.error()
        assert (error.severity, error.sqlstate) == ("FATAL", "57014")
        assert client.closed
        assert not r.pool.waiting


def test_a_client_that_was_not_read_is_read_again() -> None:
    """It had sent as much as is kept."""
    with relay() as r:
        client, app = waiting(r, query("x" * (HOLD - 100)), SELECT + query("y" * 200))
        assert not client.reading
        cancel_wait(client)
        assert in_words(app.receive()) == "EZEZEZ"
        assert client.reading
        _, postgres = r.server()
        app.send(BEHIND)
        assert postgres.receive() == BEHIND


@pytest.mark.parametrize("behind", [TERMINATE, b"?\0\0\0\4"], ids=["Terminate", "rubbish"])
def test_a_refused_batch_ends_with_the_client(behind: bytes) -> None:
    """Also without its Sync."""
    with relay() as r:
        client, app = waiting(r, BATCH)
        cancel_wait(client)
        app.send(BIND + behind)
        assert client.closed
        assert app.is_closed()


def test_the_wait_for_a_server_that_is_made_ready_ends_at_once() -> None:
    """The server goes to the next in line when it is ready, or keeps what it was given."""
    with relay() as r:
        server, postgres = r.server(TimeZone="UTC")
        client, app = r.client(TimeZone="Asia/Tokyo")
        app.send(SELECT)
        other, _ = r.client(TimeZone="Asia/Tokyo")
        assert b"TimeZone" in postgres.receive()
        cancel_wait(client)
        assert in_words(app.receive()) == "EZ"
        assert server.state == "testing"
        postgres.send(report("TimeZone", "Asia/Tokyo") + DONE)
        assert list(r.pool.idle) == [server]
        assert client.server is None
        app.send(BEHIND)
        assert postgres.receive() == BEHIND
        assert other.server is None


def test_the_server_may_die_after_the_wait_for_it_has_ended() -> None:
    """Then nobody is put into the queue for it."""
    with relay() as r:
        _, postgres = r.server(TimeZone="UTC")
        client, app = r.client(TimeZone="Asia/Tokyo")
        app.send(SELECT)
        cancel_wait(client)
        postgres.close()
        assert not r.pool.waiting
        assert in_words(app.receive()) == "EZ"
        assert not client.closed


def test_a_client_that_does_not_read_its_refusals_is_not_read() -> None:
    """Answers are many times longer than the shortest requests: they are kept, but not more of them."""
    with relay() as r:
        shortest = message(ord("Q"), b"\0")
        client, app = waiting(r, shortest * (HOLD // len(shortest) + 1))
        cancel_wait(client)
        assert client.out
        assert not client.reading
        words = in_words(app.receive())
        assert words == "EZ" * (HOLD // len(shortest) + 1)
        assert client.reading


def test_a_session_that_waits_for_its_server_is_no_other() -> None:
    """Session mode: the first query of a client waits, and may be cancelled."""
    with relay(database={"pool_mode": "session"}) as r:
        client, app = waiting(r, SELECT)
        cancel_wait(client)
        assert in_words(app.receive()) == "EZ"
        server, postgres = r.server()
        app.send(BEHIND)
        assert postgres.receive() == BEHIND
        assert client.server is server


def test_rubbish_behind_a_named_statement_ends_the_client() -> None:
    """It had not been looked at while it was kept."""
    with relay() as r:
        client, app = r.client()
        app.send(NAMED_BATCH + SYNC + b"?\0\0\0\4rest")
        if not client.closed:
            cancel_wait(client)
        assert client.closed
        assert not r.pool.waiting
