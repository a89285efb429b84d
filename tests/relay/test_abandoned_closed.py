"""Servers whose clients have gone amid their work, and that are not used again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.abandoning import BATCH, BOUND, COPY, PARSED, READY, ROW, abandoned
from tests.relay.harness import COPY_IN, FAILED, IN_BLOCK, SELECT, SYNC, relay

LEFT = "client disconnect while server was not ready"
UNCERTAIN: dict[str, list[tuple[bytes, bytes]]] = {
    "within a message": [(query("begin"), IN_BLOCK), (query("x" * 100_000)[:70_000], b"")],
    "within a row": [(COPY, COPY_IN), (ROW[:7], b"")],
    "a Sync inside a COPY": [(BATCH + SYNC, PARSED + BOUND + COPY_IN)],
    "a query inside a COPY": [(COPY + SELECT, COPY_IN)],
    "rubbish": [(query("begin"), IN_BLOCK), (b"?\0\0\0\4", b"")],
}


@pytest.mark.parametrize("name", UNCERTAIN)
def test_a_server_of_which_too_little_is_known_is_closed(name: str) -> None:
    """Nothing is sent to it any more, or nothing that could be taken for something else."""
    with relay() as r:
        server, postgres = r.server()
        _, app = r.client()
        for sent, answer in UNCERTAIN[name]:
            app.send(sent)
            postgres.receive()
            postgres.send(answer)
        app.close()
        assert [one.server for one in r.host.ends] == [server]
        assert r.pool.stats.abandoned == {"closed": 1}
        assert not r.pool.servers


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (FAILED + READY, "abandoned work could not be ended"),
        (message(ord("C"), b"ROLLBACK\0") + ready_for_query(ord("T")), "reset query failed"),
        (PARSED, "unknown pkt"),
    ],
    ids=["refused", "without effect", "a violation"],
)
def test_a_rollback_that_fails_costs_the_server(answer: bytes, reason: str) -> None:
    """Whatever the server says to it but that it is idle."""
    with relay() as r:
        _, postgres = abandoned(r, (query("begin"), IN_BLOCK))
        postgres.receive()
        postgres.send(answer)
        assert [one.reason for one in r.host.ends] == [reason]


def test_a_server_that_dies_meanwhile_is_gone() -> None:
    """Nobody is told, as nobody is there."""
    with relay() as r:
        _, postgres = abandoned(r, (SELECT, b""))
        postgres.close()
        assert [(one.reason, one.ended) for one in r.host.ends] == [("server conn crashed?", True)]
        assert r.pool.stats.abandoned == {"closed": 1}


@pytest.mark.parametrize("settings", [{"abandoned_work": "close"}, {}], ids=["close", "doomed"])
def test_a_server_that_would_be_closed_anyway_is_closed_at_once(
    settings: Mapping[str, Any],
) -> None:
    """As PgBouncer does always."""
    with relay(settings) as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(query("begin"))
        postgres.send(IN_BLOCK)
        if not settings:
            server.doomed = "database configuration changed"
        app.close()
        assert [one.reason for one in r.host.ends] == [LEFT]
