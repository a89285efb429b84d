"""Log the pooler in to PostgreSQL.

The exchange is fed every AuthenticationRequest until it answers Done or Fail. Which request may
come when is the table :data:`_ALLOWED`; a server that breaks it is refused, and so is one that
says Ok in the middle of SCRAM, before it has proven that it knows our secret.
"""

from __future__ import annotations

import struct
from enum import Enum, auto

import attrs

from poolproxy.auth.exchange import (
    MD5_SALT_BYTES,
    AuthCode,
    Compute,
)
from poolproxy.auth.scram import (
    MAX_MESSAGE_BYTES,
    MECHANISM,
    MECHANISM_PLUS,
    ScramError,
    ScramKeys,
    WrongProofError,
    keys_from,
)
from poolproxy.auth.scram_client import ScramClient
from poolproxy.auth.secrets import (
    Md5Secret,
    PlainSecret,
    Secret,
    md5_answer,
    md5_secret,
    text_bytes,
)
from poolproxy.errors import PoolerError


@attrs.frozen
class Reply:
    """Send a ``p`` message with this body, then feed the next request."""

    payload: bytes = attrs.field(repr=False)


@attrs.frozen
class Wait:
    """Nothing to send: feed the next request."""


@attrs.frozen
class Done:
    """PostgreSQL has accepted us."""


@attrs.frozen
class Fail:
    """Close the connection; the error is what waiting clients are told."""

    error: PoolerError


ServerStep = Reply | Wait | Compute | Done | Fail


class _State(Enum):
    START = auto()
    ANSWERED = auto()  # password sent
    SASL_FIRST = auto()  # client-first sent
    COMPUTING = auto()
    SASL_FINAL = auto()  # client-final sent
    VERIFIED = auto()
    CLOSED = auto()


_ALLOWED: dict[_State, frozenset[int]] = {
    _State.START: frozenset(
        {AuthCode.OK, AuthCode.CLEARTEXT_PASSWORD, AuthCode.MD5_PASSWORD, AuthCode.SASL}
    ),
    _State.ANSWERED: frozenset({AuthCode.OK}),
    _State.SASL_FIRST: frozenset({AuthCode.SASL_CONTINUE}),
    _State.SASL_FINAL: frozenset({AuthCode.SASL_FINAL}),
    _State.VERIFIED: frozenset({AuthCode.OK}),
}
_UNVERIFIED = frozenset({_State.SASL_FIRST, _State.SASL_FINAL})


class ServerExchange:
    """One login as ``user``.

    ``password`` is the plain password where it is known and goes before ``secret``, what
    auth_file or auth_query has. ``scram_keys`` are those of a client's own login and serve where
    the secret is a SCRAM secret. ``nonce`` is random printable ASCII, 24 characters, used once.
    ``end_point``: the server's data of tls-server-end-point, None without TLS.
    Feeding after Done or Fail, or while a Compute is open, is the caller's bug: RuntimeError.
    """

    def __init__(
        self,
        user: str,
        secret: Secret | None,
        password: str | None,
        scram_keys: ScramKeys | None,
        nonce: str,
        end_point: bytes | None = None,
    ) -> None:
        self.user = user
        self._secret = secret if password is None else PlainSecret(password)
        if self._secret == PlainSecret(""):
            self._secret = None  # an empty password logs in nowhere, as in libpq
        self._keys = scram_keys
        self._nonce = nonce
        self._end_point = end_point
        self._scram: ScramClient | None = None
        self._state = _State.START

    def feed(self, code: int, data: bytes) -> ServerStep:
        """Take an AuthenticationRequest: its code and what follows it."""
        if self._state not in _ALLOWED:
            raise RuntimeError(f"a request was fed to an exchange that is {self._state.name}")
        if code == AuthCode.OK and self._state in _UNVERIFIED:
            return self._fail(
                "server login failed: failed to verify server signature",
                "The server accepted the login before it proved that it knows the password.",
            )
        if code not in _ALLOWED[self._state]:
            return self._unanswerable(f"The server sent authentication request {code}")
        if len(data) > MAX_MESSAGE_BYTES:
            return self._unanswerable("The server sent an oversize authentication request")
        return self._answer(code, data)

    def computed(self, salted: bytes) -> ServerStep:
        """Take the result of the last Compute."""
        if self._state is not _State.COMPUTING:
            raise RuntimeError(f"computed() on an exchange that is {self._state.name}")
        return self._client_final(keys_from(salted))

    def _answer(self, code: int, data: bytes) -> ServerStep:
        match code:
            case AuthCode.OK:
                self._state = _State.CLOSED
                return Done()
            case AuthCode.CLEARTEXT_PASSWORD:
                return self._cleartext()
            case AuthCode.MD5_PASSWORD:
                return self._md5(data)
            case AuthCode.SASL:
                return self._sasl(data)
            case AuthCode.SASL_CONTINUE:
                return self._sasl_continue(data)
            case _:
                return self._sasl_final(data)

    def _cleartext(self) -> ServerStep:
        if not isinstance(self._secret, PlainSecret):
            return self._wrong_password_type("the password itself, as the server asks for it")
        self._state = _State.ANSWERED
        return Reply(text_bytes(self._secret.password) + b"\0")

    def _md5(self, salt: bytes) -> ServerStep:
        if len(salt) != MD5_SALT_BYTES:
            return self._unanswerable("The server sent an MD5 salt of the wrong length")
        secret = self._secret
        if isinstance(secret, PlainSecret):
            secret = md5_secret(secret.password, self.user)
        if not isinstance(secret, Md5Secret):
            return self._wrong_password_type("a plain password or an md5 secret")
        self._state = _State.ANSWERED
        return Reply(md5_answer(secret, salt) + b"\0")

    def _sasl(self, data: bytes) -> ServerStep:
        offered = data.split(b"\0")
        plus = self._end_point is not None and MECHANISM_PLUS.encode("ascii") in offered
        mechanism = (MECHANISM_PLUS if plus else MECHANISM).encode("ascii")
        if mechanism not in offered:
            return self._fail(
                "server login failed: "
                "none of the server's SASL authentication mechanisms are supported",
                f"The pooler supports {MECHANISM}; check pg_hba.conf of the server.",
            )
        credential = self._scram_credential()
        if credential is None:
            return self._wrong_password_type(
                "a plain password, or a SCRAM secret equal to the server's and a client that has "
                "logged in with it (auth_type = scram-sha-256)"
            )
        self._scram = ScramClient(credential, self._nonce, self._end_point, plus=plus)
        self._state = _State.SASL_FIRST
        first = self._scram.first()
        return Reply(mechanism + b"\0" + struct.pack("!i", len(first)) + first)

    def _scram_credential(self) -> str | ScramKeys | None:
        if isinstance(self._secret, PlainSecret):
            return self._secret.password
        return None if isinstance(self._secret, Md5Secret) else self._keys

    def _sasl_continue(self, data: bytes) -> ServerStep:
        assert self._scram is not None
        try:
            request = self._scram.read_first(data)
        except ScramError as error:
            return self._unanswerable(f"The server's SCRAM message can't be used: {error}")
        if request is None:
            return self._client_final(None)
        self._state = _State.COMPUTING
        return Compute(request)

    def _client_final(self, derived: ScramKeys | None) -> ServerStep:
        assert self._scram is not None
        self._state = _State.SASL_FINAL
        return Reply(self._scram.final(derived))

    def _sasl_final(self, data: bytes) -> ServerStep:
        assert self._scram is not None
        try:
            self._scram.verify(data)
        except WrongProofError:
            return self._fail(
                "server login failed: invalid server signature",
                "The server does not know this user's password: is it the right server?",
            )
        except ScramError as error:
            return self._fail(
                "server login failed: failed to verify server signature",
                f"The server's SCRAM message can't be used: {error}.",
            )
        self._state = _State.VERIFIED
        return Wait()

    def _wrong_password_type(self, needed: str) -> Fail:
        return self._fail(
            "server login failed: wrong password type",
            f'User "{self.user}" needs {needed}: see auth_file, or password of the database.',
        )

    def _unanswerable(self, fault: str) -> Fail:
        return self._fail("failed to answer authreq", f"{fault}.")

    def _fail(self, message: str, hint: str) -> Fail:
        self._state = _State.CLOSED
        return Fail(PoolerError(message, hint=hint, reason="server_login"))
