"""Kinds of stored secrets."""

from __future__ import annotations

import hashlib

import pytest
from psycopg import pq

from poolproxy.auth.scram import KeyRequest, ScramKeys, make_secret
from poolproxy.auth.secrets import (
    MAX_ITERATIONS,
    Md5Secret,
    PlainSecret,
    ScramSecret,
    md5_answer,
    md5_secret,
    parse_secret,
)
from poolproxy.auth.server import Reply

KEY = "a" * 43 + "="


def test_each_kind_is_recognized() -> None:
    """md5 and SCRAM secrets are told from plain passwords by PgBouncer's rules."""
    digest = "0123456789abcdef" * 2
    assert parse_secret("md5" + digest) == Md5Secret(digest)
    assert parse_secret("md5" + digest.upper()) == PlainSecret("md5" + digest.upper())
    assert parse_secret("md5" + digest + "\n") == PlainSecret("md5" + digest + "\n")
    assert parse_secret("hunter2") == PlainSecret("hunter2")
    assert parse_secret("") == PlainSecret("")
    assert isinstance(parse_secret(f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY}"), ScramSecret)


def test_a_scram_secret_survives_a_round_trip() -> None:
    """to_text gives what parse_secret takes."""
    secret = make_secret("pässword", b"salt", 10)
    assert parse_secret(secret.to_text()) == secret


@pytest.mark.parametrize(
    "text",
    [
        "SCRAM-SHA-256$",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}",
        f"SCRAM-SHA-256$0:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256${MAX_ITERATIONS + 1}:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$99999999999:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$-1:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:é${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA==$c2FsdA==:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:c2FsdA==",
        f"SCRAM-SHA-256$4096:{'YWFh' * 100}${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY}:",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY}\n",
    ],
)
def test_a_damaged_scram_secret_is_refused(text: str) -> None:
    """It must not become a plain password, and the error must not show it."""
    with pytest.raises(ValueError, match="SCRAM secret") as caught:
        parse_secret(text)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(("password", "user"), [("secret", "joe"), ("pässwörd", "jöe")])
def test_md5_is_libpqs(password: str, user: str) -> None:
    """The MD5 secret is the one libpq makes, and the answer hashes it again with the salt."""
    connection = pq.PGconn.connect_start(b"host=/nonexistent")
    theirs = connection.encrypt_password(password.encode(), user.encode(), b"md5").decode()
    secret = md5_secret(password, user)
    assert parse_secret(theirs) == secret
    twice = hashlib.md5(secret.hash.encode() + b"\1\2\3\4").hexdigest()
    assert md5_answer(secret, b"\1\2\3\4") == b"md5" + twice.encode()


def test_no_repr_shows_a_secret() -> None:
    """Objects that hold secrets are safe in logs and tracebacks."""
    scram = make_secret("topsecret", b"saltsalt", 10)
    keys = ScramKeys(b"topsecret", b"topsecret")
    holders = [
        PlainSecret("topsecret"),
        md5_secret("topsecret", "joe"),
        scram,
        keys,
        KeyRequest("topsecret", b"topsecret", 10),
        Reply(b"topsecret\0"),
    ]
    shown = "".join(f"{holder!r}{holder}" for holder in holders)
    assert "topsecret" not in shown
    assert md5_secret("topsecret", "joe").hash not in shown
    assert repr(scram.stored_key) not in shown
    assert repr(scram.server_key) not in shown
