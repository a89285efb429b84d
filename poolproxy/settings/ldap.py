"""The kind of value that auth_ldap_options has."""

from __future__ import annotations

from poolproxy.auth.ldap import read_ldap
from poolproxy.settings.values import Kind, Unexpected, quoted, read_text


def _read(value: object) -> str:
    text = read_text(value)
    try:
        if text:
            read_ldap(text)
    except ValueError as error:
        raise Unexpected(str(error)) from None
    return text


LDAP = Kind(
    "options of LDAP",
    "options such as 'ldapserver=ldap.example.org ldapbasedn=\"dc=example,dc=org\"'",
    _read,
    quoted,
)
