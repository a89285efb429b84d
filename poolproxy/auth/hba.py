"""PgBouncer's auth_hba_file, which is PostgreSQL's pg_hba.conf without some of its kinds.

Lines are ``local DATABASE USER METHOD [OPTION...]`` and ``host|hostssl|hostnossl DATABASE USER ADDRESS
METHOD [OPTION...]``. The first line that fits decides; where none fits the client is refused. PgBouncer
skips a broken line; here it is a mistake, as a lost ``reject`` would let in who should stay out.

``+group`` (which PgBouncer has not) is a group of users that auth_file tells, see ``userlist``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import attrs

from poolproxy.auth.ldap import LdapOptions, ldap_options
from poolproxy.auth.words import Word, fields, lines
from poolproxy.errors import Mistake

# By the name in the file: the method of poolproxy.auth.methods.
METHODS = {
    "trust": "trust",
    "reject": "reject",
    "md5": "md5",
    "password": "plain",
    "scram-sha-256": "scram-sha-256",
    "peer": "peer",
    "cert": "cert",
    "ldap": "ldap",
    "pam": "pam",
}
KINDS = ("local", "host", "hostssl", "hostnossl")
# Which methods have which options, and the field of the rule that an option fills.
_OPTIONS = {"map": ("peer", "cert"), "pamservice": ("pam",)}
_FIELDS = {"map": "map", "pamservice": "pam_service"}
_HOSTS = ("samehost", "samenet")
_ROLES = ("samerole", "samegroup")


@attrs.frozen
class Visit:
    """A client that wants in. ``address`` is its IP address, "" on a Unix socket; ``replication``: it
    wants a connection for physical replication.
    """

    database: str
    user: str
    address: str = ""
    tls: bool = False
    replication: bool = False


@attrs.frozen
class Names:
    """The database or user field of a rule."""

    all: bool = False
    same_user: bool = False
    replication: bool = False
    names: frozenset[str] = frozenset()


@attrs.frozen
class Rule:
    """``where`` is file:line; ``network`` None is any address; ``map`` is "" without one; ``ldap`` is for
    that method; ``pam_service`` "" leaves it to auth_pam_service.
    """

    where: str
    kind: str
    databases: Names
    users: Names
    network: IPv4Network | IPv6Network | None
    method: str
    map: str = ""
    ldap: LdapOptions | None = None
    pam_service: str = ""

    def fits(self, visit: Visit) -> bool:
        """Whether this rule decides about ``visit``."""
        return (
            self._fits_connection(visit)
            and self._fits_database(visit)
            and (self.users.all or visit.user in self.users.names)
        )

    def _fits_connection(self, visit: Visit) -> bool:
        if self.kind == "local" or not visit.address:
            return self.kind == "local" and not visit.address
        if self.kind != "host" and visit.tls is not (self.kind == "hostssl"):
            return False
        return self.network is None or ip_address(visit.address) in self.network

    def _fits_database(self, visit: Visit) -> bool:
        wanted = self.databases
        if visit.replication:
            return wanted.replication  # as in PostgreSQL: no other word stands for it
        if wanted.same_user and visit.database == visit.user:
            return True
        return wanted.all or visit.database in wanted.names


def first_match(rules: tuple[Rule, ...], visit: Visit) -> Rule | None:
    """The rule that decides."""
    return next((rule for rule in rules if rule.fits(visit)), None)


def included_files(text: str) -> list[str]:
    """The names of the files that ``@`` includes, for whoever can read them."""
    found = dict[str, None]()
    for _, line in lines(text):
        try:
            words = [word for field in fields(line)[1:3] for word in field]
        except ValueError:
            continue
        found |= {word.text[1:]: None for word in words if _is_file(word)}
    return list(found)


def parse_hba(
    text: str,
    source: str,
    *,
    groups: Mapping[str, frozenset[str]],
    files: Mapping[str, str],
    maps: Mapping[str, object],
) -> tuple[tuple[Rule, ...], tuple[Mistake, ...]]:
    """The rules, and the mistakes with their ``source:line``; never raises.

    ``groups``: users by the name of their group; ``files``: the texts of :func:`included_files`;
    ``maps``: the names of auth_ident_file.
    """
    rules: list[Rule] = []
    mistakes: list[Mistake] = []
    reader = _Reader(groups, files, maps)
    for number, line in lines(text):
        try:
            if found := fields(line):  # a comma alone is nothing
                rules.append(reader.rule(f"{source}:{number}", found))
        except ValueError as error:
            mistakes.append(Mistake(f"{source}:{number}", str(error)))
    return tuple(rules), tuple(mistakes)


@attrs.frozen
class _Reader:
    groups: Mapping[str, frozenset[str]]
    files: Mapping[str, str]
    maps: Mapping[str, object]

    def rule(self, where: str, found: list[list[Word]]) -> Rule:
        kind = _single(found[0], "the first word")
        if kind not in KINDS:
            raise ValueError(f'"{kind}" is none of {", ".join(KINDS)}')
        least = 4 if kind == "local" else 5
        if len(found) < least:
            address = "" if kind == "local" else " ADDRESS"
            raise ValueError(f"expected {kind} DATABASE USER{address} METHOD")
        databases = self._names(found[1], _database)
        users = self._names(found[2], self._user)
        network, rest = (None, found[3:]) if kind == "local" else _network(found[3:])
        if not rest:
            raise ValueError("the method is missing")
        method = self._method(kind, _single(rest[0], "the method"))
        options = [_single(option, "an option", keep_case=True) for option in rest[1:]]
        if method == "ldap":
            ldap = ldap_options(options)
            return Rule(where, kind, databases, users, network, method, ldap=ldap)
        own = self._options(method, options)
        return Rule(where, kind, databases, users, network, method, **own)

    def _names(self, words: list[Word], read: Callable[[Word], Names]) -> Names:
        found = Names()
        for word in self._with_files(words):
            more = read(word)
            found = Names(
                found.all or more.all,
                found.same_user or more.same_user,
                found.replication or more.replication,
                found.names | more.names,
            )
        return found

    def _with_files(self, words: list[Word]) -> Iterator[Word]:
        for word in words:
            if not _is_file(word):
                yield word
                continue
            text = self.files.get(word.text[1:])
            if text is None:
                raise ValueError(f"the file {word.text[1:]} could not be read")
            for _, line in lines(text):
                for field in fields(line):
                    if any(_is_file(inner) for inner in field):
                        raise ValueError(f"the file {word.text[1:]} includes a further file")
                    yield from field

    def _user(self, word: Word) -> Names:
        if word.keyword == "all":
            return Names(all=True)
        if word.keyword.startswith("+"):
            group = word.text[1:]
            if group not in self.groups:
                raise ValueError(f'no user of auth_file is in the group "{group}"')
            return Names(names=self.groups[group])
        if word.keyword.startswith("/"):
            raise ValueError("regular expressions are not supported")
        return Names(names=frozenset((word.text,)))

    def _method(self, kind: str, name: str) -> str:
        method = METHODS.get(name)
        if method is None:
            raise ValueError(f'the method "{name}" is none of {", ".join(METHODS)}')
        if method == "peer" and kind != "local":
            raise ValueError("peer is for local lines only: it asks the system who the client is")
        if method == "cert" and kind != "hostssl":
            raise ValueError(
                "cert is for hostssl lines only: there are no certificates without TLS"
            )
        return method

    def _options(self, method: str, options: list[str]) -> dict[str, Any]:
        """The options by the names of the rule's fields."""
        found = {}
        for option in options:
            key, equals, value = option.partition("=")
            if not equals or method not in _OPTIONS.get(key, ()):
                raise ValueError(f'"{key}" is no option of this method')
            if key == "map" and value not in self.maps:
                raise ValueError(f'auth_ident_file has no map "{value}"')
            found[_FIELDS[key]] = value
        return found


def _is_file(word: Word) -> bool:
    return word.keyword.startswith("@") and len(word.text) > 1


def _single(field: list[Word], what: str, *, keep_case: bool = False) -> str:
    if len(field) != 1:
        raise ValueError(f"{what} is one word, not a list: a comma needs quotes")
    return field[0].text if keep_case else field[0].keyword or field[0].text


def _database(word: Word) -> Names:
    match word.keyword:
        case "all":
            return Names(all=True)
        case "sameuser":
            return Names(same_user=True)
        case "replication":
            return Names(replication=True)
        case keyword if keyword in _ROLES:
            raise ValueError(f"{keyword} is not supported: the roles are known to PostgreSQL alone")
        case keyword if keyword.startswith("/"):
            raise ValueError("regular expressions are not supported")
    return Names(names=frozenset((word.text,)))


def _network(
    rest: list[list[Word]],
) -> tuple[IPv4Network | IPv6Network | None, list[list[Word]]]:
    """The address field or fields, and what follows."""
    address = _single(rest[0], "the address")
    if address == "all":
        return None, rest[1:]
    if address in _HOSTS or (not address[:1].isalnum() and address[:1] != ":"):
        raise ValueError(f'"{address}" is not supported as an address')
    try:
        if "/" in address:
            return ip_network(address, strict=False), rest[1:]
        ip_address(address)
        mask = _single(rest[1], "the mask") if len(rest) > 1 else ""
        if mask[:1].isdigit() or ":" in mask:
            return _with_mask(address, mask), rest[2:]
    except ValueError:
        raise ValueError(
            f'"{address}" is no address: expected all, ADDRESS/BITS, or ADDRESS MASK'
        ) from None
    raise ValueError(f"{address} needs a mask: write {address}/{128 if ':' in address else 32}")


def _with_mask(address: str, mask: str) -> IPv4Network | IPv6Network:
    # ipaddress reads no masks of IPv6.
    if ":" not in mask:
        return ip_network(f"{address}/{mask}", strict=False)
    bits = f"{int(ip_address(mask)):0128b}"
    if "01" in bits:
        raise ValueError
    return ip_network(f"{address}/{bits.count('1')}", strict=False)
