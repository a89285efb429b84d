"""The configuration's files: the one place of this package that reads from the disk."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import attrs

from poolproxy.auth.hba import included_files
from poolproxy.auth.userlist import parse_userlist
from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.access import INCLUDED, AuthFiles, parse_auth_files
from poolproxy.settings.build import PROXY
from poolproxy.settings.config import Config
from poolproxy.settings.extras import missing_libraries
from poolproxy.settings.toml import load_toml, read_toml

# The settings that name PEM files, by the setting that says whether they are used.
PEM_FILES = {
    f"{side}_tls_sslmode": tuple(f"{side}_tls_{kind}_file" for kind in ("key", "cert", "ca", "crl"))
    for side in ("client", "server")
}
AUTH_FILES = ("auth_hba_file", "auth_ident_file", "passfile", "auth_ldap_ca_file")
# Far above any real file; a device or a log given by mistake must not fill the memory.
MAX_FILE_BYTES = 16 * 1024 * 1024


@attrs.frozen
class LoadedConfig:
    """A configuration that was found free of mistakes, with the texts that it came from.

    ``auth_text`` is the content of ``auth_file``, "" if none is set; ``secrets`` are what
    it says, by user name. ``files``: the content of the other files, by the setting that names them;
    ``auth``: what those of authentication say.
    """

    config: Config
    path: Path
    text: str
    auth_text: str
    secrets: Mapping[str, str]
    files: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    auth: AuthFiles = attrs.field(factory=AuthFiles, repr=False)


def read_config(path: str | Path) -> LoadedConfig:
    """Read a configuration file and the files that it names, relative to its own folder.

    Raises ConfigError with the mistakes of all, also for a file that can't be read.
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
    files = _read_pem_files(config, path.parent, mistakes) if config is not None else {}
    auth = AuthFiles()
    if config is not None:
        files |= _read_auth_files(config, path.parent, mistakes)
        if (
            not mistakes
        ):  # one file speaks of another: a missing one would make mistakes of the rest
            sources = {name: _source(config, path.parent, name) for name in AUTH_FILES}
            auth, found = parse_auth_files(auth_text, files, sources)
            mistakes.extend(found)
            mistakes.extend(missing_libraries(config, auth))
    if config is None or mistakes:
        raise ConfigError(mistakes)
    return LoadedConfig(config, path, text, auth_text, secrets, files, auth)


def _source(config: Config, folder: Path, setting: str) -> str:
    return str(folder / getattr(config.settings, setting))


def _read_auth_files(config: Config, folder: Path, mistakes: list[Mistake]) -> dict[str, str]:
    """The files of authentication beside auth_file, by their settings; adds to ``mistakes``."""
    texts = {}
    for name in AUTH_FILES:
        file = getattr(config.settings, name)
        if not file:
            continue
        try:
            texts[name] = _read(folder / file, f"{name} {folder / file}")
            if name == "passfile":
                _demand_private(folder / file)
            if name == "auth_hba_file":
                texts |= _read_lists(texts[name], (folder / file).parent)
        except ConfigError as error:
            mistakes.extend(error.mistakes)
    return texts


def _read_lists(rules: str, folder: Path) -> dict[str, str]:
    names = included_files(rules)
    return {INCLUDED + name: _read(folder / name, str(folder / name)) for name in names}


def _demand_private(path: Path) -> None:
    # As libpq does, which ignores such a file.
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        fault = "others than its owner may read it: run chmod 600"
        raise ConfigError([Mistake(f"passfile {path}", fault)])


def _read_pem_files(config: Config, folder: Path, mistakes: list[Mistake]) -> dict[str, str]:
    """The files of TLS that are used, by their settings; adds to ``mistakes``."""
    texts = {}
    for mode, names in PEM_FILES.items():
        for name in names:
            file = getattr(config.settings, name)
            if file and getattr(config.settings, mode).enabled:
                try:
                    texts[name] = _read(folder / file, f"{name} {folder / file}")
                except ConfigError as error:
                    mistakes.extend(error.mistakes)
    return texts


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
