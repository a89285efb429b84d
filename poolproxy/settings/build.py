"""From what a front end has read to a configuration, or to every mistake in it.

A front end knows one file format. It yields :class:`Item` in file order and judges nothing; what
tables and keys there are, and what their values may be, is decided here for all formats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.checks import Finding, Path, check
from poolproxy.settings.config import Config
from poolproxy.settings.entries import DatabaseSettings, PeerSettings, UserSettings
from poolproxy.settings.field import Setting, settings_of
from poolproxy.settings.schema import Settings
from poolproxy.settings.values import Unexpected, alternatives, did_you_mean, quoted, shown

PROXY, DATABASES, USERS, PEERS = "poolproxy", "databases", "users", "peers"
TABLES: dict[str, type] = {
    PROXY: Settings,
    DATABASES: DatabaseSettings,
    USERS: UserSettings,
    PEERS: PeerSettings,
}
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_KNOWN = {
    table: {setting.name: setting for setting in settings_of(cls)} for table, cls in TABLES.items()
}


@attrs.frozen
class Item:
    """One thing in a file.

    ``table`` is "" for a key outside of all tables. ``name`` is the entry's in [databases.NAME]
    and [users.NAME]; None is the table itself. ``key`` None declares the table or the entry, so
    that an empty one is not lost; if it is ``fresh`` what stood in it before is void. ``where`` is for
    :class:`poolproxy.errors.Mistake`. ``fault`` is what is wrong with a place that can't be read.
    """

    table: str
    name: str | None
    key: str | None
    value: object
    where: str = ""
    fresh: bool = False
    fault: str = ""

    @property
    def path(self) -> Path:
        """The parts of the item's full name that it has."""
        return tuple(part for part in (self.table or None, self.name, self.key) if part is not None)


def key_path(path: Path) -> str:
    """The path as TOML has it: ``databases."my db".host``."""
    return ".".join(part if _BARE.fullmatch(part) else quoted(part) for part in path)


@attrs.frozen
class Dialect:
    """What a file format has of its own.

    ``headers``: how it writes the tables, ``noun``: what it calls them; ``read`` and ``expected``: as
    those of a kind, in its own notation; ``write``: a value as bare text that ``read`` takes back; ``path``:
    how it names what stands nowhere.
    ``defaults`` of the proxy differ from ours. A header that comes again leaves the ``lasting`` settings.
    ``idle`` ones are known to do nothing, and why; ``lenient``: what PgBouncer would run with is
    noted, and no mistake.
    """

    headers: Mapping[str, str]
    read: Callable[[Item, Setting], Any]
    write: Callable[[Setting, Any], str]
    expected: Callable[[Setting], str]
    path: Callable[[Path], str]
    defaults: Mapping[str, Any] = attrs.field(factory=dict)
    lasting: frozenset[str] = frozenset()
    idle: Mapping[str, str] = attrs.field(factory=dict)
    lenient: bool = False
    noun: str = "table"


def build(items: Iterable[Item], source: str, dialect: Dialect) -> Config:
    """The configuration that ``items`` make.

    Raises :class:`ConfigError` with all mistakes, in the order of ``items``. If a key comes
    twice the last one counts, as in PgBouncer.
    """
    draft = _Draft(source, dialect)
    for item in items:
        draft.take(item)
    config = draft.config()
    for finding in check(config):
        draft.report(finding)
    if draft.mistakes:
        raise ConfigError(_in_order(draft.mistakes))
    return attrs.evolve(config, notes=_in_order(draft.notes))


def assemble(items: Iterable[Item], source: str, dialect: Dialect) -> Config:
    """The same for what has been found good before: nothing is checked that no value shows by itself."""
    draft = _Draft(source, dialect)
    for item in items:
        draft.take(item)
    if draft.mistakes:
        raise ConfigError(_in_order(draft.mistakes))
    return draft.config()


def _in_order(placed: list[tuple[float, Mistake]]) -> tuple[Mistake, ...]:
    # Sorting is stable: mistakes of one line stay in the order they were found.
    return tuple(mistake for _, mistake in sorted(placed, key=lambda each: each[0]))


class _Draft:
    """Values so far, where they were, and mistakes with their place in the order of items."""

    def __init__(self, source: str, dialect: Dialect) -> None:
        self.mistakes: list[tuple[float, Mistake]] = []
        self.notes: list[tuple[float, Mistake]] = []
        self._source = source
        self._dialect = dialect
        self._proxy: dict[str, Any] = dict(dialect.defaults)
        self._idle: dict[str, str] = {}
        self._entries: dict[str, dict[str, dict[str, Any]]] = {
            DATABASES: {},
            USERS: {},
            PEERS: {},
        }
        self._taken = 0
        self._places: dict[Path, tuple[int, str]] = {}
        self._broken: set[Path] = set()

    def take(self, item: Item) -> None:
        """Add one item, or the mistake that it is."""
        self._taken += 1
        self._places[item.path] = (self._taken, item.where)
        if item.fresh:
            self._forget(item)
        text = item.fault or _misplaced(item, self._dialect) or self._add(item)
        if text:
            self._broken.add(item.path)
            self.mistakes.append((self._taken, Mistake(item.where, text)))
            if item.table in self._entries and item.name is None and item.key is not None:
                # It was meant as an entry, so no check shall find that there is none.
                self._entries[item.table].setdefault(item.key, {})

    def _forget(self, item: Item) -> None:
        if item.name is not None:
            self._entries[item.table][item.name] = {}
            return
        lasting = {key: self._proxy[key] for key in self._dialect.lasting & self._proxy.keys()}
        self._proxy = {**self._dialect.defaults, **lasting}
        self._idle.clear()

    def _add(self, item: Item) -> str:
        """Read the item's value; returns what is wrong with it, or ""."""
        values = self._proxy
        if item.name is not None:
            values = self._entries[item.table].setdefault(item.name, {})
        if item.key is None:
            return ""
        setting = _KNOWN[item.table].get(item.key)
        if setting is None and item.name is None and item.key in self._dialect.idle:
            text = f"{item.key} does nothing here: {self._dialect.idle[item.key]}"
            self.notes.append((self._taken, Mistake(item.where, text)))
            self._idle[item.key] = str(item.value)
            return ""
        if setting is None:
            return _unknown(item, item.key, self._dialect)
        try:
            values[item.key] = self._dialect.read(item, setting)
        except Unexpected as error:
            return self._unexpected(setting, item.value, error.hint)
        return ""

    def _unexpected(self, setting: Setting, value: object, hint: str) -> str:
        # A secret's value must not reach a terminal or a log, not even a wrong one.
        found = "" if setting.secret else f", not {shown(value)}"
        text = f"{setting.name} must be {self._dialect.expected(setting)}{found}"
        return text + (f"; {hint}" if hint else "")

    def config(self) -> Config:
        """The configuration of all good values; broken ones have their defaults."""
        databases, users = self._entries[DATABASES], self._entries[USERS]
        peers = self._entries[PEERS]
        return Config(
            Settings(**self._proxy),
            {name: DatabaseSettings(**values) for name, values in databases.items()},
            {name: UserSettings(**values) for name, values in users.items()},
            self._source,
            peers={name: PeerSettings(**values) for name, values in peers.items()},
            idle=self._idle if self._dialect.lenient else None,
        )

    def report(self, finding: Finding) -> None:
        """Add what a check has found, unless it follows from a mistake that is known already."""
        for about in finding.about:
            if any(about[:length] in self._broken for length in range(1, len(about) + 1)):
                return
        order, where = self._place(finding)
        noted = finding.tolerable and self._dialect.lenient
        (self.notes if noted else self.mistakes).append((order, Mistake(where, finding.text)))

    def _place(self, finding: Finding) -> tuple[float, str]:
        """Where the finding is shown: the first key that was given, else the table it lacks in."""
        first = finding.about[0]
        tables = [first[:length] for length in range(len(first) - 1, 0, -1)]
        for path in (*finding.about, *tables):
            if path in self._places:
                return self._places[path]
        shown_path = self._dialect.path(first)
        return math.inf, f"{self._source}: {shown_path}" if shown_path else self._source


def _misplaced(item: Item, dialect: Dialect) -> str:
    """What is wrong with the place that the item stands in, or ""."""
    headers = dialect.headers
    if not item.table:
        if item.key in TABLES:
            return f"{item.key} must be a table: write {headers[item.key]}"
        return f"{item.key} stands outside of all {dialect.noun}s" + _home(item.key or "", dialect)
    if item.table not in TABLES:
        words = [header.strip("[]").partition(".")[0] for header in headers.values()]
        hint = did_you_mean(item.table, words) or f"there are {alternatives(headers.values())}"
        return f"unknown {dialect.noun} [{item.table.strip()}]; {hint}"
    if item.table != PROXY and item.name is None and item.key is not None:
        header = headers[item.table]
        if item.key in _KNOWN[item.table]:
            return f"{item.key} must stand in a table of its own, {header}"
        return f"{item.key} must be a table: write [{key_path(item.path)}]"
    return ""


def _unknown(item: Item, key: str, dialect: Dialect) -> str:
    home = _home(key, dialect)
    if home:
        return f"{key} has no place in {dialect.headers[item.table]}{home}"
    hint = did_you_mean(key, _KNOWN[item.table])
    if not hint and isinstance(item.value, dict) and item.name is not None:
        name = quoted(f"{item.name}.{key}")
        hint = f"a name with a dot needs quotes: [{item.table}.{name}]"
    return f"unknown setting {key}" + (f"; {hint}" if hint else "")


def _home(key: str, dialect: Dialect) -> str:
    """The tables that know the key, as the rest of a sentence, or ""."""
    homes = [dialect.headers[table] for table in TABLES if key in _KNOWN[table]]
    return f"; it belongs into {alternatives(homes)}" if homes else ""
