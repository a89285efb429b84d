"""What a reload changes: two configurations compared. Pure.

Settings that can't change while we run keep their old values until the next start; :func:`settled`
makes the configuration that is in force meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from poolproxy.settings.build import PROXY, TABLES, key_path
from poolproxy.settings.config import Config
from poolproxy.settings.enums import Reload
from poolproxy.settings.field import Setting, settings_of
from poolproxy.settings.schema import Settings

NOT_SET = "not set"
ADDED, REMOVED, CONTENT = "added", "removed", "its content has changed"


@attrs.frozen
class Change:
    """One line for the log. ``name`` as in the file, such as ``databases.app.host``; ``text``: what has
    become of it, never with a secret; ``needs`` is when it counts.
    """

    name: str
    text: str
    needs: Reload = Reload.LIVE

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def changes(old: Config, new: Config) -> tuple[Change, ...]:
    """All that differs between two configurations, in the order of the tables."""
    found = list(_settings(Settings, old.settings, new.settings, ()))
    for table in TABLES:
        if table != PROXY:
            found += _entries(table, getattr(old, table), getattr(new, table))
    return tuple(found)


def file_changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Change, ...]:
    """The files whose content differs, by the settings that name them.

    One that comes or goes shows by its setting.
    """
    both = [name for name in new if name in old]
    return tuple(Change(name, CONTENT, Reload.NEW) for name in both if old[name] != new[name])


def settled(old: Config, new: Config) -> Config:
    """``new``, but for the settings that need a restart: these are as in ``old``."""
    kept = {
        s.name: getattr(old.settings, s.name)
        for s in settings_of(Settings)
        if s.reload is Reload.RESTART
    }
    return attrs.evolve(new, settings=attrs.evolve(new.settings, **kept))


def _settings(cls: type, old: Any, new: Any, path: tuple[str, ...]) -> Iterator[Change]:
    for setting in settings_of(cls):
        before, after = getattr(old, setting.name), getattr(new, setting.name)
        if before != after:
            name = key_path((*path, setting.name))
            yield Change(name, _difference(setting, before, after), setting.reload)


def _difference(setting: Setting, before: Any, after: Any) -> str:
    if setting.secret:
        return REMOVED if after is None else ADDED if before is None else "changed"
    return f"{_shown(setting, before)} -> {_shown(setting, after)}"


def _shown(setting: Setting, value: Any) -> str:
    return NOT_SET if value is None else setting.kind.write(value)


def _entries(table: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in (*old, *(name for name in new if name not in old)):
        if name not in new:
            yield Change(key_path((table, name)), REMOVED)
        elif name not in old:
            yield Change(key_path((table, name)), ADDED)
        else:
            yield from _settings(TABLES[table], old[name], new[name], (table, name))
