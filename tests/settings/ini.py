"""A pgbouncer.ini as text, and what comes of it."""

from collections.abc import Mapping

from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.config import Config
from poolproxy.settings.entries import DatabaseSettings
from poolproxy.settings.ini import load_ini
from poolproxy.settings.schema import Settings

SOURCE = "pgbouncer.ini"


def load(text: str, files: Mapping[str, str] | None = None) -> Config:
    """The configuration in ``text``; ``files`` can be included."""

    def include(name: str) -> str:
        if files is None or name not in files:
            raise ConfigError([Mistake(name, "can't be read: No such file or directory")])
        return files[name]

    return load_ini(text, SOURCE, include)


def load_main(lines: str) -> Settings:
    return load(f"[pgbouncer]\n{lines}\n").settings


def entry(line: str) -> DatabaseSettings:
    """What a line of [databases] says of the database app."""
    return load(f"[databases]\n{line}\n[pgbouncer]\n").databases["app"]


def mistakes(text: str, files: Mapping[str, str] | None = None) -> list[str]:
    try:
        load(text, files)
    except ConfigError as error:
        return [str(mistake) for mistake in error.mistakes]
    return []
