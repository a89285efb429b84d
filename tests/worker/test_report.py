"""The snapshot that a worker sends."""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages import ClientsGone, Snapshot
from poolproxy.metrics.snapshot import WorkerSnapshot, decode
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.worker.report import ROWS, report
from tests.worker.house import House, house

SELECT = query("select 1")
DONE = message(ord("C"), b"SELECT 1\0") + ready_for_query()


def snapshot(h: House, request: int = 7) -> WorkerSnapshot:
    h.heard()
    report(h.worker, request)
    (sent,) = h.heard()
    assert isinstance(sent, Snapshot)
    assert sent.request == request
    return decode(sent.data)


def test_connections_are_counted_by_state() -> None:
    """As they are now, and every state has a number."""
    with house({"server_idle_timeout": "5s"}) as h:
        h.server()
        h.client(SELECT)
        h.client(SELECT)
        h.client()
        h.pool.opening += 2
        h.worker.logging_in += 1
        told = snapshot(h)
        (pool,) = told.pools
        assert (pool.clients["active"], pool.clients["waiting"], pool.clients["idle"]) == (1, 1, 1)
        assert (pool.servers["active"], pool.servers["login"]) == (1, 2)
        assert pool.servers["idle"] == pool.servers["closing"] == pool.servers["testing"] == 0
        assert pool.maxwait > 0
        assert (told.worker.clients, told.worker.clients_logging_in) == (4, 1)


def test_a_server_that_is_ending_is_counted_as_closing() -> None:
    """It still holds its permit."""
    with house() as h:
        server, _ = h.server()
        server.end("test")
        (pool,) = snapshot(h).pools
        assert (pool.servers["closing"], pool.servers["idle"]) == (1, 0)


def test_counters_add_up_over_snapshots() -> None:
    """Single statements are spread over queries and transactions once."""
    with house() as h:
        _, postgres = h.server()
        _, app = h.client()
        for number in (1, 2):
            app.send(SELECT)
            h.turn()
            postgres.send(DONE)
            h.turn()
            (pool,) = snapshot(h).pools
            assert (pool.query_count, pool.xact_count) == (number, number)
            assert sum(pool.wait_hist) == pool.server_assignment_count == number


def test_reasons_are_counted() -> None:
    """Why clients and servers went, under labels from a fixed set."""
    with house() as h:
        server, _ = h.server()
        _, app = h.client()
        _, broken = h.client()
        app.close()
        broken.send(b"\xff\0\0\0\4")
        h.turn()
        server.end("something never heard of")
        (pool,) = snapshot(h).pools
        assert pool.client_disconnects == {"eof": 1, "error": 1}
        assert pool.errors == {"protocol": 1}
        assert pool.server_closes == {"other": 1}


def test_many_pools_are_reported_in_several_messages() -> None:
    """Only the last one answers the request, so that a scrape has waited for all of them."""
    with house() as h:
        for number in range(2 * ROWS):
            settings = attrs.evolve(h.pool.settings, database=f"d{number}")
            h.worker.pool(settings)
        h.heard()
        report(h.worker, 7)
        sent = h.heard()
        assert [message.request for message in sent] == [0, 0, 7]
        told = [len(decode(message.data).pools) for message in sent]
        assert told == [ROWS, ROWS, 1]


def test_a_full_channel_drops_the_snapshot() -> None:
    """Metrics go before anything else."""
    with house() as h:
        while not h.worker.channel.full:
            h.worker.channel.post(ClientsGone((1,) * 5000))
        waiting = len(h.worker.channel._queue)
        report(h.worker, 1)
        assert len(h.worker.channel._queue) == waiting
