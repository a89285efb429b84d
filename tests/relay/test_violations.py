"""A server that breaks the protocol goes with its client, and serves nobody else."""

from __future__ import annotations

import pytest

from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.harness import DONE, IN_BLOCK, SELECT, Peer, Relay, relay, report, row
from tests.wire.test_violations import MESSAGES, UNEXPECTED, said

BEGIN = query("begin")
SITUATIONS = ["instead", "behind", "in a transaction", "in a session", "amid a task"]


def misplaced(situation: str) -> list[str]:
    """The types that have no place there."""
    return [code for code in MESSAGES if situation != "instead" or code in "123nstV" + "WRKv"]


CASES = [(situation, code) for situation in SITUATIONS for code in misplaced(situation)]


def provoke(situation: str, app: Peer, postgres: Peer, sent: bytes) -> None:
    """Have the server send ``sent`` where it does not belong."""
    app.send(SELECT if situation != "in a transaction" else BEGIN)
    postgres.receive()
    if situation == "behind":
        sent = DONE + sent
    elif situation == "in a transaction":
        postgres.send(IN_BLOCK)
    elif situation == "in a session":
        postgres.send(DONE)
    postgres.send(sent)


def is_fit(r: Relay) -> bool:
    """Whether another client gets its own answer, and nothing else, from another server."""
    _, postgres = r.server()
    _, app = r.client()
    app.send(SELECT)
    assert postgres.receive() == SELECT
    postgres.send(row(3) + DONE)
    return app.receive() == row(3) + DONE


@pytest.mark.parametrize(("situation", "code"), CASES)
def test_both_end_with_a_clear_error_and_it_is_counted(situation: str, code: str) -> None:
    """Whatever the message, wherever it comes; a client that has only waited goes elsewhere."""
    mode = "session" if situation == "in a session" else "transaction"
    with relay(database={"pool_mode": mode}) as r:
        task = {"TimeZone": "UTC"} if situation == "amid a task" else {}
        server, postgres = r.server(**task)
        client, app = r.client(**({"TimeZone": "Asia/Tokyo"} if task else {}))
        if task:
            app.send(SELECT)
            postgres.receive()
            postgres.send(DONE + said(code))
        else:
            provoke(situation, app, postgres, said(code))
        assert [(one.server, one.reason) for one in r.host.ends] == [(server, "unknown pkt")]
        kind = "unexpected" if code in UNEXPECTED else "unasked"
        assert r.pool.stats.violations == {kind: 1}
        if task:
            assert list(r.pool.waiting) == [client]
            return
        error = app.error()
        assert (error.severity, error.message, error.sqlstate) == ("FATAL", "unknown pkt", "08006")
        assert r.pool.stats.errors == {"server_violation": 1}
        assert is_fit(r)


@pytest.mark.parametrize("code", MESSAGES)
def test_an_idle_server_that_answers_nobody_is_never_used(code: str) -> None:
    """Between two clients."""
    with relay() as r:
        server, postgres = r.server()
        postgres.send(said(code))
        assert [(one.server, one.reason) for one in r.host.ends] == [
            (server, "idle server got dirty")
        ]
        assert r.pool.stats.violations == {"unasked": 1}
        assert is_fit(r)


@pytest.mark.parametrize("sent", [report("TimeZone", "UTC"), message(ord("N"), b"Mhello\0\0")])
def test_what_postgresql_may_say_to_an_idle_server_is_no_violation(sent: bytes) -> None:
    """The server is closed all the same: there is nobody who could be told."""
    with relay() as r:
        _, postgres = r.server()
        postgres.send(sent)
        assert [one.reason for one in r.host.ends] == ["idle server got dirty"]
        assert r.pool.stats.violations == {}


def test_a_client_amid_a_row_is_closed_without_a_word() -> None:
    """An error there would be read as the row's data."""
    with relay() as r:
        _, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        large = row(1000)
        postgres.send(message(ord("T"), b"\0\0") + large[:500])
        postgres.send(large[500:] + said("1"))
        assert app.receive() == message(ord("T"), b"\0\0") + large[:500]
        assert app.is_closed()
        assert len(r.host.ends) == 1


def test_a_client_before_a_header_is_told() -> None:
    """What is kept of a message until its header is whole has not reached the client."""
    with relay() as r:
        _, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        postgres.send(said("T") + b"1\0\0")
        assert app.receive() == said("T")
        postgres.send(b"\0\4" + ready_for_query())
        assert app.error().message == "unknown pkt"
