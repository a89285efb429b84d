"""Loading short configurations in tests."""

from __future__ import annotations

from poolproxy.errors import ConfigError
from poolproxy.settings.config import Config
from poolproxy.settings.toml import load_toml

SOURCE = "pool.toml"

# What a configuration needs at least, in one line each so that line numbers are easy to count.
DATABASE = '[databases.app]\nhost = "db.example"\n'
USER = '[users.joe]\npassword = "secret"\n'


def load(text: str) -> Config:
    """The configuration in ``text``."""
    return load_toml(text, SOURCE)


def load_with(proxy: str = "", database: str = "", user: str = "") -> Config:
    """A configuration of one database, app, and one user, joe, with the given lines added."""
    return load(f"[poolproxy]\n{proxy}\n{DATABASE}{database}\n{USER}{user}\n")


def mistakes(text: str) -> list[str]:
    """The mistakes in ``text``, [] if it has none."""
    try:
        load(text)
    except ConfigError as error:
        return [str(mistake) for mistake in error.mistakes]
    return []
