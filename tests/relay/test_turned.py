"""Servers that are no longer what they were are closed when they are free, and not before."""

from __future__ import annotations

import pytest

from poolproxy.pool.hosts import Role
from poolproxy.relay.turned import OTHER_ROLE, READ_ONLY, YOUNG
from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.harness import DONE, IN_BLOCK, SELECT, relay, report

REFUSED = message(ord("E"), b"SERROR\0VERROR\0C25006\0Mcannot execute INSERT\0\0")
ROLLED_BACK = message(ord("C"), b"ROLLBACK\0") + ready_for_query()


@pytest.mark.parametrize("wanted", ["any", "read-write", "primary"])
@pytest.mark.parametrize("prepared", [0, 200])
def test_a_server_that_refuses_a_write_is_closed(wanted: str, prepared: int) -> None:
    """The client gets PostgreSQL's error and lives on; its server is not used again."""
    with relay({"max_prepared_statements": prepared}, {"target_session_attrs": wanted}) as r:
        server, postgres = r.server()
        server.connected_at -= YOUNG + 1
        client, app = r.client()
        app.send(SELECT)
        postgres.receive()
        postgres.send(REFUSED + ready_for_query())
        assert app.receive() == REFUSED + ready_for_query()
        assert [(end.server, end.reason) for end in r.host.ends] == [(server, READ_ONLY)]
        assert not client.closed


def test_it_stays_until_the_transaction_has_ended() -> None:
    """What is closed when it is free is not closed amid a transaction."""
    with relay(database={"target_session_attrs": "read-write"}) as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(query("begin"))
        postgres.receive()
        postgres.send(IN_BLOCK)
        app.send(SELECT)
        postgres.receive()
        postgres.send(REFUSED + ready_for_query(ord("E")))
        app.receive()
        assert not r.host.ends
        app.send(query("rollback"))
        postgres.receive()
        postgres.send(ROLLED_BACK)
        assert app.receive() == ROLLED_BACK
        assert [(end.server, end.reason) for end in r.host.ends] == [(server, READ_ONLY)]


@pytest.mark.parametrize(
    ("wanted", "role", "old"),
    [
        ("any", None, False),
        ("read-write", Role.PRIMARY, False),
        ("standby", Role.STANDBY, True),
        ("read-only", None, True),
        ("prefer-standby", Role.STANDBY, True),
    ],
)
def test_it_may_be_the_client_s_own_doing(wanted: str, role: Role | None, old: bool) -> None:
    """Who reads only is not surprised; a young server is not closed for what a client may have done."""
    with relay(database={"target_session_attrs": wanted}) as r:
        server, postgres = r.server()
        server.role = role
        server.connected_at -= (YOUNG + 1) * old
        _, app = r.client()
        app.send(SELECT)
        postgres.receive()
        postgres.send(REFUSED + ready_for_query())
        app.receive()
        assert not r.host.ends
        assert list(r.pool.idle) == [server]


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [(Role.PRIMARY, "on", Role.STANDBY), (Role.STANDBY, "off", Role.PRIMARY)],
)
def test_a_server_that_reports_another_role_is_closed(
    before: Role, value: str, after: Role
) -> None:
    """The client gets its answer with the report; the acceptor is told, and the server goes."""
    with relay() as r:
        server, postgres = r.server()
        server.role = before
        _, app = r.client()
        app.send(SELECT)
        postgres.receive()
        sent = report("in_hot_standby", value) + DONE
        postgres.send(sent)
        assert app.receive() == sent
        assert r.host.turned == [(server, after)]
        assert [(end.server, end.reason) for end in r.host.ends] == [(server, OTHER_ROLE)]


def test_a_report_of_the_same_role_changes_nothing() -> None:
    """Nor does one from a server of which it is not known what it was."""
    for role in (Role.STANDBY, None):
        with relay() as r:
            server, postgres = r.server()
            server.role = role
            _, app = r.client()
            app.send(SELECT)
            postgres.receive()
            postgres.send(report("in_hot_standby", "on") + DONE)
            app.receive()
            assert not r.host.ends
            assert not r.host.turned
