"""PgBouncer's auth_file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.auth.secrets import SCRAM_PREFIX
from poolproxy.auth.userlist import parse_userlist
from poolproxy.errors import Mistake

KEY = "a" * 43 + "="


def parse(text: str) -> tuple[dict[str, str], list[str]]:
    secrets, mistakes = parse_userlist(text, "users.txt")
    return secrets, [mistake.where for mistake in mistakes]


def test_the_documented_forms_are_read() -> None:
    """Comments, blanks, escapes, empty passwords, third columns, CRLF and a BOM are all fine."""
    text = (
        "\ufeff; a comment\r\n"
        "\r\n"
        '"joe" "secret"\r\n'
        '  "old"\t"pw" "2030-01-01" anything\n'
        '"quo""te" "pass""word"\n'
        '"empty" ""\n'
        '"semi" "a;b"\n'
        f'"scram" "SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY}"'
    )
    assert parse(text) == (
        {
            "joe": "secret",
            "old": "pw",
            'quo"te': 'pass"word',
            "empty": "",
            "semi": "a;b",
            "scram": f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY}",
        },
        [],
    )


@pytest.mark.parametrize(
    "line",
    [
        "joe secret",
        "joe",
        '"joe"',
        '"joe',
        '"joe" "secret',
        '"joe" secret',
        '"joe""secret"',
        '"" "secret"',
        f'"{"x" * 128}" "secret"',
        f'"joe" "{"x" * 65531}"',
        '"joe" "a\0b"',
        '"joe" "SCRAM-SHA-256$broken"',
        "# joe",
    ],
)
def test_a_broken_line_is_reported_and_the_next_is_read(line: str) -> None:
    """One bad line costs only its own user, and no mistake shows a secret."""
    secrets, mistakes = parse_userlist(f'{line}\n"ann" "pw"\n', "users.txt")
    assert secrets == {"ann": "pw"}
    assert [mistake.where for mistake in mistakes] == ["users.txt:1"]
    assert "secret" not in mistakes[0].text.replace("SCRAM secret", "")


def test_the_longest_values_are_taken() -> None:
    """PgBouncer's limits count bytes: 127 for the name, 65530 for the password."""
    secrets, mistakes = parse(f'"{"x" * 127}" "{"y" * 65530}"')
    assert (len(secrets), mistakes) == (1, [])
    assert parse(f'"{"é" * 64}" "pw"') == ({}, ["users.txt:1"])


def test_a_user_given_twice_is_reported() -> None:
    """The later line counts, as in PgBouncer, but the operator is told."""
    secrets, mistakes = parse_userlist('"joe" "one"\n"joe" "two"', "users.txt")
    assert secrets == {"joe": "two"}
    assert mistakes == (
        Mistake("users.txt:2", 'user "joe" is already on line 1; this line replaces it'),
    )


CHARACTERS = st.characters(blacklist_characters="\n\0", blacklist_categories=["Cs"])


@given(
    st.dictionaries(
        st.text(CHARACTERS, min_size=1, max_size=31),
        st.text(CHARACTERS, max_size=40).filter(lambda text: not text.startswith(SCRAM_PREFIX)),
    )
)
def test_every_name_and_password_can_be_written(users: dict[str, str]) -> None:
    """What is quoted with doubled quotes comes back, whatever characters it has."""
    quoted = [[text.replace('"', '""') for text in pair] for pair in users.items()]
    text = "".join(f'"{user}" "{secret}"\n' for user, secret in quoted)
    assert parse_userlist(text, "users.txt") == (users, ())


@given(st.text(alphabet='"ab;\n \0S', max_size=60))
def test_no_text_raises(text: str) -> None:
    """Garbage gives mistakes, never an exception, and each mistake names an existing line."""
    _, mistakes = parse_userlist(text, "users.txt")
    lines = text.count("\n") + 1
    assert all(1 <= int(mistake.where.rpartition(":")[2]) <= lines for mistake in mistakes)
