"""Secrets of a user, and what the tests of exchanges do with each."""

from __future__ import annotations

import hashlib

from poolproxy.auth.client import (
    Ask,
    Reject,
    Step,
)
from poolproxy.auth.secrets import PlainSecret, Secret, md5_secret

from .drive import (
    begin,
    scram_secret,
    settle,
)

PASSWORD_FAILED = ("28P01", "password authentication failed")
SASL_FAILED = ("28P01", "SASL authentication failed")
SASL_MALFORMED = ("08P01", "SASL authentication failed")

SECRETS: dict[str, Secret] = {
    "plain": PlainSecret("pw"),
    "md5": md5_secret("pw", "joe"),
    "scram": scram_secret("pw"),
}


def refused(step: Step) -> tuple[str, str]:
    """SQLSTATE and text of a refusal; every one is FATAL, counted as auth, and has a hint."""
    assert isinstance(step, Reject)
    error = step.error
    assert (error.severity, error.reason) == ("FATAL", "auth")
    assert error.hint
    return error.sqlstate, error.message


def send_plain(secret: Secret | None, password: bytes) -> Step:
    exchange = begin("plain", secret)
    assert exchange.first() == Ask(3, b"")
    return settle(exchange, exchange.feed(password + b"\0"))


def send_md5(secret: Secret | None, password: str, user: str = "joe") -> Step:
    exchange = begin("md5", secret)
    assert exchange.first() == Ask(5, b"\1\2\3\4")
    hashed = hashlib.md5((password + user).encode()).hexdigest().encode()
    return exchange.feed(b"md5" + hashlib.md5(hashed + b"\1\2\3\4").hexdigest().encode() + b"\0")
