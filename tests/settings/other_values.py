"""Another value for any setting: for tests over the whole table."""

from __future__ import annotations

from enum import Enum
from typing import Any

from poolproxy.settings.addresses import Address
from poolproxy.settings.field import Setting
from poolproxy.settings.tls import TlsVersion
from poolproxy.settings.values import Unexpected

# What only some texts of OpenSSL's will do for.
_NAMED = {
    "client_tls_ciphers": "fast",
    "server_tls_ciphers": "fast",
    "client_tls13_ciphers": "TLS_AES_256_GCM_SHA384",
    "server_tls13_ciphers": "TLS_AES_256_GCM_SHA384",
    "client_tls_ecdhcurve": "secp384r1",
}
# Tried in turn; the kind takes the first that it can read.
_TEXTS = (
    "statement",
    "7",
    "3",
    "4096",
    "/other",
    "other",
    "1.2.3.4:5",
    "0600",
    "true",
    "false",
    "trust",
    "pin",
)


def other_value(setting: Setting) -> Any:
    """A valid value that is not the default; raises for a kind that this function does not know."""
    default = setting.default
    if setting.name in _NAMED:
        return setting.kind.read(_NAMED[setting.name])
    if isinstance(default, Enum):
        return next(member for member in type(default) if member is not default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, tuple) and any(isinstance(item, TlsVersion) for item in default):
        return (TlsVersion.V1_3,)
    if "LDAP" in setting.kind.label:
        return setting.kind.read(
            "ldapserver=ldap.example.org ldapsearchattribute=uid ldapbasedn=dc=a"
        )
    if isinstance(default, Address):
        return Address("127.0.0.1", default.port + 1)
    for text in _TEXTS:
        try:
            value = setting.kind.read(text)
        except Unexpected:
            continue
        if value != default:
            return value
    raise AssertionError(f"no other value for {setting.name}: {setting.kind.label}")
