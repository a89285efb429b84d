"""auth_type = scram-sha-256: the password never crosses the network, nor does its hash."""

from __future__ import annotations

import struct

from poolproxy.auth.exchange import (
    Accept,
    Ask,
    AuthCode,
    ClientExchange,
    Compute,
    Login,
    Reject,
    Step,
    method,
    reject,
)
from poolproxy.auth.scram import (
    MAX_MESSAGE_BYTES,
    MECHANISM,
    MECHANISM_PLUS,
    KeyRequest,
    ScramError,
    WrongProofError,
    mock_salt,
    mock_secret,
    secret_from,
)
from poolproxy.auth.scram_server import ScramServer
from poolproxy.auth.secrets import PlainSecret, ScramSecret
from poolproxy.errors import PROTOCOL_VIOLATION

_FAILED = "SASL authentication failed"


@method("scram-sha-256")
class Scram(ClientExchange):
    """SCRAM against a SCRAM secret, or against one made on the spot from a plain password.

    Users that can't log in this way (unknown, MD5 secret, empty password) go through the same
    exchange with a made-up secret. Plain passwords use the salt an unknown user would see; the
    caller should cache the derivation, for its first run can be seen in the time.
    """

    def __init__(self, login: Login) -> None:
        super().__init__(login)
        self._server = ScramServer(login.nonce, login.end_point)
        # The mechanism with channel binding comes first, as clients may take the first that they know.
        self._offered = (MECHANISM,) if login.end_point is None else (MECHANISM_PLUS, MECHANISM)
        self._secret: ScramSecret | None = None  # set once client-first has been read

    def _first(self) -> Step:
        names = b"".join(name.encode("ascii") + b"\0" for name in self._offered)
        return Ask(AuthCode.SASL, names + b"\0")

    def _feed(self, payload: bytes) -> Step:
        try:
            if self._secret is None:
                return self._client_first(payload)
            return self._client_final(payload)
        except WrongProofError:
            return _wrong_proof()
        except ScramError as error:
            return _malformed(str(error))

    def _client_first(self, payload: bytes) -> Step:
        response = _read_initial_response(payload, self._offered)
        if isinstance(response, Reject):
            return response
        mechanism, data = response
        self._server.read_first(data, plus=mechanism == MECHANISM_PLUS)
        login = self.login
        match login.usable_secret():
            case ScramSecret() as secret:
                return self._challenge(secret)
            case PlainSecret(password):
                salt = mock_salt(login.mock_key, login.user)
                return Compute(KeyRequest(password, salt, login.iterations))
            case _:
                return self._challenge(mock_secret(login.mock_key, login.user, login.iterations))

    def _computed(self, salted: bytes) -> Step:
        salt = mock_salt(self.login.mock_key, self.login.user)
        return self._challenge(secret_from(salted, salt, self.login.iterations))

    def _challenge(self, secret: ScramSecret) -> Ask:
        self._secret = secret
        return Ask(AuthCode.SASL_CONTINUE, self._server.challenge(secret))

    def _client_final(self, payload: bytes) -> Step:
        proven = self._server.read_final(payload)
        if not isinstance(self.login.usable_secret(), ScramSecret | PlainSecret):
            return _wrong_proof()  # nobody can find a key for the made-up secret; be sure anyway
        # Keys of a secret made on the spot fit no server: PgBouncer 1.25.0 passed them through.
        genuine = self._secret is self.login.secret
        return Accept((AuthCode.SASL_FINAL, proven.final), proven.keys if genuine else None)


def _read_initial_response(payload: bytes, offered: tuple[str, ...]) -> tuple[str, bytes] | Reject:
    """(mechanism, client-first) of a SASLInitialResponse: mechanism, NUL, 32-bit length, data."""
    name, terminator, rest = payload.partition(b"\0")
    mechanism = name.decode("ascii", "replace")
    if not terminator or len(payload) > MAX_MESSAGE_BYTES:
        raise ScramError("the SASLInitialResponse is cut short or too long")
    if mechanism not in offered:
        return reject(
            "client selected an invalid SASL authentication mechanism",
            f"Offered is {' and '.join(offered)}.",
            PROTOCOL_VIOLATION,
        )
    if len(rest) < 4 or struct.unpack_from("!i", rest)[0] != len(rest) - 4:
        raise ScramError("the SASLInitialResponse has a wrong length")
    return mechanism, rest[4:]


def _wrong_proof() -> Reject:
    return reject(
        _FAILED,
        "Check the password, and the user's line in auth_file: SCRAM needs a plain password or a "
        "SCRAM secret there, with an md5 secret use auth_type = md5.",
    )


def _malformed(fault: str) -> Reject:
    return reject(_FAILED, f"The client's message can't be used: {fault}.", PROTOCOL_VIOLATION)
