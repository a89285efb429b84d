"""Servers at rest, and what may be on its way to them."""

from __future__ import annotations

from time import monotonic

import pytest

from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.harness import (
    COPY_IN,
    DONE,
    FAILED,
    SELECT,
    SYNC,
    relay,
    report,
)

ROW = message(ord("d"), b"copied\n")
COPY_DONE = message(ord("c"), b"")
FLUSH = message(ord("H"), b"")
NOTIFICATION = message(ord("A"), b"\0\0\0\1channel\0payload\0")
LONG_NOTIFICATION = message(ord("A"), b"\0\0\0\1channel\0" + b"p" * 7999 + b"\0")
# A row that would do harm if it were read as messages.
HOSTILE = query("drop table accounts")


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


@pytest.mark.parametrize("said", [NOTIFICATION * 2, LONG_NOTIFICATION], ids=["short", "long"])
def test_an_idle_server_may_notify(said: bytes) -> None:
    """A LISTEN of long ago; nobody hears it, also if it is longer than what is read at once."""
    with relay() as r:
        server, postgres = r.server()
        postgres.send(said)
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
