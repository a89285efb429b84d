"""SessionState where it needs no PostgreSQL: names, limits, what can't be read."""

from __future__ import annotations

import pytest

from poolproxy.wire.said import MOST, joined
from poolproxy.wire.session_state import ALL, FIRST, MOST_NAMES, SessionState
from poolproxy.wire.statements import Names, Statements
from tests.system.protocol_client import SYNC, bind, close, execute, parse, query

IDLE = ord("I")


def after(said: bytes | None, *tags: str, names: Names | None = None) -> SessionState:
    """The state after a flight with these tags, and ReadyForQuery."""
    state = SessionState({b"timezone"})
    for tag in tags:
        state.answered(tag.encode(), said, 0, names)
    state.ready(IDLE, 0)
    return state


def dirt(state: SessionState) -> set[tuple[str, str]]:
    return {(kind, name.decode()) for kind, name in state.dirt}


def prepared(**texts: str) -> Names:
    names, known = Names(), Statements()
    for name, text in texts.items():
        names.put(name.encode(), known.get(text.encode() + b"\0\0\0"))
    return names


def test_nothing_is_watched_closely_until_there_is_something() -> None:
    """And no more when it is gone."""
    state = SessionState()
    assert (state.marked, state.watched) == (False, FIRST)
    state.answered(b"LISTEN", query("listen a"), 0, None)
    assert (state.marked, state.watched) == (True, ALL)
    state.ready(IDLE, 0)
    assert (state.kept, state.marked) == ("listen", True)
    state.answered(b"UNLISTEN", query("unlisten a"), 0, None)
    state.ready(IDLE, 0)
    assert (state.kept, state.marked, state.watched) == ("", False, FIRST)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("set local x = 1", "SET"),
        ("set timezone = 'UTC'", "SET"),
        ("create table t ()", "CREATE TABLE"),
    ],
)
def test_a_suspicion_that_comes_to_nothing(text: str, tag: str) -> None:
    """Nothing is marked."""
    assert not after(query(text), tag).marked


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        (None, {("set", "")}),
        (query("set local x = 1")[:-3], {("set", "")}),
        (b"\1\2\3", {("set", "")}),
        (query("select 1"), {("set", "")}),
        (query("set local x = '" + "x" * MOST + "'"), {("set", "")}),
        (bind("nobody") + execute() + SYNC, {("set", "")}),
        (execute("nobody") + SYNC, {("set", "")}),
    ],
    ids=[
        "too much",
        "cut",
        "garbage",
        "other text",
        "large",
        "unknown statement",
        "unknown portal",
    ],
)
def test_what_cannot_be_read_is_feared(said: bytes | None, kinds: set[tuple[str, str]]) -> None:
    """A SET of nobody knows what."""
    assert dirt(after(said, "SET")) == kinds


def test_more_tags_than_statements_are_feared() -> None:
    """The text was not read as PostgreSQL reads it."""
    assert dirt(after(query("set local x = 1"), "SET")) == set()
    assert dirt(after(query("set local x = 1"), "SET", "SET")) == {("set", "")}


def test_an_executed_statement_is_found_by_its_name() -> None:
    """In what is said now, or in what the client has prepared before."""
    names = prepared(old="listen old", harmless="set local x = 1")
    said = parse("new", "listen new") + bind("new") + execute() + bind("old") + execute() + SYNC
    assert dirt(after(said, "LISTEN", "LISTEN", names=names)) == {
        ("listen", "new"),
        ("listen", "old"),
    }
    assert not after(bind("harmless") + execute() + SYNC, "SET", names=names).marked


def test_a_name_that_changes_its_meaning_is_not_trusted() -> None:
    """What it stood for at first is forgotten when the answer comes."""
    names = prepared(s="set local x = 1")
    said = bind("s") + execute() + close("s") + parse("s", "set local y = 2") + SYNC
    assert dirt(after(said, "SET", names=names)) == {("set", "")}


def test_a_table_made_by_a_select() -> None:
    """It answers with SELECT, as does any other that has no rows."""
    assert dirt(after(query("create temp table t as select 1"), "SELECT")) == {("temp", "t")}
    assert not after(query("select 1 as temp"), "SELECT").marked
    assert not after(execute("nobody"), "SELECT").marked
    assert after(None, "SELECT").marked


def test_names_have_an_end() -> None:
    """With more than that many things, it is only known that there are some."""
    state = SessionState()
    for number in range(2 * MOST_NAMES):
        state.answered(b"LISTEN", query(f"listen c{number}"), 0, None)
    assert len(state.dirt) == MOST_NAMES + 1
    assert ("listen", b"") in state.dirt


def test_savepoints_have_an_end() -> None:
    """With too many of them a ROLLBACK TO takes nothing back."""
    state = SessionState()
    state.answered(b"LISTEN", query("listen a"), 0, None)
    for number in range(100):
        state.answered(b"SAVEPOINT", query(f"savepoint s{number}"), 0, None)
    state.answered(b"ROLLBACK", query("rollback to older"), 0, None)
    assert state.dirt


@pytest.mark.parametrize(
    ("flights", "sql"),
    [
        ([("SET", "set x = 1")], "SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL"),
        ([("LISTEN", "listen a")], "UNLISTEN *"),
        ([("PREPARE", "prepare p as select 1")], 'DEALLOCATE "p"'),
        ([("PREPARE", 'prepare "P""2" as select 1')], 'DEALLOCATE "P""2"'),
        ([("PREPARE", 'prepare "ä" as select 1')], "DEALLOCATE ALL"),
        ([("PREPARE", "?")], "DEALLOCATE ALL"),
        ([("DECLARE CURSOR", "declare c cursor with hold for select 1")], "CLOSE ALL"),
        (
            [("CREATE TABLE", "create temp table t ()"), ("LISTEN", "listen a")],
            "UNLISTEN *; DISCARD TEMP",
        ),
        ([("LOAD", "load 'x'")], None),
        ([], ""),
    ],
)
def test_the_cleaning_is_what_is_needed(flights: list[tuple[str, str]], sql: str | None) -> None:
    """No DISCARD ALL, which would take shared prepared statements along."""
    state = SessionState()
    for tag, text in flights:
        state.answered(tag.encode(), query(text), 0, None)
    assert state.cleaning() == sql


def test_a_reset_strikes_what_was_there_from_the_start() -> None:
    """Nothing of the client's is there then, but the parameters are not as they were."""
    state = after(query("reset statement_timeout"), "RESET")
    assert state.marked
    assert state.was_reset
    assert not state.dirt
    assert state.cleaning() == ""
    assert state.cleaning(parameters=True)


def test_kinds_are_told_once() -> None:
    """Each with its statement, until it is asked for."""
    state = after(query("set x = 1"), "SET")
    assert state.untold == {"set": "SET x"}
    state.untold.clear()
    state.ready(IDLE, 0)
    assert state.untold == {}


def test_what_was_said_is_kept_up_to_a_limit() -> None:
    """Then nothing of it is known."""
    assert joined(b"a", b"b") == b"ab"
    assert joined(b"a" * MOST, b"b") is None
    assert joined(None, b"b") is None
