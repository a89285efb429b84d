"""SCRAM-SHA-256 (RFC 5802, RFC 7677): keys, and reading the messages of both sides.

Key derivation (PBKDF2) is the one expensive step: milliseconds where all else takes
microseconds. Nothing here or in the exchanges runs it unasked; they hand out a
:class:`KeyRequest`, and the caller runs it in a thread (hashlib releases the interpreter lock).
"""

from __future__ import annotations

import hashlib
import hmac

import attrs

from poolproxy.auth.saslprep import prepare
from poolproxy.auth.secrets import KEY_BYTES, ScramSecret, text_bytes

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"
BINDING = "tls-server-end-point"  # the one channel binding of PostgreSQL
# libpq's messages have about 100 bytes; a name and extensions may add to that.
MAX_MESSAGE_BYTES = 4096
# PostgreSQL, libpq and the common drivers use 24 to 64 characters for each half.
MAX_NONCE_CHARS = 512


class ScramError(Exception):
    """The peer's message is malformed. The text may be shown: it holds nothing secret."""


class WrongProofError(ScramError):
    """The peer doesn't know the password, the user has none, or the peer isn't who it claims."""


@attrs.frozen
class ScramKeys:
    """What a login with SCRAM takes instead of the password: enough to log in elsewhere."""

    client_key: bytes = attrs.field(repr=False)
    server_key: bytes = attrs.field(repr=False)


@attrs.frozen
class KeyRequest:
    """A key derivation to run off the event loop: hand ``request.derive()`` back.

    Equal requests have equal results, so a request can be the key of a (bounded) cache.
    """

    password: str = attrs.field(repr=False)
    salt: bytes = attrs.field(repr=False)
    iterations: int

    def derive(self) -> bytes:
        """Run it: takes milliseconds to half a second of a core."""
        return salted_password(self.password, self.salt, self.iterations)


def salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    """SaltedPassword of RFC 5802: the expensive step."""
    return hashlib.pbkdf2_hmac("sha256", prepare(password), salt, iterations)


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """HMAC() of RFC 5802."""
    return hmac.digest(key, data, "sha256")


def keys_from(salted: bytes) -> ScramKeys:
    """ClientKey and ServerKey from SaltedPassword."""
    return ScramKeys(hmac_sha256(salted, b"Client Key"), hmac_sha256(salted, b"Server Key"))


def stored_key(client_key: bytes) -> bytes:
    """StoredKey of RFC 5802."""
    return hashlib.sha256(client_key).digest()


def secret_from(salted: bytes, salt: bytes, iterations: int) -> ScramSecret:
    """The verifier for a password whose derivation has been run."""
    keys = keys_from(salted)
    return ScramSecret(iterations, salt, stored_key(keys.client_key), keys.server_key)


def make_secret(password: str, salt: bytes, iterations: int) -> ScramSecret:
    """The verifier that PostgreSQL would store. Runs the expensive step."""
    return secret_from(salted_password(password, salt, iterations), salt, iterations)


def mock_salt(mock_key: bytes, user: str) -> bytes:
    """The salt to show where none is stored: always the same one for a user.

    It serves users that don't exist and users with a plain password alike; two ways to choose it
    would tell them apart, and so would a salt that changes between two attempts.
    """
    return _mock(mock_key, b"salt", user)[:16]


def mock_secret(mock_key: bytes, user: str, iterations: int) -> ScramSecret:
    """A secret that no password fits, for an exchange whose failure is settled."""
    stored, server = (_mock(mock_key, label, user) for label in (b"stored", b"server"))
    return ScramSecret(iterations, mock_salt(mock_key, user), stored, server)


def _mock(mock_key: bytes, label: bytes, user: str) -> bytes:
    return hmac_sha256(mock_key, label + b"\0" + text_bytes(user))


def xor(left: bytes, right: bytes) -> bytes:
    """XOR of two keys."""
    mixed = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
    return mixed.to_bytes(KEY_BYTES, "big")


def is_nonce(text: str) -> bool:
    """Whether ``text`` has only what RFC 5802 calls printable: ASCII 0x21 to 0x7E, no comma."""
    return bool(text) and all("!" <= char <= "~" and char != "," for char in text)


def read_message(payload: bytes) -> str:
    """The text of a SCRAM message, a character for each byte; raise ScramError if oversize.

    The proofs cover the exact bytes, and all that is read of them is ASCII: so the name inside
    may be in any encoding, as with PostgreSQL. :func:`message_bytes` is the way back.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ScramError(f"a SCRAM message has more than {MAX_MESSAGE_BYTES} bytes")
    if b"\0" in payload:
        raise ScramError("a SCRAM message has a NUL byte")
    return payload.decode("latin-1")


def message_bytes(text: str) -> bytes:
    """The bytes of a text that :func:`read_message` made, or of our own (ASCII) messages."""
    return text.encode("latin-1")


def read_attributes(message: str, names: str) -> list[str]:
    """The values of ``a=value,b=value``: first the attributes of ``names`` in this order.

    Attributes after these are extensions: their values follow, for callers that allow them.
    """
    parts = message.split(",")
    if len(parts) < len(names):
        raise ScramError(f'a SCRAM message lacks the attribute "{names[len(parts)]}"')
    values = []
    for index, part in enumerate(parts):
        if index < len(names) and not part.startswith(names[index]):
            raise ScramError(f'a SCRAM message lacks the attribute "{names[index]}"')
        if not (part[:1].isascii() and part[:1].isalpha() and part[1:2] == "="):
            raise ScramError("a SCRAM message has something that is not an attribute")
        values.append(part[2:])
    return values
