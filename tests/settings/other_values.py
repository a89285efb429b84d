"""Another value for any setting: for tests over the whole table."""

from __future__ import annotations

from enum import Enum
from typing import Any

from poolproxy.settings.addresses import Address
from poolproxy.settings.field import Setting
from poolproxy.settings.tls import TlsVersion
from poolproxy.settings.values import Unexpected

# Tried in turn; the kind takes the first that it can read.
_TEXTS = ("7", "3", "4096", "/other", "other", "1.2.3.4:5", "secp384r1", "0600", "true", "false")


def other_value(setting: Setting) -> Any:
    """A valid value that is not the default; raises for a kind that this function does not know."""
    default = setting.default
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
