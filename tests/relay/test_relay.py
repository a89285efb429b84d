"""Clients and servers linked by the relay: bytes, back-pressure, ends."""

from __future__ import annotations

from time import monotonic

import pytest

from poolproxy.relay.client import HOLD
from poolproxy.relay.connection import CHUNK
from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.harness import (
    COPY_IN,
    DONE,
    FAILED,
    IN_BLOCK,
    SELECT,
    SYNC,
    relay,
    report,
    row,
)

ROW = message(ord("d"), b"copied\n")
COPY_DONE = message(ord("c"), b"")
FLUSH = message(ord("H"), b"")
TERMINATE = message(ord("X"), b"")
NOTIFICATION = message(ord("A"), b"\0\0\0\1channel\0payload\0")
# A row that would do harm if it were read as messages.
HOSTILE = query("drop table accounts")


def test_a_query_and_its_answer_pass_unchanged() -> None:
    """The server is idle again afterwards, and both times were counted."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        assert client.server is server
        assert postgres.receive() == SELECT
        postgres.send(row(10) + DONE)
        assert app.receive() == row(10) + DONE
        assert client.server is None
        assert list(r.pool.idle) == [server]
        stats = r.pool.statistics()
        assert (stats.query_count, stats.xact_count) == (1, 1)
        assert (stats.bytes_received, stats.bytes_sent) == (len(SELECT), len(row(10) + DONE))


def test_byte_by_byte_is_the_same() -> None:
    """A client and a server that send single bytes."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        received = b""
        for byte in SELECT:
            app.send(bytes((byte,)))
        assert postgres.receive() == SELECT
        for byte in DONE:
            postgres.send(bytes((byte,)))
            received += app.receive()
        assert received == DONE
        assert list(r.pool.idle) == [server]


def test_what_came_with_the_log_in_is_served() -> None:
    """A client that didn't wait for its welcome."""
    with relay() as r:
        r.server()
        client, _ = r.client(early=SELECT)
        assert client.server is not None


def test_early_rubbish_ends_the_client() -> None:
    """With an error, as at any other time."""
    with relay() as r:
        _, app = r.client(early=b"\xff\0\0\0\4")
        assert app.error().message == "unknown pkt"


def test_a_slow_sender_holds_no_server() -> None:
    """A message gets one when it is complete, unless it is larger than what is kept."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        text = query("x" * 1000)
        app.send(text[:500])
        assert client.server is None
        app.send(text[500:])
        assert client.server is server
        assert postgres.receive() == text
        postgres.send(DONE)
        large = query("x" * 2 * HOLD)
        app.send(large[:1000])
        assert client.server is server
        assert postgres.receive() == large[:1000]


def test_a_client_that_reads_slowly_stops_its_server() -> None:
    """No more than about a chunk is kept for it; all arrives in the end, byte for byte."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        answer = b"".join(row(size) for size in range(0, 20_000, 7)) + DONE
        position = postgres.push(answer)
        received = bytearray()
        most = 0
        while len(received) < len(answer):
            r.settle()
            most = max(most, len(client.out))
            assert client.server is None or server.reading == (not client.out)
            pushed = postgres.push(answer[position : position + 300_000])
            position += pushed
            if not pushed:
                received += app.pull(5_000)
        assert received == answer
        assert 0 < most <= 2 * CHUNK
        assert list(r.pool.idle) == [server]


def test_a_server_that_reads_slowly_stops_its_client() -> None:
    """The other way: a large statement, kept in the client's kernel and not in ours."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        text = query("x" * 3_000_000)
        position = app.push(text)
        received = bytearray()
        most = 0
        while len(received) < len(text):
            r.settle()
            most = max(most, len(server.out))
            assert client.reading == (not server.out)
            pushed = app.push(text[position : position + 300_000])
            position += pushed
            if not pushed:
                received += postgres.pull(5_000)
        assert received == text
        assert 0 < most <= HOLD + CHUNK
        assert client.reading


def test_a_released_server_serves_another_while_its_last_client_reads() -> None:
    """The answer's end waits in our memory, at most a chunk; the client gets nothing new meanwhile."""
    with relay() as r:
        server, postgres = r.server()
        slow, app = r.client()
        other, other_app = r.client()
        app.send(SELECT)
        answer = row(60_000) + DONE
        postgres.send(answer)
        assert slow.out
        assert slow.server is None
        app.push(SELECT)
        r.settle()
        assert slow.server is None
        other_app.send(SELECT)
        assert other.server is server
        postgres.send(DONE)
        assert other_app.receive() == DONE
        assert app.receive() == answer
        assert slow.server is server


def test_a_client_that_waits_sends_no_more_than_is_kept() -> None:
    """Without a server it is read up to HOLD, then not at all; then everything goes to the server."""
    with relay() as r:
        client, app = r.client()
        text = b"".join(query("x" * 1000) for _ in range(500))
        position = app.flood(text)
        assert HOLD <= len(client.held) <= HOLD + CHUNK
        assert r.host.wants >= 1
        _, postgres = r.server()
        received = bytearray()
        while len(received) < len(text):
            position += app.push(text[position:])
            r.settle()
            received += postgres.pull()
        assert received == text


def test_waiting_clients_are_served_in_order() -> None:
    """One server, three clients; the host is told that somebody waits."""
    with relay() as r:
        clients = [r.client() for _ in range(3)]
        for _, app in clients:
            app.send(SELECT)
        assert len(r.pool.waiting) == 3
        _, postgres = r.server()
        for client, app in clients:
            assert client.server is not None
            postgres.send(DONE)
            assert app.receive() == DONE
        assert not r.pool.waiting


def test_a_pipelined_next_transaction_keeps_its_order() -> None:
    """Sent before the first answer it goes to the same server; sent after it, to whichever is free."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(SELECT + SELECT)
        postgres.send(DONE)
        assert client.server is server
        app.send(SELECT)
        postgres.send(DONE)
        assert client.server is server
        postgres.send(DONE)
        assert client.server is None
        assert app.receive() == DONE * 3
        assert postgres.receive() == SELECT * 3


def test_a_transaction_keeps_its_server() -> None:
    """Between its statements too, while others wait."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        _, other = r.client()
        app.send(query("begin"))
        postgres.send(IN_BLOCK)
        other.send(SELECT)
        assert client.server is server
        app.send(query("commit"))
        postgres.send(DONE)
        assert client.server is None
        assert len(r.pool.waiting) == 0


def test_a_prepared_statement_keeps_its_server_until_sync() -> None:
    """Parse, Describe, Flush is answered, and the unnamed statement is on this server only."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(message(ord("P"), b"\0select 1\0\0\0") + message(ord("D"), b"S\0") + FLUSH)
        answers = [message(ord(code), b"\0\0") for code in "1tT"]
        postgres.send(b"".join(answers))
        assert client.server is server
        app.send(SYNC)
        postgres.send(ready_for_query())
        assert client.server is None


def test_statement_mode_refuses_transactions() -> None:
    """The client goes with an error; the server's transaction is rolled back."""
    with relay(database={"pool_mode": "statement"}) as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(query("begin"))
        postgres.send(IN_BLOCK)
        assert app.error().message == "transaction blocks not allowed in statement pooling mode"
        assert postgres.receive() == query("begin") + query("ROLLBACK")
        postgres.send(DONE)
        assert list(r.pool.idle) == [server]


@pytest.mark.parametrize("pieces", [1, 2])
def test_statement_mode_refuses_transactions_in_a_pipeline(pieces: int) -> None:
    """Also one that is over by then: the client sees the answers, and goes; the server is at rest."""
    with relay(database={"pool_mode": "statement"}) as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(query("begin") + query("commit"))
        if pieces == 1:
            postgres.send(IN_BLOCK + DONE)
        else:
            postgres.send(IN_BLOCK)
            postgres.send(DONE)
        answers = app.receive()
        assert answers.startswith(IN_BLOCK + DONE)
        assert b"transaction blocks not allowed in statement pooling mode" in answers
        assert list(r.pool.idle) == [server]


def test_statement_mode_refuses_transactions_to_who_has_begun_them() -> None:
    """A client that leaves amid such a pipeline takes the reason along: the next one on its server stays."""
    with relay(database={"pool_mode": "statement"}) as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(query("begin") + query("commit") + TERMINATE)
        other, other_app = r.client()
        other_app.send(SELECT)
        postgres.send(IN_BLOCK)
        postgres.send(DONE)
        assert server.client is other
        postgres.send(DONE)
        assert other_app.receive() == DONE
        assert list(r.pool.idle) == [server]


def test_a_session_keeps_its_server_and_is_reset() -> None:
    """Until the client leaves; then the reset query runs, and only then the next client is served."""
    with relay(database={"pool_mode": "session"}) as r:
        server, postgres = r.server()
        client, app = r.client()
        other, other_app = r.client()
        app.send(SELECT)
        postgres.send(DONE)
        assert client.server is server
        other_app.send(SELECT)
        postgres.receive()
        app.send(TERMINATE)
        assert app.is_closed()
        assert postgres.receive() == query("DISCARD ALL")
        assert server.state == "testing"
        assert other.server is None
        postgres.send(DONE)
        assert other.server is server
        assert other_app.receive() == b""


def test_a_reset_that_fails_costs_the_server() -> None:
    """Nobody gets a session of which it isn't known what it holds."""
    with relay(database={"pool_mode": "session"}) as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(DONE)
        app.close()
        postgres.receive()
        postgres.send(FAILED + ready_for_query())
        assert [one.reason for one in r.host.ends] == ["reset query failed"]
        assert server not in r.pool.servers


def test_a_reset_that_leaves_a_transaction_open_costs_the_server() -> None:
    """A reset query may be anything."""
    with relay(database={"pool_mode": "session"}) as r:
        _, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(DONE)
        app.close()
        postgres.send(IN_BLOCK)
        assert [one.reason for one in r.host.ends] == ["reset query failed"]


def test_a_client_that_leaves_in_mid_query_costs_the_server() -> None:
    """Where abandoned_work says so. It may be working on; the host cancels that first (busy)."""
    with relay({"abandoned_work": "close"}) as r:
        server, _ = r.server()
        client, app = r.client()
        app.send(SELECT)
        app.close()
        (end,) = r.host.ends
        assert (end.server, end.busy, end.ended) == (server, True, False)
        assert end.reason == "client disconnect while server was not ready"
        assert r.host.closed == [(client, "client unexpected eof", False)]
        assert not r.pool.servers


def test_a_client_that_leaves_in_a_transaction_costs_the_server() -> None:
    """The same; idle in it, so there is nothing to cancel."""
    with relay({"abandoned_work": "close"}) as r:
        _, postgres = r.server()
        _, app = r.client()
        app.send(query("begin"))
        postgres.send(IN_BLOCK)
        app.close()
        assert [one.busy for one in r.host.ends] == [False]


def test_a_client_that_leaves_between_transactions_costs_nothing() -> None:
    """The usual good-bye."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        postgres.send(DONE)
        app.send(TERMINATE)
        assert r.host.closed == [(client, "client close request", False)]
        assert list(r.pool.idle) == [server]


def test_a_waiting_client_that_leaves_is_forgotten() -> None:
    """The server that comes later is for others."""
    with relay() as r:
        _, app = r.client()
        app.send(SELECT)
        app.close()
        assert not r.pool.waiting
        server, _ = r.server()
        assert list(r.pool.idle) == [server]


def test_a_server_that_ends_in_mid_message_ends_its_client_without_a_word() -> None:
    """An error would be read as the rest of the row."""
    with relay() as r:
        _, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        half = row(1000)[:500]
        postgres.send(half)
        postgres.close()
        assert app.receive() == half
        assert app.is_closed()
        assert r.host.closed == [(client, "server conn crashed?", False)]


def test_a_server_that_ends_between_messages_ends_its_client_with_an_error() -> None:
    """What arrived before is delivered first."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(row(10))
        postgres.close()
        error = app.error()
        assert (error.message, error.sqlstate) == ("server conn crashed?", "08006")
        assert [(one.server, one.ended) for one in r.host.ends] == [(server, True)]


def test_an_idle_server_that_ends_is_gone() -> None:
    """Nobody is told but the host."""
    with relay() as r:
        _, postgres = r.server()
        postgres.close()
        assert not r.pool.idle
        assert [one.ended for one in r.host.ends] == [True]


@pytest.mark.parametrize("reply", ["client", "server"])
def test_a_hang_up_is_seen_while_reading_is_off(reply: str) -> None:
    """epoll reports it whatever is asked for: it must end the connection, not spin."""
    with relay({"abandoned_work": "close"}) as r:
        _, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        postgres.flood(row(10_000_000))
        assert client.out
        (app if reply == "client" else postgres).close()
        assert client.closed
        assert not r.pool.servers


def test_a_violation_ends_both() -> None:
    """A server out of step is never reused, and its client can't know what it has read."""
    with relay() as r:
        _, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(message(ord("1"), b""))
        assert app.error().message == "unknown pkt"
        assert [one.reason for one in r.host.ends] == ["unknown pkt"]


def test_rubbish_from_a_client_ends_it() -> None:
    """With the reason; the server is idle and stays."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(DONE)
        app.receive()
        app.send(b"\xff\0\0\0\4")
        assert app.error().message == "unknown pkt"
        assert list(r.pool.idle) == [server]


# -- servers at rest, and what may be on its way ---------------------------------------------------


def test_late_copy_data_is_dropped_without_a_server() -> None:
    """The COPY failed before it began; what the client had sent on is nobody's, and the next query is
    served.
    """
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(query("copy t from stdin"))
        postgres.send(FAILED + ready_for_query())
        assert client.server is None
        late = ROW + ROW + FLUSH + COPY_DONE
        for byte in late[:-3]:
            app.send(bytes((byte,)))
            assert client.server is None
        postgres.receive()
        app.send(late[-3:] + SELECT)
        assert client.server is server
        assert postgres.receive() == SELECT


def test_a_late_row_in_pieces_is_dropped_with_what_follows_it() -> None:
    """The rest of one and whole ones behind it in one chunk: none of them takes a server."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(query("copy t from stdin"))
        postgres.send(FAILED + ready_for_query())
        app.send(ROW[:7])
        app.send(ROW[7:] + ROW + COPY_DONE)
        assert client.server is None
        assert list(r.pool.idle) == [server]


def test_a_server_in_the_middle_of_a_late_row_is_not_released() -> None:
    """It has read half a CopyData: the next client's query would be taken for the rest."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        other, other_app = r.client()
        evil = message(ord("d"), HOSTILE)
        app.send(query("copy t from stdin") + evil[:5])
        postgres.send(FAILED + ready_for_query())
        other_app.send(SELECT)
        assert client.server is server
        assert other.server is None
        app.send(evil[5:])
        assert client.server is None
        assert other.server is server
        assert postgres.receive() == query("copy t from stdin") + evil + SELECT


def test_a_client_that_leaves_in_the_middle_of_a_late_row_costs_the_server() -> None:
    """The same, when the rest never comes; in session mode the reset query would be swallowed."""
    for mode in ("transaction", "session"):
        with relay(database={"pool_mode": mode}) as r:
            _, postgres = r.server()
            _, app = r.client()
            app.send(query("copy t from stdin") + ROW[:6])
            postgres.send(FAILED + ready_for_query())
            assert not r.host.ends
            app.close()
            assert [one.reason for one in r.host.ends] == [
                "client disconnect while server was not ready"
            ]


def test_a_row_is_never_read_as_a_message() -> None:
    """Copied data that looks like a query, cut where it hurts, with and without a server."""
    evil = message(ord("d"), HOSTILE)
    for cut in range(1, len(evil)):
        with relay() as r:
            server, postgres = r.server()
            client, app = r.client()
            app.send(query("copy t from stdin"))
            postgres.receive()
            app.push(evil[:cut])
            r.settle()
            postgres.send(FAILED + ready_for_query())
            app.send(evil[cut:] + COPY_DONE + SELECT)
            received = postgres.receive()
            assert received.endswith(SELECT)
            assert HOSTILE not in received.replace(evil, b"")
            postgres.send(DONE)
            assert client.server is None
            assert list(r.pool.idle) == [server]


def test_a_failed_copy_waits_for_the_clients_end() -> None:
    """The client has been told to send: its server is released when it has said that it is done."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(query("copy t from stdin"))
        postgres.send(COPY_IN)
        app.send(ROW)
        postgres.send(FAILED + ready_for_query())
        assert client.server is server
        app.send(ROW + COPY_DONE)
        assert client.server is None
        assert list(r.pool.idle) == [server]


def test_a_failed_copy_leaves_no_clock_running_in_a_session() -> None:
    """After the late CopyDone no query and no transaction runs, so no time-out can strike."""
    with relay(database={"pool_mode": "session"}) as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(query("copy t from stdin"))
        postgres.send(COPY_IN)
        postgres.send(FAILED + ready_for_query())
        app.send(COPY_DONE)
        assert (server.query_since, server.xact_since) == (0.0, 0.0)


def test_copy_data_in_the_pipeline_of_a_waiting_client_is_kept() -> None:
    """It belongs to the COPY that waits for a server, and is not the rest of a failed one."""
    with relay() as r:
        _, app = r.client()
        app.send(query("copy t from stdin"))
        app.send(ROW + COPY_DONE)
        _, postgres = r.server()
        assert postgres.receive() == query("copy t from stdin") + ROW + COPY_DONE


def test_flush_alone_takes_no_server() -> None:
    """There is nothing to flush."""
    with relay() as r:
        server, _ = r.server()
        client, app = r.client()
        app.send(FLUSH)
        assert client.server is None
        assert list(r.pool.idle) == [server]


def test_a_tainted_server_is_not_reused() -> None:
    """A COPY that failed after an early Sync."""
    with relay() as r:
        _, postgres = r.server()
        _, app = r.client()
        extended = [message(ord(code), b"\0") for code in "PBE"]
        app.send(b"".join(extended) + SYNC)
        postgres.send(message(ord("1"), b"") + message(ord("2"), b"") + COPY_IN)
        app.send(ROW + COPY_DONE + SYNC)
        postgres.send(FAILED + ready_for_query())
        assert [one.reason for one in r.host.ends] == ["unsafe to reuse"]
        assert app.receive().endswith(ready_for_query())


def test_a_server_that_has_not_taken_everything_is_not_reused() -> None:
    """Unsent bytes of one client would reach it before the next one's."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(query("copy t from stdin"))
        postgres.receive()
        app.flood(message(ord("d"), b"x" * 10_000_000))
        assert server.out
        app.close()
        assert [one.reason for one in r.host.ends] == [
            "client disconnect while server was not ready"
        ]
        assert client.closed


@pytest.mark.parametrize(
    "said",
    [
        report("TimeZone", "UTC"),
        FAILED,
        message(ord("N"), b"\0"),
        NOTIFICATION + FAILED,
        NOTIFICATION[:10],
    ],
    ids=["ParameterStatus", "error", "notice", "behind a notification", "half a notification"],
)
def test_an_idle_server_that_speaks_is_dirty(said: bytes) -> None:
    """What it says is for nobody, and half of it would begin the next client's answer."""
    with relay() as r:
        _, postgres = r.server()
        postgres.send(said)
        assert [one.reason for one in r.host.ends] == ["idle server got dirty"]


def test_an_idle_server_may_notify() -> None:
    """A LISTEN of long ago; nobody hears it."""
    with relay() as r:
        server, postgres = r.server()
        postgres.send(NOTIFICATION * 2)
        assert list(r.pool.idle) == [server]


def test_a_cancel_on_its_way_holds_the_server_back() -> None:
    """It would strike the next client's query; when it has arrived the first waiter is served."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        other, other_app = r.client()
        app.send(SELECT)
        server.cancels += 2
        postgres.send(DONE)
        other_app.send(SELECT)
        assert other.server is None
        assert server.state == "being_canceled"
        server.cancel_done()
        assert other.server is None
        server.cancel_done()
        assert other.server is server


def test_a_cancel_that_arrives_in_time_changes_nothing() -> None:
    """The server still works for its client; it is released once, in the usual way."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        server.cancels += 1
        server.cancel_done()
        postgres.send(DONE)
        assert list(r.pool.idle) == [server]


def test_a_doomed_server_is_closed_when_it_is_free() -> None:
    """Not before: its client's transaction comes to its end."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        server.doomed = "database configuration changed"
        postgres.send(DONE)
        assert app.receive() == DONE
        assert [one.reason for one in r.host.ends] == ["database configuration changed"]


def test_fast_failure_while_log_ins_fail() -> None:
    """No server, and none to be had: the client is told the cached error, and a log-in is tried."""
    with relay() as r:
        r.pool.failing = "connect failed: Connection refused"
        _, app = r.client()
        app.send(SELECT)
        error = app.error()
        assert error.sqlstate == "08006"
        assert "Connection refused" in error.message
        assert r.host.probes == 1


def test_times_are_set_back_when_a_server_is_parked() -> None:
    """idle_since is when it became free."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        before = monotonic()
        app.send(SELECT)
        postgres.send(DONE)
        assert before <= server.idle_since <= monotonic()
