"""Tracked parameters."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.demo.postgres import PostgresServer
from poolproxy.errors import PoolerError
from poolproxy.wire.parameters import ALWAYS_TRACKED, MAX_VALUE, Tracker

TRACKER = Tracker(["IntervalStyle", "search_path"])
SETTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
HOSTILE = ["'", "''", "\\", "\\'", "';select 1;--", "E'", "$$", "%s", "a\\\\'b", '"x"']


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
    """None where the client gave nothing; what isn't tracked is left out."""
    values = TRACKER.values({"timezone": "UTC", "work_mem": "1MB"})
    assert TRACKER.items(values) == [("TimeZone", "UTC")]
    assert len(values) == len(ALWAYS_TRACKED) + 2


def test_an_update_changes_one_value() -> None:
    """An equal value, or one of no tracked name, gives the very same tuple: clients share them."""
    values = TRACKER.values({"TimeZone": "UTC"})
    assert TRACKER.updated(values, "TIMEZONE", "UTC") is values
    assert TRACKER.updated(values, "work_mem", "1MB") is values
    changed = TRACKER.updated(values, "timezone", "CET")
    assert TRACKER.items(changed) == [("TimeZone", "CET")]


def test_gaps_are_filled_from_the_defaults() -> None:
    """A client's own value wins."""
    defaults = TRACKER.values({"TimeZone": "UTC", "DateStyle": "ISO, MDY"})
    mine = TRACKER.values({"TimeZone": "CET"})
    filled = TRACKER.missing_from(mine, defaults)
    assert dict(TRACKER.items(filled)) == {"TimeZone": "CET", "DateStyle": "ISO, MDY"}


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
    client = TRACKER.values({"TimeZone": "utc", "search_path": "x"})
    server = TRACKER.values({"TimeZone": "UTC", "DateStyle": "ISO"})
    canonical = TRACKER.canonical(client, server)
    assert dict(TRACKER.items(canonical)) == {"TimeZone": "UTC", "search_path": "x"}


@pytest.mark.parametrize("value", ["é", "a\nb", "a\0b", "\x7f", "表", "x" * (MAX_VALUE + 1)])
def test_a_value_that_can_not_be_set_safely_is_refused(value: str) -> None:
    """In some encodings a byte of a character is a quote or a backslash, so only ASCII is taken."""
    with pytest.raises(PoolerError, match="invalid value for startup parameter: TimeZone"):
        TRACKER.values({"TimeZone": value})


def test_application_name_is_cleaned_as_postgresql_does() -> None:
    """Question marks take the place of what isn't printable ASCII; too long is too long all the same."""
    assert TRACKER.items(TRACKER.values({"Application_Name": "é\na"})) == [
        ("application_name", "??a")
    ]
    with pytest.raises(PoolerError, match="too long"):
        TRACKER.values({"application_name": "x" * (MAX_VALUE + 1)})


@given(SETTABLE)
def test_quoting_leaves_no_quote_open(value: str) -> None:
    """Read by PostgreSQL's rules the literal is the value again."""
    server, client = (TRACKER.updated(TRACKER.nothing, "TimeZone", v) for v in ("\1", value))
    literal = TRACKER.set_statement(server, client)
    literal = literal.removeprefix("SELECT pg_catalog.set_config('TimeZone',")
    literal = literal.removesuffix(",false)")
    escapes = literal.startswith("E")
    inner = literal.removeprefix("E")[1:-1].replace("''", "'")
    assert escapes == ("\\" in value)
    assert (inner.replace("\\\\", "\\") if escapes else inner) == value


def test_postgresql_reads_the_values_that_were_quoted(postgres: PostgresServer) -> None:
    """Whatever standard_conforming_strings says, a hostile value is a value and no SQL."""
    server = TRACKER.updated(TRACKER.nothing, "application_name", "before")
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for conforming in ("on", "off"):
            connection.execute(f"set standard_conforming_strings = {conforming}")
            connection.execute("set escape_string_warning = off")
            for value in HOSTILE:
                client = TRACKER.values({"application_name": value})
                connection.execute(TRACKER.set_statement(server, client))
                row = connection.execute("show application_name").fetchone()
                assert row == (value,)
