"""Clients and servers linked by the relay: bytes, back-pressure, pool modes."""

from __future__ import annotations

import pytest

from poolproxy.ipc.messages import Relayed
from poolproxy.relay.client import HOLD
from poolproxy.relay.connection import CHUNK
from poolproxy.relay.lane import LONG_WAIT
from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.harness import (
    DONE,
    FAILED,
    IN_BLOCK,
    SELECT,
    SYNC,
    TERMINATE,
    relay,
    row,
)
from tests.relay.test_at_rest import FLUSH


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


def test_a_relayed_client_comes_before_those_who_came_within_what_it_is_late() -> None:
    """Where others wait long, as then it is late; else it waits behind them."""
    with relay() as r:
        (first, _), (second, _), (third, _) = clients = [r.client() for _ in range(3)]
        second.relayed = Relayed("", 1)
        for _, app in clients[:2]:
            app.send(SELECT)
        assert list(r.pool.waiting) == [first, second]
        first.wait_since -= 2 * LONG_WAIT
        r.pool.give_up(second)
        second.wait_since = 0.0
        second.held = b""
        clients[2][1].send(SELECT)
        clients[1][1].send(SELECT)
        assert list(r.pool.waiting) == [first, second, third]
        assert second.wait_since < third.wait_since


def test_whether_relayed_clients_come_seldom_is_their_workers_matter() -> None:
    """Those of another one make nobody late."""
    for process, before in ((1, True), (2, False)):
        with relay() as r:
            (first, one), (second, two), (third, three) = [r.client() for _ in range(3)]
            third.relayed = Relayed("", process)
            one.send(SELECT)
            first.wait_since -= 2 * LONG_WAIT
            r.pool.relayed_at = {1: first.wait_since + 2 * LONG_WAIT, 2: 0.0}
            two.send(SELECT)
            three.send(SELECT)
            assert list(r.pool.waiting) == (
                [first, third, second] if before else [first, second, third]
            )


def test_nobody_comes_before_others_while_relayed_transactions_go_on() -> None:
    """Then no relayed client is late."""
    with relay() as r:
        (first, one), (_, other), (relayed, far), (engaged, busy) = [r.client() for _ in range(4)]
        relayed.relayed = engaged.relayed = Relayed("", 1)
        _, postgres = r.server()
        busy.send(query("begin"))
        postgres.send(IN_BLOCK)
        busy.send(SELECT)
        one.send(SELECT)
        first.wait_since -= 2 * LONG_WAIT
        r.pool.relayed_at[1] = first.wait_since + 2 * LONG_WAIT
        other.send(SELECT)
        far.send(SELECT)
        assert list(r.pool.waiting)[-1] is relayed


def test_nobody_comes_before_others_where_there_is_one_server() -> None:
    """Its relayed clients' lanes are not held."""
    for lone in (True, False):
        with relay() as r:
            (first, one), (second, other), (third, far) = [r.client() for _ in range(3)]
            third.relayed = Relayed("", 1)
            r.pool.lone = lone
            one.send(SELECT)
            first.wait_since -= 2 * LONG_WAIT
            r.pool.relayed_at[1] = first.wait_since + 2 * LONG_WAIT
            other.send(SELECT)
            far.send(SELECT)
            waiting = [first, second, third] if lone else [first, third, second]
            assert list(r.pool.waiting) == waiting


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
