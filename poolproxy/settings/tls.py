"""Kinds of values that only the TLS settings have."""

from __future__ import annotations

import re
from enum import Enum

from poolproxy.settings.values import Kind, Unexpected, did_you_mean, quoted, read_text


class TlsVersion(Enum):
    """A version of TLS, by PgBouncer's word for it, in the order of age."""

    V1_0 = "tlsv1.0"
    V1_1 = "tlsv1.1"
    V1_2 = "tlsv1.2"
    V1_3 = "tlsv1.3"


ALL = tuple(TlsVersion)
SECURE = (TlsVersion.V1_2, TlsVersion.V1_3)
_SHORTCUTS = {"secure": SECURE, "default": SECURE, "all": ALL, "legacy": ALL}
_VERSIONS = {version.value: (version,) for version in TlsVersion}

# PgBouncer's shortcuts in OpenSSL's notation; "" is what Python's ssl takes by itself.
CIPHER_SHORTCUTS = {
    "default": "",
    "secure": "",
    "fast": "HIGH:!aNULL:!eNULL",
    "normal": "HIGH:MEDIUM:!aNULL:!eNULL",
    "all": "ALL:!aNULL:!eNULL",
}
_CIPHERS = re.compile(r"[A-Za-z0-9_+:,!@=. -]+")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def _read_protocols(value: object) -> tuple[TlsVersion, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise Unexpected
    known = _SHORTCUTS | _VERSIONS
    found: set[TlsVersion] = set()
    for word in words:
        name = read_text(word).strip().lower()
        if name not in known:
            raise Unexpected(did_you_mean(name, known))
        found.update(known[name])
    versions = tuple(version for version in ALL if version in found)
    # Python's ssl knows a least and a greatest version and nothing between.
    if ALL.index(versions[-1]) - ALL.index(versions[0]) != len(versions) - 1:
        raise Unexpected("a version between two others can't be left out")
    return versions


def _write_protocols(versions: tuple[TlsVersion, ...]) -> str:
    if versions == SECURE:
        return quoted("secure")
    return f"[{', '.join(quoted(version.value) for version in versions)}]"


PROTOCOLS = Kind(
    "list of versions",
    '"secure", "all" or a list such as ["tlsv1.2", "tlsv1.3"]',
    _read_protocols,
    _write_protocols,
)


def _matching(pattern: re.Pattern[str], value: object) -> str:
    text = read_text(value)
    if not pattern.fullmatch(text):
        raise Unexpected
    return text


CIPHERS = Kind(
    "ciphers",
    'ciphers in OpenSSL\'s notation such as "HIGH:!aNULL", or "default"',
    lambda value: _matching(_CIPHERS, value),
    quoted,
)
CURVE = Kind(
    "curve",
    'the name of an elliptic curve such as "prime256v1", or "auto"',
    lambda value: _matching(_NAME, value),
    quoted,
)
