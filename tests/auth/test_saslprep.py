"""SASLprep and the derivation of secrets, held against libpq's own."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import pq

from poolproxy.auth.saslprep import MAX_PREPARED_CHARS, prepare
from poolproxy.auth.scram import make_secret
from poolproxy.auth.secrets import ScramSecret, parse_secret

# Characters that take each branch: spaces, dropped, prohibited, unassigned, right-to-left, digits
# with compatibility forms, combining marks.
_ODD = "\u00a0\u200b\u00ad\u0340\ue000\u0221\u05d0\u0661\u00aa\u2168\u0301\u0316aZ9 \u2028\u3000\U0001f110"


def libpq_secret(password: str) -> ScramSecret:
    connection = pq.PGconn.connect_start(b"host=/nonexistent")
    text = connection.encrypt_password(
        password.encode("utf-8", "surrogateescape"), b"joe", b"scram-sha-256"
    )
    secret = parse_secret(text.decode())
    assert isinstance(secret, ScramSecret)
    return secret


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1),
        st.text(_ODD, min_size=1, max_size=6),
    )
)
@example("\u200b")
@example("\u00ad")
@example("\u05d0a\u05d0")
@example("\u05d01")
@example("\u05d01\u05d0")
@example("a\u0340")
@example("\U0001f110")
@example("\x07bell")
@example("\u2168")
@example("b\udcff\udcfe")
def test_a_secret_equals_the_one_libpq_makes(password: str) -> None:
    """Whatever the password, PostgreSQL and the pooler derive the same secret from it."""
    theirs = libpq_secret(password)
    assert make_secret(password, theirs.salt, theirs.iterations) == theirs


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("plain\x01", b"plain\x01"),
        ("I\u00adX", b"IX"),
        ("\u00aa", b"a"),
        ("\u2168", b"IX"),
        ("a\u00a0b", b"a b"),
        ("\u00e9\u0007", "\u00e9\u0007".encode()),
        ("\u06271", "\u06271".encode()),
    ],
)
def test_the_rfc_examples_are_prepared_as_postgresql_does(password: str, prepared: bytes) -> None:
    """RFC 4013's examples come out right, prohibited ones unchanged."""
    assert prepare(password) == prepared


def test_an_overlong_password_is_not_normalized() -> None:
    """Normalization is quadratic, so a password beyond the bound is used as it is."""
    password = "\u00aa" * (MAX_PREPARED_CHARS + 1)
    assert prepare(password) == password.encode()
    assert prepare(password[:-1]) == b"a" * MAX_PREPARED_CHARS
