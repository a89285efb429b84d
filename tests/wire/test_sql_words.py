from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.wire.sql_words import name, statements


def read(text: str) -> list[list[bytes]]:
    return list(statements(text.encode()))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" ; ;; ", []),
        ("SET x = 1", [["set", "x", "=", "0"]]),
        ("begin;Listen A ; commit", [["begin"], ["listen", "a"], ["commit"]]),
        ("set x to 'a;b' ; load ''", [["set", "x", "to", "'"], ["load", "'"]]),
        ("set x to 'a'';b'", [["set", "x", "to", "'", "'"]]),
        (r"set x to E'a\';b'; reset x", [["set", "x", "to", "'"], ["reset", "x"]]),
        ('listen "A;""b"', [["listen", '"A;""b']]),
        ("select $$;'$$, $a$ ; $$ $a$; load x", [["select", "'", ",", "'"], ["load", "x"]]),
        ("-- ; x\nset /* ; /* ' */ ; */ a.b", [["set", "a", ".", "b"]]),
        ("select $1::int", [["select", "0", ":", ":", "int"]]),
        ("set x = 'never ends; reset x", [["set", "x", "="]]),
        ("set x /* never ends", [["set", "x"]]),
        ('listen "never', [["listen"]]),
        ("select $x$ never", [["select"]]),
    ],
)
def test_statements_are_cut_at_semicolons_of_the_text_itself(
    text: str, found: list[list[str]]
) -> None:
    """Not at those in strings, quoted names, comments and dollar quotes; what does not end is the end."""
    assert read(text) == [[token.encode() for token in tokens] for tokens in found]


@pytest.mark.parametrize(
    ("token", "stands_for"),
    [
        (b"abc", b"abc"),
        (b'"A""b', b'A"b'),
        (b"_x1", b"_x1"),
        (b"a" * 70, b"a" * 63),
        (b"'", b""),
        (b"0", b""),
        (b"(", b""),
        (b"", b""),
    ],
)
def test_names_are_as_postgresql_keeps_them(token: bytes, stands_for: bytes) -> None:
    """Quotes are taken off, and what is too long is cut."""
    assert name(token) == stands_for


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(text: bytes) -> None:
    """Nothing that a client sends makes an error, nor an empty statement."""
    assert all(statements(text))


@pytest.mark.parametrize(
    "piece", ["'a' ", '"" ', "$a$ ", "/*", "E'\\'", "$1$", "a'", "--\n"], ids=repr
)
def test_the_worst_texts_take_no_longer_than_others(piece: str) -> None:
    """Each byte is looked at a bounded number of times: a text of 1 MB is read at once."""
    assert sum(map(len, read(piece * (1_000_000 // len(piece))))) < 1_000_000
