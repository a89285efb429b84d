"""The shape of an exchange with a connecting client, and the table of methods.

An exchange is fed the bodies of the client's ``p`` messages and answers with steps. Which call may
follow which step is one table, :data:`_NEXT`. A method is a function from :class:`Login` to
:class:`ClientExchange`, registered with :func:`method` under the value of the setting auth_type.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

import attrs

from poolproxy.auth.ident import Entry
from poolproxy.auth.scram import KeyRequest, ScramKeys
from poolproxy.auth.secrets import PlainSecret, Secret
from poolproxy.errors import PROTOCOL_VIOLATION, PoolerError


class AuthCode(IntEnum):
    """Codes of AuthenticationRequest that either side knows."""

    OK = 0
    CLEARTEXT_PASSWORD = 3
    MD5_PASSWORD = 5
    SASL = 10
    SASL_CONTINUE = 11
    SASL_FINAL = 12


MD5_SALT_BYTES = 4
# PgBouncer's limit for a password, and the NUL that ends it.
MAX_PASSWORD_PAYLOAD = 65530 + 1

WRONG_PASSWORD = "28P01"  # psycopg and others raise OperationalError, as for 08P01
NOT_AUTHORIZED = "28000"


@attrs.frozen
class Ask:
    """Send AuthenticationRequest ``code`` with ``data`` behind it, then feed the answer."""

    code: int
    data: bytes


@attrs.frozen
class Compute:
    """Run ``request.derive()`` in a thread and hand the result to ``computed``."""

    request: KeyRequest


@attrs.frozen
class Consult:
    """Ask the service that knows the client, and hand to ``consulted`` what it says."""

    password: str = attrs.field(repr=False)


@attrs.frozen
class Accept:
    """The client is who it says. ``final``: an AuthenticationRequest to send before the Ok.

    ``keys`` log in to a PostgreSQL that has the same SCRAM secret; None where there is none.
    ``password``: what the client has sent, where nobody else knows a secret of it.
    """

    final: tuple[int, bytes] | None = None
    keys: ScramKeys | None = None
    password: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Reject:
    """Send the error and close."""

    error: PoolerError


Step = Ask | Compute | Consult | Accept | Reject


def _long_enough(minimum: int) -> Callable[[object, attrs.Attribute[bytes], bytes], None]:
    def check(_login: object, attribute: attrs.Attribute[bytes], value: bytes) -> None:
        if len(value) < minimum:
            raise ValueError(f"{attribute.name} needs at least {minimum} bytes")

    return check


@attrs.frozen
class Login:
    """What an exchange knows of the client. ``secret`` is None for an unknown user.

    ``salt`` and ``nonce`` are random and used once. ``mock_key`` is random and must be the same
    for all workers and the whole run: the salts shown to unknown users hang on it.
    ``iterations`` is the setting scram_iterations. ``names``: what the operating system or a verified
    certificate calls the client; ``map``: the ident map that is to be used on them, if any.
    ``end_point``: the channel-binding data of ``tls-server-end-point``, None where there is none.
    """

    user: str
    secret: Secret | None
    salt: bytes = attrs.field(repr=False, validator=_long_enough(MD5_SALT_BYTES))
    nonce: str = attrs.field(repr=False)
    mock_key: bytes = attrs.field(repr=False, validator=_long_enough(16))
    iterations: int
    names: tuple[str, ...] = ()
    map: tuple[Entry, ...] | None = None
    end_point: bytes | None = None

    def usable_secret(self) -> Secret | None:
        """The secret, or None where nothing can match: no user, or an empty stored password."""
        return None if self.secret == PlainSecret("") else self.secret


_NEXT: dict[type, str] = {
    Ask: "feed",
    Compute: "computed",
    Consult: "consulted",
    Accept: "",
    Reject: "",
}


class ClientExchange(ABC):
    """One login of one client. A call out of order is the caller's bug: RuntimeError."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self._next = "first"

    def first(self) -> Step:
        """Begin."""
        self._enter("first")
        return self._leave(self._first())

    def feed(self, payload: bytes) -> Step:
        """Take the body of the client's ``p`` message that answers the last Ask."""
        self._enter("feed")
        return self._leave(self._feed(payload))

    def computed(self, salted: bytes) -> Step:
        """Take the result of the last Compute."""
        self._enter("computed")
        return self._leave(self._computed(salted))

    def consulted(self, agrees: bool | None) -> Step:
        """Take the answer to the last Consult; None: there was none."""
        self._enter("consulted")
        return self._leave(self._consulted(agrees))

    def _enter(self, call: str) -> None:
        if call != self._next:
            raise RuntimeError(f"{call}() where {self._next or 'nothing'} is due")
        self._next = ""  # what raises below can't be resumed

    def _leave(self, step: Step) -> Step:
        self._next = _NEXT[type(step)]
        return step

    @abstractmethod
    def _first(self) -> Step: ...

    def _feed(self, payload: bytes) -> Step:
        raise NotImplementedError

    def _computed(self, salted: bytes) -> Step:
        raise NotImplementedError

    def _consulted(self, agrees: bool | None) -> Step:
        raise NotImplementedError


METHODS: dict[str, Callable[[Login], ClientExchange]] = {}

M = TypeVar("M", bound=Callable[[Login], ClientExchange])


def method(auth_type: str) -> Callable[[M], M]:
    """Register a method under its value of auth_type."""

    def register(begin: M) -> M:
        if auth_type in METHODS:
            raise ValueError(f"auth_type {auth_type} is registered twice")
        METHODS[auth_type] = begin
        return begin

    return register


def reject(
    message: str, hint: str, sqlstate: str = WRONG_PASSWORD, *, reason: str = "auth"
) -> Reject:
    """A refused login, in PgBouncer's words. The hint must not tell whether the user exists."""
    return Reject(PoolerError(message, sqlstate=sqlstate, hint=hint, reason=reason))


def wrong_password() -> Reject:
    """The one answer to a wrong password, an unknown user and a user without a password."""
    return reject(
        "password authentication failed",
        "Check the password, and the user's line in auth_file.",
    )


def read_password(payload: bytes) -> bytes | Reject:
    """The password in a PasswordMessage, without its NUL; what is wrong with it otherwise."""
    if len(payload) > MAX_PASSWORD_PAYLOAD:
        hint = f"A password has at most {MAX_PASSWORD_PAYLOAD - 1} bytes."
        return reject("failed to parse packet", hint, PROTOCOL_VIOLATION)
    password, terminator, rest = payload.partition(b"\0")
    if not terminator or rest:
        hint = "A password message must hold one string that ends with a NUL byte."
        return reject("failed to parse packet", hint, PROTOCOL_VIOLATION)
    if not password:
        return reject(
            "empty password returned by client",
            "Give the password in the connection string, PGPASSWORD or ~/.pgpass.",
        )
    return password
