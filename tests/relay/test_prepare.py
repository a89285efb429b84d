"""Making a server ready for a client: its parameters, and the check of one that was idle for long."""

from __future__ import annotations

import pytest

from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.harness import DONE, FAILED, SELECT, relay, report

CHECK = {"server_check_query": "select 'check'", "server_check_delay": "0s"}
SET_ZONE = query("SELECT pg_catalog.set_config('TimeZone','utc',false)")


def test_parameters_are_set_before_the_client_is_served() -> None:
    """The client sees nothing of it but the server's spelling, which it now has too."""
    with relay() as r:
        server, postgres = r.server(TimeZone="CET")
        client, app = r.client(TimeZone="utc")
        app.send(SELECT)
        assert client.server is None
        assert server.state == "testing"
        assert postgres.receive() == SET_ZONE
        postgres.send(report("TimeZone", "UTC") + DONE)
        assert client.server is server
        assert server.values == client.values == r.context.tracker.values({"TimeZone": "UTC"})
        assert postgres.receive() == SELECT
        postgres.send(DONE)
        assert app.receive() == DONE


def test_equal_parameters_cost_nothing() -> None:
    """Nor do those that differ in case only."""
    with relay() as r:
        _, postgres = r.server(TimeZone="UTC")
        client, app = r.client(TimeZone="utc")
        app.send(SELECT)
        assert client.server is not None
        assert postgres.receive() == SELECT


def test_what_a_client_sets_goes_with_it() -> None:
    """ParameterStatus changes both; the next server is brought to it."""
    with relay() as r:
        server, postgres = r.server(TimeZone="UTC")
        client, app = r.client(TimeZone="UTC")
        app.send(query("set timezone = 'CET'"))
        postgres.send(report("TimeZone", "CET") + DONE)
        assert client.values == server.values == r.context.tracker.values({"TimeZone": "CET"})
        other, other_app = r.client(TimeZone="UTC")
        postgres.receive()
        other_app.send(SELECT)
        assert other.server is None
        assert b"'UTC'" in postgres.receive()


def test_a_parameter_that_is_refused_ends_the_client_alone() -> None:
    """With PostgreSQL's own words, however they arrive; the server serves the next client."""
    with relay() as r:
        server, postgres = r.server(TimeZone="UTC")
        _, app = r.client(TimeZone="Nowhere")
        app.send(SELECT)
        for byte in FAILED + ready_for_query():
            postgres.send(bytes((byte,)))
        error = app.error()
        assert (error.message, error.sqlstate) == ("no", "42601")
        assert not r.host.ends
        other, other_app = r.client(TimeZone="UTC")
        other_app.send(SELECT)
        assert other.server is server


def test_a_server_that_goes_meanwhile_refuses_nothing() -> None:
    """pg_terminate_backend right behind the answer is not the client's fault: another server serves it."""
    with relay() as r:
        _, postgres = r.server(TimeZone="CET")
        client, app = r.client(TimeZone="UTC")
        app.send(SELECT)
        postgres.receive()
        other, other_postgres = r.server(TimeZone="UTC")
        postgres.send(
            report("TimeZone", "UTC") + DONE + message(ord("E"), b"SFATAL\0C57P01\0Mgo\0\0")
        )
        assert client.server is other
        assert other_postgres.receive() == SELECT
        assert not app.receive()


def test_start_up_parameters_that_are_not_reported_follow_their_client() -> None:
    """They are set once, left alone while clients with the same follow, and reset for others."""
    with relay() as r:
        server, postgres = r.server()
        clients = []
        for parameters in ({"geqo": "off", "Jit": "off"}, {"GEQO": "off", "jit": "off"}, {}):
            client, app = r.client()
            client.values = r.context.tracker.wished(parameters, server.values)
            clients.append(app)
        expected = [
            query(
                "SELECT pg_catalog.set_config('geqo','off',false),"
                "pg_catalog.set_config('jit','off',false)"
            ),
            b"",
            query(
                "SELECT pg_catalog.set_config('geqo',NULL,false),"
                "pg_catalog.set_config('jit',NULL,false)"
            ),
        ]
        for app, setting in zip(clients, expected, strict=True):
            app.send(SELECT)
            if setting:
                assert postgres.receive() == setting
                postgres.send(DONE)
            assert postgres.receive() == SELECT
            postgres.send(DONE)
            assert app.receive() == DONE


def test_what_others_have_left_is_not_the_next_clients_fault() -> None:
    """When a server refuses, it is first freed of what is left there, and then asked again."""
    with relay() as r:
        server, postgres = r.server()
        tracker = r.context.tracker
        server.values = tracker.wished({"statement_timeout": "1"}, server.values)
        client, app = r.client()
        client.values = tracker.wished({"geqo": "off"}, tracker.nothing)
        app.send(SELECT)
        assert b"NULL" in postgres.receive()
        postgres.send(FAILED + ready_for_query())
        assert postgres.receive() == query(
            "SELECT pg_catalog.set_config('statement_timeout',NULL,false)"
        )
        postgres.send(DONE)
        assert postgres.receive() == query("SELECT pg_catalog.set_config('geqo','off',false)")
        postgres.send(DONE)
        assert client.server is server
        assert server.values == client.values


def test_a_server_that_can_not_be_freed_of_what_is_left_is_closed() -> None:
    """And the client is served by another."""
    with relay() as r:
        good, _ = r.server()
        bad, postgres = r.server()
        bad.values = r.context.tracker.wished({"geqo": "off"}, bad.values)
        client, app = r.client()
        app.send(SELECT)
        postgres.send(FAILED + ready_for_query())
        postgres.send(FAILED + ready_for_query())
        assert [(one.server, one.reason) for one in r.host.ends] == [(bad, "reset query failed")]
        assert client.server is good


@pytest.mark.parametrize(
    ("reset", "also"),
    [("DISCARD  ALL;", False), ("discard all", False), ("select 'mine'", True)],
)
def test_nothing_is_left_of_a_session(reset: str, also: bool) -> None:
    """Where server_reset_query is not known to reset all, the unreported parameters are reset, too."""
    with relay({"server_reset_query": reset}, {"pool_mode": "session"}) as r:
        server, postgres = r.server()
        server.values = r.context.tracker.wished({"geqo": "off"}, server.values)
        client, app = r.client()
        client.values = server.values
        app.send(SELECT)
        assert postgres.receive() == SELECT
        postgres.send(DONE)
        app.close()
        if also:
            assert b"'geqo',NULL" in postgres.receive()
            postgres.send(DONE)
        assert postgres.receive() == query(reset)
        postgres.send(DONE)
        assert server.values == r.context.tracker.nothing


def test_a_server_that_was_idle_is_checked_first() -> None:
    """Then its parameters are set, then the client is served."""
    with relay(CHECK) as r:
        _, postgres = r.server(TimeZone="CET")
        client, app = r.client(TimeZone="utc")
        app.send(SELECT)
        assert postgres.receive() == query("select 'check'")
        postgres.send(DONE)
        assert postgres.receive() == SET_ZONE
        postgres.send(report("TimeZone", "UTC") + DONE)
        assert client.server is not None
        assert postgres.receive() == SELECT


def test_a_check_that_fails_costs_the_server_and_not_the_client() -> None:
    """Another idle server takes its place."""
    with relay(CHECK) as r:
        good, good_postgres = r.server()
        bad, bad_postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        bad_postgres.send(FAILED + ready_for_query())
        assert [(one.server, one.reason) for one in r.host.ends] == [(bad, "test query failed")]
        good_postgres.send(DONE)
        assert client.server is good
        assert good_postgres.receive() == query("select 'check'") + SELECT


def test_a_server_that_dies_in_its_check_costs_no_client() -> None:
    """The commonest reason for a check: a firewall has forgotten the connection."""
    with relay(CHECK) as r:
        good, good_postgres = r.server()
        _, bad_postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        bad_postgres.close()
        good_postgres.send(DONE)
        assert client.server is good
        assert not app.is_closed()


def test_without_another_server_the_client_is_first_in_line() -> None:
    """Before those who came later, and the host is asked for a server."""
    with relay(CHECK) as r:
        _, postgres = r.server()
        client, app = r.client()
        other, other_app = r.client()
        app.send(SELECT)
        other_app.send(SELECT)
        postgres.close()
        assert list(r.pool.waiting) == [client, other]
        assert r.host.wants


def test_a_parameter_that_is_refused_after_a_good_check_is_the_clients_fault() -> None:
    """It is not tried elsewhere."""
    with relay(CHECK) as r:
        r.server()
        _, postgres = r.server(TimeZone="UTC")
        _, app = r.client(TimeZone="Nowhere")
        app.send(SELECT)
        postgres.send(DONE)
        postgres.send(FAILED + ready_for_query())
        assert app.error().sqlstate == "42601"


def test_a_client_that_leaves_meanwhile_costs_nothing() -> None:
    """The server finishes its own query and serves the next one."""
    with relay(CHECK) as r:
        server, postgres = r.server()
        _, app = r.client()
        app.send(SELECT)
        app.close()
        postgres.send(DONE)
        assert list(r.pool.idle) == [server]
        assert not r.host.ends


def test_a_client_may_go_on_sending_meanwhile() -> None:
    """What comes while the server is made ready is kept behind what is held."""
    with relay(CHECK) as r:
        _, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        app.send(query("select 2"))
        assert client.server is None
        postgres.receive()
        postgres.send(DONE)
        assert postgres.receive() == SELECT + query("select 2")
        postgres.send(DONE + DONE)
        assert client.server is None
