"""From what a front end has read to a configuration, or to every mistake in it.

A front end knows one file format. It yields :class:`Item` in file order and judges nothing; what
tables and keys there are, and what their values may be, is decided here for all formats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import attrs

from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.checks import Finding, Path, check
from poolproxy.settings.config import Config
from poolproxy.settings.entries import DatabaseSettings, UserSettings
from poolproxy.settings.field import Setting, settings_of
from poolproxy.settings.schema import Settings
from poolproxy.settings.values import Unexpected, alternatives, did_you_mean, quoted, shown

PROXY, DATABASES, USERS = "poolproxy", "databases", "users"
TABLES: dict[str, type] = {PROXY: Settings, DATABASES: DatabaseSettings, USERS: UserSettings}
_HEADERS = {PROXY: "[poolproxy]", DATABASES: "[databases.NAME]", USERS: "[users.NAME]"}
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_KNOWN = {
    table: {setting.name: setting for setting in settings_of(cls)} for table, cls in TABLES.items()
}


@attrs.frozen
class Item:
    """One thing in a file.

    ``table`` is "" for a key outside of all tables. ``name`` is the entry's in [databases.NAME]
    and [users.NAME]; None is the table itself. ``key`` None declares the table or the entry, so
    that an empty one is not lost. ``where`` is for :class:`poolproxy.errors.Mistake`.
    """

    table: str
    name: str | None
    key: str | None
    value: object
    where: str = ""

    @property
    def path(self) -> Path:
        """The parts of the item's full name that it has."""
        return tuple(part for part in (self.table or None, self.name, self.key) if part is not None)


def key_path(path: Path) -> str:
    """The path as TOML has it: ``databases."my db".host``."""
    return ".".join(part if _BARE.fullmatch(part) else quoted(part) for part in path)


def build(items: Iterable[Item], source: str) -> Config:
    """The configuration that ``items`` make.

    Raises :class:`ConfigError` with all mistakes, in the order of ``items``. If a key comes
    twice the last one counts, as in PgBouncer.
    """
    draft = _Draft(source)
    for item in items:
        draft.take(item)
    config = draft.config()
    for finding in check(config):
        draft.report(finding)
    if draft.mistakes:
        # sort() is stable: mistakes of one line stay in the order they were found.
        draft.mistakes.sort(key=lambda placed: placed[0])
        raise ConfigError([mistake for _, mistake in draft.mistakes])
    return config


class _Draft:
    """Values so far, where they were, and mistakes with their place in the order of items."""

    def __init__(self, source: str) -> None:
        self.mistakes: list[tuple[float, Mistake]] = []
        self._source = source
        self._proxy: dict[str, Any] = {}
        self._entries: dict[str, dict[str, dict[str, Any]]] = {DATABASES: {}, USERS: {}}
        self._places: dict[Path, tuple[int, str]] = {}
        self._broken: set[Path] = set()

    def take(self, item: Item) -> None:
        """Add one item, or the mistake that it is."""
        order = len(self._places)
        self._places[item.path] = (order, item.where)
        text = _misplaced(item) or self._add(item)
        if text:
            self._broken.add(item.path)
            self.mistakes.append((order, Mistake(item.where, text)))
            if item.table in self._entries and item.name is None and item.key is not None:
                # It was meant as an entry, so no check shall find that there is none.
                self._entries[item.table].setdefault(item.key, {})

    def _add(self, item: Item) -> str:
        """Read the item's value; returns what is wrong with it, or ""."""
        values = self._proxy
        if item.name is not None:
            values = self._entries[item.table].setdefault(item.name, {})
        if item.key is None:
            return ""
        setting = _KNOWN[item.table].get(item.key)
        if setting is None:
            return _unknown(item, item.key)
        try:
            values[item.key] = setting.kind.read(item.value)
        except Unexpected as error:
            return _unexpected(setting, item.value, error.hint)
        return ""

    def config(self) -> Config:
        """The configuration of all good values; broken ones have their defaults."""
        databases, users = self._entries[DATABASES], self._entries[USERS]
        return Config(
            Settings(**self._proxy),
            {name: DatabaseSettings(**values) for name, values in databases.items()},
            {name: UserSettings(**values) for name, values in users.items()},
            self._source,
        )

    def report(self, finding: Finding) -> None:
        """Add what a check has found, unless it follows from a mistake that is known already."""
        for about in finding.about:
            if any(about[:length] in self._broken for length in range(1, len(about) + 1)):
                return
        order, where = self._place(finding)
        self.mistakes.append((order, Mistake(where, finding.text)))

    def _place(self, finding: Finding) -> tuple[float, str]:
        """Where the finding is shown: the first key that was given, else the table it lacks in."""
        first = finding.about[0]
        tables = [first[:length] for length in range(len(first) - 1, 0, -1)]
        for path in (*finding.about, *tables):
            if path in self._places:
                return self._places[path]
        return math.inf, f"{self._source}: {key_path(first)}"


def _misplaced(item: Item) -> str:
    """What is wrong with the place that the item stands in, or ""."""
    if not item.table:
        if item.key in TABLES:
            return f"{item.key} must be a table: write {_HEADERS[item.key]}"
        return f"{item.key} stands outside of all tables" + _home(item.key or "")
    if item.table not in TABLES:
        hint = did_you_mean(item.table, TABLES) or f"there are {alternatives(_HEADERS.values())}"
        return f"unknown table [{item.table}]; {hint}"
    if item.table != PROXY and item.name is None and item.key is not None:
        header = _HEADERS[item.table]
        if item.key in _KNOWN[item.table]:
            return f"{item.key} must stand in a table of its own, {header}"
        return f"{item.key} must be a table: write [{key_path(item.path)}]"
    return ""


def _unknown(item: Item, key: str) -> str:
    home = _home(key)
    if home:
        return f"{key} has no place in {_HEADERS[item.table]}{home}"
    hint = did_you_mean(key, _KNOWN[item.table])
    if not hint and isinstance(item.value, dict) and item.name is not None:
        name = quoted(f"{item.name}.{key}")
        hint = f"a name with a dot needs quotes: [{item.table}.{name}]"
    return f"unknown setting {key}" + (f"; {hint}" if hint else "")


def _home(key: str) -> str:
    """The tables that know the key, as the rest of a sentence, or ""."""
    homes = [_HEADERS[table] for table in TABLES if key in _KNOWN[table]]
    return f"; it belongs into {alternatives(homes)}" if homes else ""


def _unexpected(setting: Setting, value: object, hint: str) -> str:
    # A secret's value must not reach a terminal or a log, not even a wrong one.
    found = "" if setting.secret else f", not {shown(value)}"
    return f"{setting.name} must be {setting.kind.expected}{found}" + (f"; {hint}" if hint else "")
