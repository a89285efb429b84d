"""A configuration as TOML that says no more than what differs from the defaults."""

from __future__ import annotations

from collections.abc import Iterator

from poolproxy.settings.build import PROXY, TABLES, key_path
from poolproxy.settings.config import Config
from poolproxy.settings.field import settings_of


def to_toml(config: Config) -> str:
    """TOML that gives an equal configuration, secrets included."""
    return "\n".join(_tables(config))


def _tables(config: Config) -> Iterator[str]:
    yield _table((PROXY,), config.settings)
    for table in TABLES:
        if table != PROXY:
            for name, entry in getattr(config, table).items():
                yield _table((table, name), entry)


def _table(path: tuple[str, ...], values: object) -> str:
    lines = [f"[{key_path(path)}]\n"]
    for setting in settings_of(type(values)):
        value = getattr(values, setting.name)
        if value != setting.default:
            lines.append(f"{setting.name} = {setting.kind.write(value)}\n")
    return "".join(lines)
