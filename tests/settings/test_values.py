from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.settings.enums import AuthType, PoolMode
from poolproxy.settings.values import (
    BOOLEAN,
    GIVEN,
    LONGEST,
    MAX_INT,
    PARAMETERS,
    TEXT,
    Kind,
    Unexpected,
    alternatives,
    choice,
    count,
    did_you_mean,
    name,
    quoted,
    seconds,
    shown,
    size,
    whole_seconds,
)

GOOD: list[tuple[Kind[Any], object, object]] = [
    (seconds(), 30, 30.0),
    (seconds(), 0.5, 0.5),
    (seconds(), "30", 30.0),
    (seconds(), ".5", 0.5),
    (seconds(), "30s", 30.0),
    (seconds(), " 1.5 s ", 1.5),
    (seconds(), "500ms", 0.5),
    (seconds(), "250us", 0.00025),
    (seconds(), "2min", 120.0),
    (seconds(), "1h", 3600.0),
    (seconds(), "1d", 86400.0),
    (whole_seconds(100), "1min", 60),
    (size(), 4096, 4096),
    (size(), "4096", 4096),
    (size(), "64kB", 65536),
    (size(), "64KB", 65536),
    (size(), "1MB", 2**20),
    (size(), "1 GB", 2**30),
    (size(), "0.5kB", 512),
    (count(), 7, 7),
    (count(), " 7 ", 7),
    (count(1, 3), 3, 3),
    (BOOLEAN, True, True),
    (BOOLEAN, "off", False),
    (BOOLEAN, "Yes", True),
    (BOOLEAN, 0, False),
    (BOOLEAN, "1", True),
    (choice(PoolMode), "Transaction", PoolMode.TRANSACTION),
    (choice(AuthType), "scram-sha-256", AuthType.SCRAM_SHA_256),
    (TEXT, "", ""),
    (GIVEN, " x ", " x "),
    (name(3), "äb", "äb"),
    (PARAMETERS, "IntervalStyle, search_path,", ("IntervalStyle", "search_path")),
    (PARAMETERS, ["IntervalStyle", "a.b"], ("IntervalStyle", "a.b")),
    (PARAMETERS, "", ()),
]
BAD: list[tuple[Kind[Any], object]] = [
    (seconds(), True),
    (seconds(), -1),
    (seconds(), "-1s"),
    (seconds(), "30 parsecs"),
    (seconds(), "1h30min"),
    (seconds(), "1e3"),
    (seconds(), ""),
    (seconds(), "٣s"),
    (seconds(), float("nan")),
    (seconds(), float("inf")),
    (seconds(), 10**400),
    (seconds(), "40000d"),
    (seconds(least=0.1), "99ms"),
    (whole_seconds(100), 0.5),
    (whole_seconds(100), float("nan")),
    (whole_seconds(100), "101s"),
    (size(), 1.5),
    (size(), "1.5"),
    (size(), "1TB"),
    (size(most=10), "1kB"),
    (size(least=10), 9),
    (count(), True),
    (count(), -1),
    (count(), 1.0),
    (count(), "0x10"),
    (count(), "9" * 5000),
    (count(), MAX_INT + 1),
    (count(1, 3), 4),
    (BOOLEAN, 2),
    (BOOLEAN, "enabled"),
    (BOOLEAN, 1.0),
    (choice(PoolMode), "sessions"),
    (choice(PoolMode), 1),
    (TEXT, 5),
    (TEXT, "a\0b"),
    (GIVEN, ""),
    (name(3), "äöü"),
    (name(3), ""),
    (PARAMETERS, "IntervalStyle = 'x'; DROP"),
    (PARAMETERS, ["a", 1]),
    (PARAMETERS, 5),
    (PARAMETERS, {"a": 1}),
]


@pytest.mark.parametrize(("kind", "value", "meaning"), GOOD)
def test_a_value_is_read(kind: Kind[Any], value: object, meaning: object) -> None:
    """TOML's own types and texts are both read, with units, and give the type of the setting."""
    read = kind.read(value)
    assert read == meaning
    assert type(read) is type(meaning)


@pytest.mark.parametrize(("kind", "value"), BAD)
def test_a_wrong_value_is_refused(kind: Kind[Any], value: object) -> None:
    """A value of the wrong type, out of range or with an unknown unit is refused, never guessed."""
    with pytest.raises(Unexpected):
        kind.read(value)


def test_a_wrong_unit_is_answered_with_the_units() -> None:
    """Somebody who writes 5m is told that minutes are "min"."""
    with pytest.raises(Unexpected, match=r"min \(minutes\)"):
        seconds().read("5m")


def test_a_near_miss_of_a_word_is_answered_with_the_word() -> None:
    """A misspelt choice brings the nearest one as a hint."""
    with pytest.raises(Unexpected, match='did you mean "transaction"'):
        choice(PoolMode).read("transction")


@given(st.integers(0, int(LONGEST)) | st.floats(0, LONGEST).map(lambda time: round(time, 3)))
def test_a_written_time_reads_back(time: float) -> None:
    """Whatever time is written into a sample, reading it gives the same time."""
    written = seconds().write(time)
    read = seconds().read(written.strip('"') if written.startswith('"') else float(written))
    assert read == pytest.approx(time, abs=1e-6)


@given(st.integers(0, MAX_INT))
def test_a_written_size_reads_back(number: int) -> None:
    """Whatever size is written into a sample, reading it gives the same size."""
    assert size().read(size().write(number).strip('"')) == number


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.lists(st.text())))
def test_no_value_breaks_a_kind(value: object) -> None:
    """Any value is either read or refused in the one way that callers know."""
    for kind, *_ in BAD:
        try:
            kind.read(value)
        except Unexpected:
            continue


def test_a_value_is_shown_in_short() -> None:
    """Messages show a wrong value as TOML has it, and never a whole page of it."""
    assert shown("a\nb") == '"a\\nb"'
    assert shown(True) == "true"
    assert shown({"a": 1}) == "a table"
    assert shown([1]) == "a list"
    assert len(shown("x" * 1000)) < 70
    assert len(shown(10**1000)) <= 60


def test_words_are_joined_as_in_a_sentence() -> None:
    """One, two and three words read as English has them."""
    assert alternatives(["a"]) == "a"
    assert alternatives(["a", "b"]) == "a or b"
    assert alternatives(["a", "b", "c"]) == "a, b or c"


def test_no_word_is_suggested_for_something_else() -> None:
    """A word that resembles none brings no hint rather than a random one."""
    assert did_you_mean("xyzzy", ["session", "statement"]) == ""


def test_text_is_quoted_as_toml_wants_it() -> None:
    """Control characters, which TOML forbids in strings, are escaped."""
    assert quoted('a"\x7f\n') == '"a\\"\\u007f\\n"'
