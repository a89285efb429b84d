"""SASLprep as PostgreSQL does it (RFC 4013, src/common/saslprep.c).

The result must equal what the server and libpq compute, so their deviations are kept: plain
ASCII, control characters included, passes untouched; U+200B becomes a space; prohibited
characters are looked for before the normalization, not after it; and a password that is not
allowed (or not UTF-8) is used as it is instead of being refused.
"""

from __future__ import annotations

import stringprep
import unicodedata

from poolproxy.auth.secrets import text_bytes

# Normalization is quadratic in a run of combining characters and holds the interpreter lock, so
# 64 kB of them would stall a worker. Longer passwords (tokens) are ASCII in practice.
MAX_PREPARED_CHARS = 1024

_PROHIBITED = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepare(password: str) -> bytes:
    """The bytes that PBKDF2 gets for ``password``."""
    if password.isascii() or len(password) > MAX_PREPARED_CHARS:
        return text_bytes(password)
    mapped = "".join(map(_mapped, password))
    if not mapped or _is_prohibited(mapped) or not _is_bidi_sound(mapped):
        return text_bytes(password)
    return text_bytes(unicodedata.normalize("NFKC", mapped))


def _mapped(char: str) -> str:
    if stringprep.in_table_c12(char):
        return " "
    return "" if stringprep.in_table_b1(char) else char


def _is_prohibited(text: str) -> bool:
    return any(table(char) for char in set(text) for table in _PROHIBITED)


def _is_bidi_sound(text: str) -> bool:
    """RFC 3454 section 6: right-to-left text has no left-to-right part and fills both ends."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    if any(map(stringprep.in_table_d2, text)):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
