"""Session parameters that PostgreSQL reports follow their client."""

from __future__ import annotations

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import SYNC, query, run
from tests.system.support import client, tables

# Two values for each tracked parameter, as PostgreSQL reports them.
TRACKED = {
    "TimeZone": ("Europe/Berlin", "America/New_York"),
    "DateStyle": ("SQL, DMY", "German, DMY"),
    "IntervalStyle": ("iso_8601", "sql_standard"),
    "application_name": ("it's one", 'the "other" \\ one'),
    "client_encoding": ("LATIN1", "UTF8"),
    "standard_conforming_strings": ("off", "on"),
}


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """One server for all clients of a database."""
    databases = {
        mode: {"pool_mode": mode, "pool_size": 1}
        for mode in ("transaction", "session", "statement")
    }
    return start_module_proxy(tables(postgres, databases, workers=1))


@pytest.mark.parametrize("name", TRACKED)
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_start_up_parameters_never_mix(proxy: ProxyProcess, mode: str, name: str) -> None:
    """Two clients on one server each see the value of their own start-up packet, time and again."""
    first, second = TRACKED[name]
    with client(proxy, mode, **{name: first}) as one, client(proxy, mode, **{name: second}) as two:
        assert (one.parameters[name], two.parameters[name]) == (first, second)
        for _ in range(3):
            assert one.value(f"show {name}") == first
            assert two.value(f"show {name}") == second
        with client(proxy, mode) as three:
            assert three.parameters[name] not in (first,)
            assert three.value(f"show {name}") == three.parameters[name]
            assert one.value(f"show {name}") == first


@pytest.mark.parametrize("name", TRACKED)
def test_set_is_followed(proxy: ProxyProcess, name: str) -> None:
    """What a client sets by SET goes with it to its next transaction, and to nobody else."""
    first, second = TRACKED[name]
    with client(proxy, "transaction") as one, client(proxy, "transaction") as two:
        before = two.value(f"show {name}")
        for value in (first, second, first):
            one.query(f"set {name} to {_literal(value)}")
            assert one.parameters[name] == value
            assert two.value(f"show {name}") == before
            assert one.value(f"show {name}") == value


def _literal(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"E'{escaped}'"


def test_set_in_a_transaction_that_rolls_back(proxy: ProxyProcess) -> None:
    """SET undone by ROLLBACK is undone for the client, too."""
    with client(proxy, "transaction") as one, client(proxy, "transaction") as two:
        before = one.value("show timezone")
        one.query("begin; set timezone to 'Asia/Tokyo'")
        assert one.value("show timezone") == "Asia/Tokyo"
        one.query("rollback")
        assert two.value("show timezone") == before
        assert one.value("show timezone") == before


def test_set_local_ends_with_its_transaction(proxy: ProxyProcess) -> None:
    """SET LOCAL of a tracked parameter lasts for its transaction."""
    with client(proxy, "transaction") as one, client(proxy, "transaction") as two:
        before = one.value("show datestyle")
        one.query("begin; set local datestyle to 'German'")
        assert one.value("show datestyle") == "German, DMY"
        one.query("commit")
        assert two.value("show datestyle") == before
        assert one.value("show datestyle") == before


def test_parameters_in_the_extended_protocol(proxy: ProxyProcess) -> None:
    """A SET by Parse, Bind and Execute is followed as well."""
    with client(proxy, "transaction") as one, client(proxy, "transaction") as two:
        one.send(run("set timezone to 'Asia/Tokyo'"), SYNC)
        one.results()
        assert two.value("show timezone") != "Asia/Tokyo"
        one.send(run("show timezone"), SYNC)
        assert one.results() == [("Asia/Tokyo",)]


def test_nothing_of_ours_is_seen(proxy: ProxyProcess) -> None:
    """Bringing a server to a client's parameters leaves no message for the client."""
    with client(proxy, "transaction", TimeZone="Asia/Tokyo") as one:
        with client(proxy, "transaction", TimeZone="UTC") as two:
            two.query("select 1")
        one.send(query("select 1"))
        assert [reply.code for reply in one.read_until("Z")] == ["T", "D", "C", "Z"]


def test_session_mode_applies_parameters_too(proxy: ProxyProcess) -> None:
    """In session mode a server gets its client's parameters, and DISCARD ALL takes them away."""
    with client(proxy, "session", TimeZone="Asia/Tokyo", application_name="one") as one:
        assert one.value("show timezone") == "Asia/Tokyo"
        assert one.value("show application_name") == "one"
    with client(proxy, "session") as two:
        assert two.value("show timezone") == two.parameters["TimeZone"] != "Asia/Tokyo"
        assert two.value("show application_name") == ""


def test_names_compare_without_case(proxy: ProxyProcess) -> None:
    """timezone in a start-up packet is TimeZone."""
    with client(proxy, "transaction", timezone="Asia/Tokyo") as one:
        assert one.parameters["TimeZone"] == "Asia/Tokyo"
        assert one.value("show timezone") == "Asia/Tokyo"


@pytest.mark.parametrize(
    "options",
    [
        "-c timezone=Asia/Tokyo",
        "-ctimezone=Asia/Tokyo",
        "--timezone=Asia/Tokyo",
        "--TimeZone=Asia/Tokyo",
    ],
)
def test_options(proxy: ProxyProcess, options: str) -> None:
    """All ways in which options name a tracked parameter."""
    with client(proxy, "transaction", options=options) as one:
        assert one.value("show timezone") == "Asia/Tokyo"


def test_options_with_escapes(proxy: ProxyProcess) -> None:
    """A backslash keeps a blank in a value; several options stand side by side."""
    options = "-c datestyle=SQL,\\ DMY --application-name=two\\ words"
    with client(proxy, "transaction", options=options) as one:
        assert one.value("show datestyle") == "SQL, DMY"
        assert one.value("show application_name") == "two words"


def test_a_hostile_value_is_a_value(proxy: ProxyProcess) -> None:
    """A parameter can't break out of the statement that sets it."""
    name = "x',false); create table broken_out (); select set_config('a"
    with client(proxy, "transaction", application_name=name) as one:
        assert one.value("show application_name") == name[:63]
        assert one.value("select to_regclass('broken_out')") is None
