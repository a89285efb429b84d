"""Servers whose clients have gone amid their work are put in order and used again."""

from __future__ import annotations

import pytest

from poolproxy.errors import PoolerError
from poolproxy.relay.abandoned import MOST_UNREAD
from poolproxy.relay.server import Server
from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.abandoning import BATCH, BOUND, COPY, PARSED, READY, ROW, abandoned
from tests.relay.harness import (
    COPY_IN,
    DONE,
    FAILED,
    IN_BLOCK,
    SELECT,
    SYNC,
    TERMINATE,
    Peer,
    Relay,
    relay,
)

FAILED_BLOCK = FAILED + ready_for_query(ord("E"))
COPY_FAIL = message(ord("f"), b"the client has gone\0")
PARSE = message(ord("P"), b"\0insert\0\0\0")
BIND = message(ord("B"), bytes(8))
EXECUTE = message(ord("E"), bytes(5))
COMPLETE = message(ord("C"), b"INSERT 0 1\0")
ROLLED_BACK = PARSED + BOUND + message(ord("C"), b"ROLLBACK\0") + READY
ROLLBACK_BATCH = (
    COPY_FAIL
    + message(ord("P"), b"\0ROLLBACK\0\0\0")
    + message(ord("B"), bytes(8))
    + message(ord("E"), bytes(5))
    + SYNC
)


def is_reused(r: Relay, server: Server, postgres: Peer) -> bool:
    """Whether the next client gets the server, and sees the answer to its own query alone."""
    assert not r.host.ends
    assert list(r.pool.idle) == [server]
    assert postgres.receive() == b""
    client, app = r.client()
    app.send(SELECT)
    assert postgres.receive() == SELECT
    postgres.send(DONE)
    return app.receive() == DONE and client.server is (server if r.pool.session_mode else None)


def wants_cancel(r: Relay) -> bool:
    """Whether the host has been asked to cancel, and would do so now."""
    return bool(r.host.cancels) and r.host.cancels[-1][1]()


def test_a_running_query_is_cancelled_and_its_answer_dropped() -> None:
    """The answer may come in pieces."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        app.close()
        assert postgres.receive() == SELECT
        assert wants_cancel(r)
        for byte in FAILED + READY:
            assert server not in r.pool.idle
            postgres.send(bytes((byte,)))
        assert not wants_cancel(r)
        assert r.pool.stats.abandoned == {"reused": 1}
        assert is_reused(r, server, postgres)


def test_a_query_with_a_good_bye_behind_it_is_not_cancelled() -> None:
    """Its answer is dropped; it is cancelled if that is late, or more than anybody would keep."""
    for trouble in ("none", "late", "much"):
        with relay() as r:
            server, postgres = r.server()
            _, app = r.client()
            app.send(SELECT + TERMINATE)
            assert postgres.receive() == SELECT
            assert not r.host.cancels
            if trouble == "late":
                assert server.task
                server.task.late(server, 1.0)
            elif trouble == "much":
                for _ in range(MOST_UNREAD // 4000 + 1):
                    postgres.send(message(ord("D"), bytes(4000)))
            assert bool(r.host.cancels) is (trouble != "none")
            postgres.send(DONE)
            assert r.pool.stats.abandoned == {"reused": 1}
            assert is_reused(r, server, postgres)


def test_a_query_that_outlives_its_cancel_costs_the_server() -> None:
    """It has had its time before, and now some more."""
    with relay() as r:
        server, _ = r.server()
        _, app = r.client()
        app.send(SELECT + TERMINATE)
        assert server.task
        server.task.late(server, 1.0)
        assert not server.closed
        server.task.late(server, 2.0)
        assert server.closed


@pytest.mark.parametrize("status", [IN_BLOCK, FAILED_BLOCK], ids=["open", "failed"])
def test_a_transaction_is_rolled_back(status: bytes) -> None:
    """Nothing runs in it, so nothing is cancelled."""
    with relay() as r:
        server, postgres = abandoned(r, (query("begin"), status))
        assert not r.host.cancels
        assert postgres.receive() == query("ROLLBACK")
        assert server not in r.pool.idle
        postgres.send(DONE)
        assert is_reused(r, server, postgres)


def test_a_query_in_a_transaction_is_cancelled_then_rolled_back() -> None:
    """In this order: the ROLLBACK is sent when no cancel can hit it any more."""
    with relay() as r:
        server, postgres = abandoned(r, (query("begin"), IN_BLOCK), (SELECT, b""))
        server.cancels += 1
        postgres.send(FAILED_BLOCK)
        assert postgres.receive() == b""
        server.cancel_done()
        assert postgres.receive() == query("ROLLBACK")
        postgres.send(DONE)
        assert is_reused(r, server, postgres)


def test_who_waits_gets_the_server() -> None:
    """As soon as it is in order."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        waiter, waiter_app = r.client()
        app.send(query("begin"))
        waiter_app.send(SELECT)
        postgres.receive()
        postgres.send(IN_BLOCK)
        app.close()
        assert postgres.receive() == query("ROLLBACK")
        assert waiter.server is None
        postgres.send(DONE)
        assert waiter.server is server
        assert postgres.receive() == SELECT
        postgres.send(DONE)
        assert waiter_app.receive() == DONE


def test_a_session_is_reset_after_the_rollback() -> None:
    """DISCARD ALL does not work inside a transaction."""
    with relay(database={"pool_mode": "session"}) as r:
        server, postgres = abandoned(r, (query("begin"), IN_BLOCK))
        assert postgres.receive() == query("ROLLBACK")
        postgres.send(DONE)
        assert postgres.receive() == query("DISCARD ALL")
        assert server not in r.pool.idle
        postgres.send(DONE)
        assert is_reused(r, server, postgres)


def test_a_reset_waits_for_cancels() -> None:
    """A client that has cancelled its query and leaves: the cancel must not hit the reset."""
    with relay(database={"pool_mode": "session"}) as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        server.cancels += 1
        postgres.receive()
        postgres.send(DONE)
        app.close()
        assert postgres.receive() == b""
        assert server.state == "testing"
        server.cancel_done()
        assert postgres.receive() == query("DISCARD ALL")
        postgres.send(DONE)
        assert is_reused(r, server, postgres)


@pytest.mark.parametrize(
    ("sent", "answered", "then"),
    [
        (PARSE, b"", PARSED),
        (BATCH, PARSED, BOUND + COMPLETE),
        (BATCH, PARSED + BOUND + COMPLETE, b""),
        (BATCH + message(ord("H"), b""), PARSED + BOUND + COMPLETE, b""),
        (BATCH + SYNC + BATCH, PARSED + BOUND, COMPLETE + READY + PARSED + BOUND + COMPLETE),
    ],
    ids=["unanswered", "half answered", "answered", "flushed", "behind a Sync"],
)
def test_a_batch_without_its_sync_is_rolled_back(sent: bytes, answered: bytes, then: bytes) -> None:
    """A Sync alone would commit what the client had not committed."""
    with relay() as r:
        server, postgres = abandoned(r, (sent, answered))
        assert postgres.receive() == ROLLBACK_BATCH
        assert wants_cancel(r) == bool(then)
        postgres.send(then + ROLLED_BACK)
        assert is_reused(r, server, postgres)


def test_a_failed_batch_without_its_sync_is_synced() -> None:
    """PostgreSQL skips the ROLLBACK, and what was failed is rolled back anyway."""
    with relay() as r:
        server, postgres = abandoned(r, (BATCH, FAILED))
        assert postgres.receive() == ROLLBACK_BATCH
        postgres.send(READY)
        assert is_reused(r, server, postgres)


def test_a_batch_that_fails_in_a_transaction_is_rolled_back_afterwards() -> None:
    """The ROLLBACK in the batch is skipped, so another one follows."""
    with relay() as r:
        server, postgres = abandoned(r, (query("begin"), IN_BLOCK), (BATCH, PARSED))
        assert postgres.receive() == ROLLBACK_BATCH
        postgres.send(FAILED + ready_for_query(ord("E")))
        assert postgres.receive() == query("ROLLBACK")
        postgres.send(DONE)
        assert is_reused(r, server, postgres)


def test_a_pipeline_is_cancelled_until_it_is_over() -> None:
    """Each cancel ends one statement; all answers are dropped."""
    with relay() as r:
        server, postgres = abandoned(r, (3 * (BATCH + SYNC), b""))
        for _ in range(3):
            assert wants_cancel(r)
            postgres.send(FAILED + READY)
        assert not wants_cancel(r)
        assert is_reused(r, server, postgres)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_copy_is_failed(when: str) -> None:
    """No cancel reaches a server that reads CopyData, so it is told that there is no more."""
    with relay() as r:
        if when == "before":
            server, postgres = abandoned(r, (COPY, b""))
            assert postgres.receive() == b""
            postgres.send(COPY_IN)
        else:
            server, postgres = abandoned(r, (COPY, COPY_IN), (2 * ROW, b""))
        assert postgres.receive() == COPY_FAIL
        postgres.send(FAILED + READY)
        assert is_reused(r, server, postgres)


def test_a_copy_in_a_batch_is_failed_and_synced() -> None:
    """The CopyFail comes before the Sync, which the COPY would swallow."""
    with relay() as r:
        server, postgres = abandoned(r, (BATCH, PARSED + BOUND + COPY_IN))
        assert postgres.receive() == ROLLBACK_BATCH
        postgres.send(FAILED + READY)
        assert is_reused(r, server, postgres)


def test_a_copy_that_had_failed_needs_nothing() -> None:
    """The client was told to send and has not yet learned that nobody reads it."""
    with relay() as r:
        server, postgres = abandoned(r, (COPY, COPY_IN), (ROW, FAILED + READY))
        assert is_reused(r, server, postgres)


def test_a_copy_to_the_client_is_cancelled() -> None:
    """Its rows are dropped."""
    with relay() as r:
        server, postgres = abandoned(r, (query("copy t to stdout"), message(ord("H"), b"\0\0\0")))
        assert wants_cancel(r)
        postgres.send(ROW * 100 + ROW[:7])
        postgres.send(ROW[7:] + FAILED + READY)
        assert is_reused(r, server, postgres)


def test_a_client_that_did_not_read_does_not_stop_the_draining() -> None:
    """Its server was not read for its sake."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.receive()
        large = message(ord("D"), b"x" * 5_000_000)
        sent = postgres.flood(large)
        assert sent < len(large)
        app.close()
        postgres.send(large[sent:] + DONE)
        assert is_reused(r, server, postgres)


def test_a_client_that_is_thrown_out_leaves_its_work_too() -> None:
    """Such as by query_timeout."""
    with relay() as r:
        server, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        postgres.receive()
        client.fail(PoolerError("query timeout", reason="query_timeout"))
        assert app.error().message == "query timeout"
        postgres.send(FAILED + READY)
        assert is_reused(r, server, postgres)


def test_the_next_request_is_not_taken_for_the_abandoned_one() -> None:
    """What was remembered of the request that was left must not be matched with later answers."""
    with relay() as r:
        server, postgres = abandoned(r, (SELECT, b""))
        postgres.send(FAILED + READY)
        client, app = r.client()
        app.send(BATCH)
        postgres.receive()
        postgres.send(PARSED + BOUND + COMPLETE)
        assert client.server is server
        assert app.receive() == PARSED + BOUND + COMPLETE
