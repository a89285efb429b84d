"""What is stored of a password: the password itself, its MD5 hash or a SCRAM secret.

No ``repr`` here shows anything that helps an attacker: these objects end up in tracebacks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import attrs

SCRAM_PREFIX = "SCRAM-SHA-256$"
KEY_BYTES = hashlib.sha256().digest_size

# PBKDF2 with a million rounds takes about half a second of one core: well above PostgreSQL's
# default of 4096 and above what is recommended for stored passwords (600,000), yet a secret or a
# server that asks for more can only be a mistake or an attempt to keep us busy.
MAX_ITERATIONS = 1_000_000
# PostgreSQL makes salts of 16 bytes; other tools that write secrets go up to 64.
MAX_SALT_BYTES = 256

_MD5 = re.compile(r"md5([0-9a-f]{32})")  # PostgreSQL and PgBouncer take lower case only
_SCRAM = re.compile(r"SCRAM-SHA-256\$([0-9]{1,10}):([^$:]+)\$([^$:]+):([^$:]+)")


def text_bytes(text: str) -> bytes:
    """The bytes of a password or name as its peer sent it: protocol strings need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


@attrs.frozen
class PlainSecret:
    """The password itself. An empty one never matches."""

    password: str = attrs.field(repr=False)

    def to_text(self) -> str:
        """The form that auth_file and pg_authid hold."""
        return self.password


@attrs.frozen
class Md5Secret:
    """``hash`` is the hex MD5 of password and user name, without PostgreSQL's prefix ``md5``."""

    hash: str = attrs.field(repr=False)

    def to_text(self) -> str:
        """The form that auth_file and pg_authid hold."""
        return f"md5{self.hash}"


@attrs.frozen
class ScramSecret:
    """A SCRAM-SHA-256 verifier (RFC 5803, as in PostgreSQL's pg_authid.rolpassword)."""

    iterations: int
    salt: bytes = attrs.field(repr=False)
    stored_key: bytes = attrs.field(repr=False)
    server_key: bytes = attrs.field(repr=False)

    def to_text(self) -> str:
        """The form that auth_file and pg_authid hold."""
        salt, stored, server = (
            base64.b64encode(part).decode("ascii")
            for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"{SCRAM_PREFIX}{self.iterations}:{salt}${stored}:{server}"


Secret = PlainSecret | Md5Secret | ScramSecret


def parse_secret(text: str) -> Secret:
    """Tell which kind of secret ``text`` (an auth_file entry, a rolpassword) is.

    Raises ValueError for a damaged SCRAM secret; the message doesn't show it. PgBouncer takes it
    for a plain password, and then whoever has seen the stored text could log in with it.
    """
    if text.startswith(SCRAM_PREFIX):
        return _parse_scram(text)
    if match := _MD5.fullmatch(text):
        return Md5Secret(match[1])
    return PlainSecret(text)


def _parse_scram(text: str) -> ScramSecret:
    match = _SCRAM.fullmatch(text)
    if match is None:
        raise ValueError(f"a SCRAM secret must look like {SCRAM_PREFIX}4096:salt$key:key")
    iterations = int(match[1])
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"a SCRAM secret's iteration count must be 1 to {MAX_ITERATIONS}")
    try:
        salt, stored, server = (decode_base64(part) for part in match.groups()[1:])
    except ValueError:
        raise ValueError("a SCRAM secret's salt and keys must be base64") from None
    if len(salt) > MAX_SALT_BYTES or len(stored) != KEY_BYTES or len(server) != KEY_BYTES:
        raise ValueError(
            f"a SCRAM secret has two keys of {KEY_BYTES} bytes "
            f"and a salt of at most {MAX_SALT_BYTES} bytes"
        )
    return ScramSecret(iterations, salt, stored, server)


def decode_base64(text: str | bytes) -> bytes:
    """Decode strictly; raise ValueError for anything that isn't base64, or for nothing."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error, or characters outside ASCII
        raise ValueError("not base64") from None
    if not data:
        raise ValueError("empty")
    return data


def md5_secret(password: str, user: str) -> Md5Secret:
    """What PostgreSQL stores for this password when ``password_encryption`` is ``md5``."""
    return Md5Secret(_md5_hex(text_bytes(password) + text_bytes(user)))


def md5_answer(secret: Md5Secret, salt: bytes) -> bytes:
    """What a PasswordMessage must hold (without the closing NUL) to AuthenticationMD5Password."""
    return b"md5" + _md5_hex(secret.hash.encode("ascii") + salt).encode("ascii")


def _md5_hex(data: bytes) -> str:
    # The flag only keeps hashlib willing on FIPS machines; that MD5 is weak is known, and the
    # administrator who sets auth_type = md5 or stores such secrets has decided.
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def same(left: bytes, right: bytes) -> bool:
    """Compare in a time that doesn't tell how many leading bytes agree."""
    return hmac.compare_digest(left, right)
