from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.wire.door import Door
from poolproxy.wire.said import MOST
from tests.system.protocol_client import SYNC, bind, execute, message, parse, query, run

HARMLESS = query("select 1") + run("set local x = 1") + SYNC + message("d", b"set x = 1")
REFUSED = [query("set x = 1"), parse("s", "listen a", 23), query("begin; load 'x'; commit")]


def refuses(data: bytes) -> bool:
    return b"RAISE EXCEPTION" in data and b"ERRCODE = '0A000'" in data


@pytest.mark.parametrize("data", REFUSED, ids=repr)
@pytest.mark.parametrize("behind", [b"", HARMLESS, SYNC], ids=["alone", "more", "sync"])
def test_a_refused_statement_is_replaced(data: bytes, behind: bytes) -> None:
    """By one that raises the error; what stands around it passes; in one piece or byte by byte."""
    whole = HARMLESS + data + behind
    door, slow = Door(set()), Door(set())
    passed = door.feed(whole)
    assert passed.startswith(HARMLESS)
    assert passed.endswith(behind)
    assert refuses(passed)
    assert data not in passed
    assert door.refused == 1
    assert b"".join(slow.feed(whole[i : i + 1]) for i in range(len(whole))) == passed


def test_a_replaced_statement_keeps_its_name() -> None:
    """And has no parameters."""
    passed = Door(set()).feed(parse("mine", "listen a", 23))
    assert passed[5:].startswith(b"mine\0DO ")
    assert passed.endswith(b"\0\0\0")


def test_the_error_names_the_statement() -> None:
    """In words that a client can't make anything else of."""
    passed = Door(set()).feed(query('set "x\'$poolproxy$" = 1'))
    assert b"MESSAGE = 'SET x..poolproxy. is not allowed (session_state)'" in passed


def test_tracked_parameters_may_be_set() -> None:
    """They follow the client."""
    data = query("set TimeZone = 'UTC'")
    assert Door({b"timezone"}).feed(data) == data


LONG = "x" * 2 * MOST


@pytest.mark.parametrize(
    "data",
    [
        query(f"set x = '{LONG}'"),
        parse("s", f"select 1; set x = 1; select '{LONG}'", 23),
        query("create temp table t (" + "a int, " * MOST),
    ],
    ids=["set", "second", "cut"],
)
@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_a_long_text_is_refused_by_its_beginning(data: bytes, size: int) -> None:
    """The rest of it is dropped, and what comes behind passes."""
    door = Door(set())
    whole = data + HARMLESS
    passed = [door.feed(whole[i : i + size]) for i in range(0, len(whole), size)]
    assert refuses(b"".join(passed))
    assert b"".join(passed).endswith(HARMLESS)
    assert LONG.encode() not in b"".join(passed)
    assert door.refused == 1


def test_of_a_long_text_only_the_beginning_is_waited_for() -> None:
    """It passes as soon as that is known to be harmless; what stands behind is not read."""
    data = query(f"select '{LONG}'; set x = 1")
    door = Door(set())
    assert door.feed(data[: MOST - 1]) == b""
    assert door.feed(data[MOST - 1 : MOST]) == data[:MOST]
    assert door.feed(data[MOST:] + HARMLESS) == data[MOST:] + HARMLESS
    assert door.refused == 0


@pytest.mark.parametrize("data", [b"Q\0\0\0\0", b"Q\xff\xff\xff\xff", b"Q\0\0\0\3abcdefgh"])
def test_an_impossible_length_is_left_to_others(data: bytes) -> None:
    """The door neither fails nor keeps it."""
    assert Door(set()).feed(data) == data


def test_an_open_door_lets_all_pass() -> None:
    """Also what it has kept."""
    door = Door(set())
    data = query("set x = 1")
    assert door.feed(data[:8]) == b""
    assert door.feed(data[8:], strict=False) == data
    assert door.refused == 0


@given(st.lists(st.sampled_from([HARMLESS, bind("s") + execute(), *REFUSED])), st.data())
def test_pieces_make_no_difference(batches: list[bytes], data: st.DataObject) -> None:
    """Wherever the bytes are cut."""
    whole = b"".join(batches)
    door, expected = Door(set()), Door(set()).feed(whole)
    passed = b""
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        passed += door.feed(whole[:size])
        whole = whole[size:]
    assert passed == expected
