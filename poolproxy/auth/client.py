"""Decide whether a connecting client is who it says.

    exchange = start(auth_type, user, secret, ...)
    step = exchange.first()
    Ask(code, data)   -> send AuthenticationRequest, read a 'p' message, exchange.feed(body)
    Compute(request)  -> exchange.computed(request.derive(), run in a thread)
    Consult(password) -> exchange.consulted(what PAM or the LDAP directory says)
    Accept, Reject    -> the end

Each auth_type is a file in ``methods/``. A user that doesn't exist has ``secret=None`` and goes
through the same exchange as others. Two things still tell users apart, as in PgBouncer: with
auth_type = md5 users with a SCRAM secret are asked for SCRAM, and a SCRAM secret shows its own
iteration count.
"""

from __future__ import annotations

from poolproxy.auth import methods
from poolproxy.auth.exchange import (
    METHODS,
    Accept,
    Ask,
    AuthCode,
    ClientExchange,
    Compute,
    Consult,
    Login,
    Reject,
    Step,
)
from poolproxy.auth.ident import Entry
from poolproxy.auth.secrets import Secret

__all__ = [
    "AUTH_TYPES",
    "Accept",
    "Ask",
    "AuthCode",
    "ClientExchange",
    "Compute",
    "Consult",
    "Reject",
    "Step",
    "start",
]

methods.register_all()
AUTH_TYPES = tuple(sorted(METHODS))  # the values of the setting auth_type, but for "hba"
DEFAULT_ITERATIONS = 4096  # PostgreSQL's and PgBouncer's default of scram_iterations


def start(
    auth_type: str,
    user: str,
    secret: Secret | None,
    *,
    salt: bytes,
    nonce: str,
    mock_key: bytes,
    iterations: int = DEFAULT_ITERATIONS,
    names: tuple[str, ...] = (),
    map: tuple[Entry, ...] | None = None,
    end_point: bytes | None = None,
) -> ClientExchange:
    """Begin an exchange by the method ``auth_type``, one of AUTH_TYPES.

    For ``salt`` (4 random bytes), ``nonce`` (random printable ASCII, 24 characters), ``mock_key``
    (32 random bytes, one for all workers) and the others see :class:`Login`.
    """
    if auth_type not in METHODS:
        raise ValueError(f"unknown auth_type {auth_type!r}, known are {', '.join(AUTH_TYPES)}")
    return METHODS[auth_type](
        Login(user, secret, salt, nonce, mock_key, iterations, names, map, end_point)
    )
