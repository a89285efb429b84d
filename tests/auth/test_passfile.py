"""libpq's password file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.auth.passfile import parse_passfile, password_for

TEXT = r"""# a comment
db.example.org:5432:app:ann:first
*:*:app:*:second
localhost:5433:*:*:with\:colon and \\ backslash
::: nothing
/run/pg:5432:*:*:socket:rest
a\:b:5432:*:*:v6
"""


def find(host: str, port: int, database: str, user: str) -> str | None:
    lines, mistakes = parse_passfile(TEXT, "pass")
    assert [mistake.where for mistake in mistakes] == ["pass:5"]
    return password_for(lines, host, port, database, user)


@pytest.mark.parametrize(
    ("asked", "password"),
    [
        (("db.example.org", 5432, "app", "ann"), "first"),
        (("db.example.org", 5432, "app", "bob"), "second"),
        (("other", 1, "app", "ann"), "second"),
        (("other", 1, "db", "ann"), None),
        (("localhost", 5433, "db", "ann"), "with:colon and \\ backslash"),
        (("/tmp", 5433, "db", "ann"), "with:colon and \\ backslash"),
        (("/run/pg", 5432, "db", "ann"), "socket"),
        (("a:b", 5432, "db", "ann"), "v6"),
    ],
)
def test_the_first_line_that_fits(asked: tuple[str, int, str, str], password: str | None) -> None:
    """Fields are compared, * is any, a socket is localhost too, and a backslash keeps what follows."""
    assert find(*asked) == password


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """No text makes it raise, and no mistake shows what stands in the line."""
    _, mistakes = parse_passfile(text, "pass")
    assert {mistake.text for mistake in mistakes} <= {"expected host:port:database:user:password"}
