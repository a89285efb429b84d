"""PgBouncer's options of LDAP, which are PostgreSQL's: where to ask, and whom to ask for.

Two ways. *Simple bind*: the user's DN is ldapprefix, name, ldapsuffix. *Search and bind*: one entry is
searched for below ldapbasedn. The password is right if the directory lets that entry in with it.

https://www.postgresql.org/docs/current/auth-ldap.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

import attrs

from poolproxy.auth.words import fields

DEFAULT_ATTRIBUTE = "uid"
SCOPES = ("base", "one", "sub")
_PORTS = {"ldap": 389, "ldaps": 636}
_PLAIN = re.compile(r"[A-Za-z0-9@._-]")
_SEARCHING = (
    *("ldapbasedn", "ldapbinddn", "ldapbindpasswd"),
    *("ldapsearchattribute", "ldapsearchfilter", "ldapscope"),
)
_JOINING = ("ldapprefix", "ldapsuffix")
_KNOWN = frozenset(
    (*_SEARCHING, *_JOINING, "ldapurl", "ldapserver", "ldapport", "ldapscheme", "ldaptls")
)


@attrs.frozen(kw_only=True)
class LdapOptions:
    """``base`` None is simple bind, by ``prefix`` and ``suffix``; else the entry is searched for by
    ``filter``, as ``bind_dn`` if it is not "". ``starttls``: encrypt a connection of scheme ldap.
    """

    servers: tuple[str, ...]
    port: int
    scheme: str = "ldap"
    starttls: bool = False
    prefix: str = ""
    suffix: str = ""
    base: str | None = None
    scope: str = "sub"
    filter: str = ""
    bind_dn: str = ""
    bind_password: str = attrs.field(default="", repr=False)

    def dn(self, user: str) -> str:
        """The name to bind with, without a search."""
        return f"{self.prefix}{escaped(user)}{self.suffix}"

    def search(self, user: str) -> str:
        """The filter that finds the user's entry (RFC 4515)."""
        return self.filter.replace("$username", escaped(user))


def escaped(name: str) -> str:
    r"""A name that has no meaning of its own in a DN (RFC 4514) nor in a filter (RFC 4515).

    Both notations read ``\XX`` as a byte, so whatever is not surely harmless is written so.
    """
    return "".join(
        char if _PLAIN.fullmatch(char) else "".join(f"\\{byte:02x}" for byte in _bytes(char))
        for char in name
    )


def _bytes(char: str) -> bytes:
    return char.encode("utf-8", "surrogateescape")


def read_ldap(text: str) -> LdapOptions:
    """The options of auth_ldap_options; raises ValueError."""
    options = []
    for field in fields(text):
        if len(field) != 1:
            raise ValueError("a value with a comma needs quotes")
        options.append(field[0].text)
    return ldap_options(options)


def ldap_options(words: Iterable[str]) -> LdapOptions:
    """The options that ``NAME=VALUE`` words make; raises ValueError, which never shows a value."""
    given = dict[str, str]()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in _KNOWN or name == "ldapscope":
            raise ValueError(f'"{name}" is no option of LDAP')
        if name == "ldapurl":
            given |= _of_url(value)
        else:
            given[name] = value
    scheme = given.get("ldapscheme", "ldap")
    if scheme not in _PORTS:
        raise ValueError("ldapscheme is ldap or ldaps")
    if not (servers := tuple(given.get("ldapserver", "").split())):
        raise ValueError("ldapserver or ldapurl is missing")
    starttls = given.get("ldaptls", "0")
    if starttls not in ("0", "1") or (starttls == "1" and scheme == "ldaps"):
        raise ValueError("ldaptls is 0 or 1, and 0 with ldaps")
    base, search = _search(given)
    return LdapOptions(
        servers=servers,
        port=_port(given.get("ldapport", str(_PORTS[scheme]))),
        scheme=scheme,
        starttls=starttls == "1",
        prefix=given.get("ldapprefix", ""),
        suffix=given.get("ldapsuffix", ""),
        base=base,
        scope=given.get("ldapscope", "sub"),
        filter=search,
        bind_dn=given.get("ldapbinddn", ""),
        bind_password=given.get("ldapbindpasswd", ""),
    )


def _search(given: dict[str, str]) -> tuple[str | None, str]:
    """Where to search and by which filter; (None, "") for simple bind."""
    joins = any(name in given for name in _JOINING)
    searches = [name for name in _SEARCHING if name in given]
    if joins and searches:
        raise ValueError(f"{searches[0]} is for a search: it excludes ldapprefix and ldapsuffix")
    if joins:
        return None, ""
    if "ldapbasedn" not in given:
        raise ValueError("neither ldapbasedn, nor ldapprefix or ldapsuffix is there")
    own = given.get("ldapsearchfilter", "")
    if own and "ldapsearchattribute" in given:
        raise ValueError("ldapsearchattribute and ldapsearchfilter exclude each other")
    if own and "$username" not in own:
        raise ValueError("ldapsearchfilter needs $username: else everybody is the same entry")
    # An operator's filter may lack its parentheses, as with libldap.
    own = own if not own or own.startswith("(") else f"({own})"
    return given[
        "ldapbasedn"
    ], own or f"({given.get('ldapsearchattribute', DEFAULT_ATTRIBUTE)}=$username)"


def _port(text: str) -> int:
    port = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else 0
    if not 0 < port < 65536:
        raise ValueError("ldapport is a number from 1 to 65535")
    return port


def _of_url(url: str) -> dict[str, str]:
    """``ldap[s]://HOST[:PORT]/BASEDN[?[ATTRIBUTE][?[SCOPE][?[FILTER]]]]`` (RFC 4516)."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("ldapurl can't be read") from None
    if parts.scheme not in _PORTS or parts.username is not None or "#" in url:
        raise ValueError(
            "ldapurl is ldap://HOST/BASEDN?ATTRIBUTE?SCOPE?FILTER, or begins with ldaps"
        )
    attribute, scope, search, more = (*map(unquote, parts.query.split("?")), "", "", "", "")[:4]
    if more or (scope or "sub") not in SCOPES:
        raise ValueError(f"ldapurl has no extensions, and its scope is {', '.join(SCOPES)}")
    found = {
        "ldapscheme": parts.scheme,
        "ldapserver": host or "",
        "ldapport": str(port or _PORTS[parts.scheme]),
        "ldapbasedn": unquote(parts.path.removeprefix("/")),
        # PostgreSQL's default here is base, RFC 4516's too.
        "ldapscope": scope or "base",
        "ldapsearchattribute": attribute,
        "ldapsearchfilter": search,
    }
    return {name: value for name, value in found.items() if value}
