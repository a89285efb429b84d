"""The configuration's files: the one place of this package that reads from the disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from poolproxy.auth.userlist import parse_userlist
from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.build import PROXY
from poolproxy.settings.config import Config
from poolproxy.settings.toml import load_toml, read_toml

# Far above any real file; a device or a log given by mistake must not fill the memory.
MAX_FILE_BYTES = 16 * 1024 * 1024


@attrs.frozen
class LoadedConfig:
    """A configuration that was found free of mistakes, with the texts that it came from.

    ``auth_text`` is the content of ``auth_file``, "" if none is set; ``secrets`` are what
    it says, by user name.
    """

    config: Config
    path: Path
    text: str
    auth_text: str
    secrets: Mapping[str, str]


def read_config(path: str | Path) -> LoadedConfig:
    """Read a configuration file and the ``auth_file`` that it names, relative to its own folder.

    Raises ConfigError with the mistakes of both, also for a file that can't be read.
    """
    path = Path(path)
    text = _read(path, str(path))
    mistakes: list[Mistake] = []
    config: Config | None = None
    try:
        config = load_toml(text, str(path))
    except ConfigError as error:
        mistakes.extend(error.mistakes)
    auth_file = config.settings.auth_file if config is not None else _auth_file_of(text)
    auth_text, secrets = "", dict[str, str]()
    if auth_file:
        try:
            auth_text, secrets = _read_userlist(path.parent / auth_file)
        except ConfigError as error:
            mistakes.extend(error.mistakes)
    if config is None or mistakes:
        raise ConfigError(mistakes)
    return LoadedConfig(config, path, text, auth_text, secrets)


def _read_userlist(path: Path) -> tuple[str, dict[str, str]]:
    text = _read(path, f"auth_file {path}")
    secrets, mistakes = parse_userlist(text, str(path))
    if mistakes:
        raise ConfigError(mistakes)
    return text, secrets


def _read(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError([Mistake(what, f"is larger than {MAX_FILE_BYTES} bytes")])
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Mistake(f"{what}:{line}", "is not UTF-8 text")]) from error
    except OSError as error:
        raise ConfigError([Mistake(what, f"can't be read: {error.strerror}")]) from error


def _auth_file_of(text: str) -> str:
    """The auth_file of a configuration that has mistakes, so that both files' are told at once."""
    try:
        items = read_toml(text, "")
    except ConfigError:
        return ""
    named = (item.value for item in items if (item.table, item.key) == (PROXY, "auth_file"))
    value = next(named, "")
    return value if isinstance(value, str) else ""
