from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.metrics.schema import STATE_KINDS
from poolproxy.wire.effects import FEARED, GROUPS, KINDS, Does, Effect, statement
from poolproxy.wire.sql_words import statements

TRACKED = frozenset({b"timezone", b"client_encoding"})


def effects(text: str) -> list[Effect]:
    (tokens,) = statements(text.encode())
    found = statement(tokens, TRACKED)
    return list(found.effects) if found is not None else []


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("set search_path = a, b", "set", "search_path"),
        ("SET SESSION Work_Mem TO 5", "set", "work_mem"),
        ('set "App".user_id = 5', "set", "app.user_id"),
        ("set schema 'x'", "set", "search_path"),
        ("set xml option content", "set", "xmloption"),
        ("set role x", "set", "role"),
        ("set session role x", "set", "role"),
        ("set session authorization x", "set", "session_authorization"),
        (
            "set session characteristics as transaction read only",
            "set",
            "default_transaction_read_only",
        ),
        ("set", "set", ""),
        ("listen a", "listen", "a"),
        ('listen "A b"', "listen", "A b"),
        ("prepare p (int) as select 1", "prepare", "p"),
        ("prepare transaction as select 1", "prepare", "transaction"),
        ("declare c binary scroll cursor with hold for select 1", "cursor", "c"),
        ("load 'x'", "load", ""),
        ("create temp table t (n int)", "temp", "t"),
        ("create local temporary table if not exists t as select 1", "temp", "t"),
        ("create or replace temp view v as select 1", "temp", "v"),
        ("create temp recursive view v (n) as select 1", "temp", "v"),
        ("create temp sequence s", "temp", "s"),
        ("create unlogged table pg_temp.t ()", "temp", "t"),
        ("create temp table t (n int) on commit delete rows", "temp", "t"),
        ("select 1 into temp t", "temp", "t"),
        ("with a as (select 1) select * into temporary table t from a", "temp", "t"),
        ("select 1 into local temp table t", "temp", "t"),
        ("select 1 into global temporary t from a", "temp", "t"),
        ("select 1 into unlogged pg_temp.t", "temp", "t"),
        ('select 1 into table "pg_temp"."T"', "temp", "T"),
    ],
)
def test_what_outlives_the_transaction_is_marked(text: str, kind: str, name: str) -> None:
    """By its kind and the name that PostgreSQL gives it."""
    assert [(e.does, e.kind, e.name.decode()) for e in effects(text)] == [(Does.MARK, kind, name)]


@pytest.mark.parametrize(
    "text",
    [
        "set local search_path = a",
        "set local role x",
        "set transaction read only",
        "set constraints all deferred",
        "set transaction_isolation = 'serializable'",
        "set time zone 'UTC'",
        "set TimeZone = 'UTC'",
        "set names 'utf8'",
        "declare c cursor for select 1",
        "declare c cursor without hold for select 1",
        "create table t (n int)",
        "create temp table t (n int) on commit drop",
        "create temp table t on commit drop as select 1",
        "select 1 as temp into table t",
        "select 1 into temporal from temp",
        "select 1 into",
        "create index temp on t (n)",
        "select 1",
        "select temp into t from u",
        "update t set x = 1",
        "rollback prepared 'x'",
        "discard plans",
        "unlisten",
    ],
)
def test_what_ends_with_the_transaction_or_is_tracked_does_nothing(text: str) -> None:
    """Though the tag of some is that of a statement that does."""
    assert effects(text) == []


@pytest.mark.parametrize(
    ("text", "cleared"),
    [
        ("reset search_path", [("set", "search_path")]),
        ("set search_path to default", [("set", "search_path")]),
        ("set session x.y = default", [("set", "x.y")]),
        ("reset all", [("set", "")]),
        ("set role none", [("set", "role")]),
        ("reset session authorization", [("set", "session_authorization"), ("set", "role")]),
        ("set time zone local", []),
        ("unlisten *", [("listen", "")]),
        ("unlisten a", [("listen", "a")]),
        ("deallocate prepare p", [("prepare", "p")]),
        ("deallocate prepare", [("prepare", "prepare")]),
        ("deallocate all", [("prepare", "")]),
        ("close all", [("cursor", "")]),
        ("close c", [("cursor", "c")]),
        ("discard temp", [("temp", "")]),
        ("drop table if exists a, b cascade", [("temp", "a"), ("temp", "b"), ("temp", "cascade")]),
        ("drop table public.a", []),
    ],
)
def test_what_takes_it_back(text: str, cleared: list[tuple[str, str]]) -> None:
    """One of a kind, or all."""
    assert all(e.does is Does.CLEAR for e in effects(text))
    assert [(e.kind, e.name.decode()) for e in effects(text)] == cleared


def test_discard_all_leaves_libraries_alone() -> None:
    """All else is gone, who one is included."""
    found = {(e.kind, e.name) for e in effects("discard all")}
    assert found == {(k, b"") for k in KINDS if k != "load"} | {
        ("set", b"role"),
        ("set", b"session_authorization"),
    }


@pytest.mark.parametrize(
    ("text", "does", "name"),
    [
        ("savepoint a", Does.SAVEPOINT, "a"),
        ("release savepoint a", Does.RELEASE, "a"),
        ("release a", Does.RELEASE, "a"),
        ("rollback work to savepoint a", Does.REVERT, "a"),
        ("rollback to savepoint", Does.REVERT, "savepoint"),
        ("rollback and chain", Does.END, ""),
        ("abort", Does.END, ""),
        ("end", Does.END, ""),
        ("commit", Does.END, ""),
        ("prepare transaction 'x'", Does.END, ""),
    ],
)
def test_what_becomes_of_the_transaction(text: str, does: Does, name: str) -> None:
    """Savepoints go by their names."""
    assert [(e.does, e.name.decode()) for e in effects(text)] == [(does, name)]


def test_the_kinds_are_those_of_the_metrics() -> None:
    """The label's values are written down in two packages."""
    assert KINDS == STATE_KINDS


def test_what_is_feared_belongs_to_a_group() -> None:
    """And marks a kind there is, if it marks."""
    assert FEARED.keys() <= set(GROUPS.values())
    assert {e.kind for e in FEARED.values() if e.does is Does.MARK} == set(KINDS)


@given(
    st.lists(
        st.sampled_from(
            [
                "set",
                "session",
                "local",
                "reset",
                "all",
                "to",
                "default",
                "=",
                ".",
                "temp",
                "table",
                "x",
            ]
        )
    )
)
def test_any_words_can_be_read(words: list[str]) -> None:
    """Also those that PostgreSQL refuses."""
    for first in ("set", "reset", "create", "drop", "rollback", "close", "declare"):
        for tokens in statements(" ".join([first, *words]).encode()):
            statement(tokens, TRACKED)
