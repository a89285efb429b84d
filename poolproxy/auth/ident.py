"""PgBouncer's auth_ident_file: which system users, or names of certificates, may be which users.

Lines are ``MAP SYSTEM-USER USER``; the user ``all`` stands for every user. As in PgBouncer there are no
regular expressions and no groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import attrs

from poolproxy.auth.words import fields, lines
from poolproxy.errors import Mistake


@attrs.frozen
class Entry:
    """One line; ``user`` None is any user."""

    name: str
    user: str | None


IdentMaps: TypeAlias = Mapping[str, tuple[Entry, ...]]


def parse_ident(text: str, source: str) -> tuple[IdentMaps, tuple[Mistake, ...]]:
    """The maps by name, and the mistakes with their ``source:line``; never raises."""
    maps: dict[str, tuple[Entry, ...]] = {}
    mistakes: list[Mistake] = []
    for number, line in lines(text):
        try:
            name, entry = _entry(line)
        except ValueError as error:
            mistakes.append(Mistake(f"{source}:{number}", str(error)))
            continue
        maps[name] = (*maps.get(name, ()), entry)
    return maps, tuple(mistakes)


def _entry(line: str) -> tuple[str, Entry]:
    found = fields(line)
    if len(found) != 3 or any(len(field) != 1 for field in found):
        raise ValueError("expected MAP SYSTEM-USER USER")
    (name,), (system,), (user,) = found
    if system.keyword.startswith("/") or user.keyword.startswith("+"):
        raise ValueError("regular expressions and groups are not supported here")
    return name.text, Entry(system.text, None if user.keyword == "all" else user.text)


def may_be(names: Iterable[str], user: str, entries: tuple[Entry, ...] | None) -> bool:
    """Whether who is known by one of ``names`` may log in as ``user``; ``entries``: of a map, None
    without one.
    """
    known = frozenset(names)
    if entries is None:
        return user in known
    return any(entry.name in known and entry.user in (None, user) for entry in entries)
