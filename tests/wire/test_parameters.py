"""Tracked parameters."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from poolproxy.demo.postgres import PostgresServer
from poolproxy.errors import PoolerError
from poolproxy.wire.parameters import ALWAYS_TRACKED, MAX_VALUE, Tracker

TRACKER = Tracker(["IntervalStyle", "search_path"])
HOSTILE = [
    "",
    "schéma",
    "𝛑",
    "a\nb",
    "'",
    "''",
    "\\",
    "\\'",
    "';select 1;--",
    "E'",
    "$$",
    "%s",
    "a\\\\'b",
    '"x"',
]


def test_names_compare_without_case() -> None:
    """As in PostgreSQL; a name that is given twice is tracked once, as it was written last."""
    assert TRACKER.tracks("timezone")
    assert TRACKER.tracks("TIMEZONE")
    assert not TRACKER.tracks("work_mem")
    assert Tracker(["TIMEZONE"]).names == (
        "client_encoding",
        "DateStyle",
        "TIMEZONE",
        "standard_conforming_strings",
        "application_name",
    )


def test_values_have_a_place_for_each_name() -> None:
    """None where nothing is given; what isn't tracked is left out; one more is for the unreported ones."""
    values = TRACKER.values({"timezone": "UTC", "work_mem": "1MB"})
    assert TRACKER.items(values) == [("TimeZone", "UTC")]
    assert len(values) == len(ALWAYS_TRACKED) + 2 + 1
    assert TRACKER.others(values) == {}


def test_an_update_changes_one_value() -> None:
    """An equal value, or one of no tracked name, gives the very same tuple: clients share them."""
    values = TRACKER.values({"TimeZone": "UTC"})
    assert TRACKER.updated(values, "TIMEZONE", "UTC") is values
    assert TRACKER.updated(values, "work_mem", "1MB") is values
    changed = TRACKER.updated(values, "timezone", "CET")
    assert TRACKER.items(changed) == [("TimeZone", "CET")]


def test_a_client_has_its_own_values_and_the_servers_defaults() -> None:
    """What it asks for and no server reports goes with it by itself, tracked or not."""
    defaults = TRACKER.values({"TimeZone": "UTC", "DateStyle": "ISO, MDY"})
    asked = {"timezone": "CET", "Work_Mem": "1MB", "search_path": "a"}
    mine = TRACKER.wished(asked, defaults)
    assert dict(TRACKER.items(mine)) == {"TimeZone": "CET", "DateStyle": "ISO, MDY"}
    assert TRACKER.others(mine) == {"work_mem": "1MB", "search_path": "a"}
    assert TRACKER.default(mine) == TRACKER.wished({"TimeZone": "CET"}, defaults)
    assert TRACKER.given(defaults, mine) == (*defaults[:-1], mine[-1])


def test_the_place_is_what_names_of_tables_hang_on() -> None:
    """search_path, reported or not, and role; clients that differ in other things have the same place."""
    plain = TRACKER.values({"TimeZone": "UTC"})
    assert TRACKER.place(plain) == TRACKER.place(TRACKER.wished({"geqo": "off"}, plain)) == ""
    unreported = TRACKER.place(TRACKER.wished({"Search_Path": "a"}, plain))
    reported = TRACKER.place(TRACKER.values({"search_path": "a"}))
    with_role = TRACKER.place(TRACKER.wished({"role": "a"}, plain))
    assert unreported == reported
    assert len({"", reported, with_role}) == 3


def test_only_what_differs_is_set() -> None:
    """Compared without case, as PgBouncer does; unknown values on either side are left alone."""
    server = TRACKER.values({"TimeZone": "UTC", "DateStyle": "ISO, MDY", "application_name": "a"})
    assert TRACKER.set_statement(server, server) == ""
    client = TRACKER.values({"TimeZone": "utc", "DateStyle": "German", "search_path": "x"})
    assert TRACKER.set_statement(server, client) == (
        "SELECT pg_catalog.set_config('DateStyle','German',false)"
    )


def test_the_client_gets_the_servers_spelling() -> None:
    """After the change both sides hold equal values, so the next look finds no difference."""
    client = TRACKER.wished({"TimeZone": "utc", "geqo": "off"}, TRACKER.values({"TimeZone": "x"}))
    server = TRACKER.values({"TimeZone": "UTC", "DateStyle": "ISO"})
    canonical = TRACKER.canonical(client, server)
    assert dict(TRACKER.items(canonical)) == {"TimeZone": "UTC"}
    assert TRACKER.others(canonical) == {"geqo": "off"}


def test_a_tracked_value_that_is_too_long_is_refused() -> None:
    """As each idle client keeps its values."""
    defaults = TRACKER.values({"TimeZone": "UTC", "application_name": ""})
    for name in ("TimeZone", "application_name"):
        with pytest.raises(PoolerError) as caught:
            TRACKER.wished({name: "x" * (MAX_VALUE + 1)}, defaults)
        assert str(caught.value) == f"invalid value for startup parameter: {name} is too long"


def test_application_name_is_cleaned_as_postgresql_does() -> None:
    """Question marks take the place of what isn't printable ASCII."""
    values = TRACKER.wished({"Application_Name": "é\na"}, TRACKER.values({"application_name": ""}))
    assert TRACKER.items(values) == [("application_name", "??a")]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_a_statement_is_ascii_and_leaves_no_quote_open(value: str) -> None:
    """In some encodings a byte of a character is a quote or a backslash."""
    assume(value != "\1")  # which the server has already
    server, client = (TRACKER.updated(TRACKER.nothing, "TimeZone", v) for v in ("\1", value))
    literal = TRACKER.set_statement(server, client)
    literal = literal.removeprefix("SELECT pg_catalog.set_config('TimeZone',")
    literal = literal.removesuffix(",false)")
    assert literal.isascii()
    assert literal.isprintable()
    inner = literal.removeprefix("E")[1:-1].replace("''", "'")
    if literal.startswith("E"):
        inner = inner.encode().decode("unicode_escape")
    assert inner == value


def test_postgresql_reads_the_values_that_were_quoted(postgres: PostgresServer) -> None:
    """Whatever standard_conforming_strings says, a hostile value is a value and no SQL."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for conforming in ("on", "off"):
            connection.execute(f"set standard_conforming_strings = {conforming}")
            connection.execute("set escape_string_warning = off")
            for value in HOSTILE:
                client = TRACKER.wished({"my.value": value}, TRACKER.nothing)
                connection.execute(TRACKER.set_statement(TRACKER.nothing, client))
                row = connection.execute("show my.value").fetchone()
                assert row == (value,)


def test_postgresql_resets_what_was_set(postgres: PostgresServer) -> None:
    """To what ALTER ROLE or the like says, not to what it has when it is started."""
    with psycopg.connect(
        postgres.url(), autocommit=True, options="-c geqo_threshold=7"
    ) as connection:
        theirs = TRACKER.wished({"geqo_threshold": "5", "geqo": "off"}, TRACKER.nothing)
        for values, expected in ((theirs, ("5", "off")), (TRACKER.nothing, ("7", "on"))):
            before = TRACKER.nothing if values is theirs else theirs
            connection.execute(TRACKER.set_statement(before, values))
            row = connection.execute(
                "select current_setting('geqo_threshold'), current_setting('geqo')"
            ).fetchone()
            assert row == expected


def test_a_role_comes_last_and_goes_first(postgres: PostgresServer) -> None:
    """What only the user may set can be set and reset, whatever role is there."""
    first, second, third = (
        TRACKER.wished(asked, TRACKER.nothing)
        for asked in (
            {"role": "pg_monitor", "zero_damaged_pages": "on"},
            {"role": "pg_monitor", "log_statement": "all"},
            {},
        )
    )
    names = "current_user, current_setting('zero_damaged_pages'), current_setting('log_statement')"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for before, values, expected in (
            (third, first, ("pg_monitor", "on", "none")),
            (first, second, ("pg_monitor", "off", "all")),
            (second, third, ("postgres", "off", "none")),
        ):
            connection.execute(TRACKER.set_statement(before, values))
            assert connection.execute(f"select {names}").fetchone() == expected
