"""The configuration's files: the one place of this package that reads from the disk."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import attrs

from poolproxy.auth.hba import included_files
from poolproxy.auth.userlist import parse_userlist
from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.access import INCLUDED, AuthFiles, parse_auth_files
from poolproxy.settings.build import PROXY, Item
from poolproxy.settings.config import Config
from poolproxy.settings.extras import missing_libraries
from poolproxy.settings.ini import load_ini, read_ini
from poolproxy.settings.schema import Settings
from poolproxy.settings.sections.operation import MOST_VERBOSE
from poolproxy.settings.toml import load_toml, read_toml

# The settings that name PEM files, by the setting that says whether they are used.
PEM_FILES = {
    f"{side}_tls_sslmode": tuple(f"{side}_tls_{kind}_file" for kind in ("key", "cert", "ca", "crl"))
    for side in ("client", "server")
}
AUTH_FILES = ("auth_hba_file", "auth_ident_file", "passfile", "auth_ldap_ca_file")
# All settings that name a file to be read.
FILES = ("auth_file", *AUTH_FILES, *(name for names in PEM_FILES.values() for name in names))
# Far above any real file; a device or a log given by mistake must not fill the memory.
MAX_FILE_BYTES = 16 * 1024 * 1024
_INI_HEADER = re.compile(r"^[ \t]*\[pgbouncer\]", re.MULTILINE)


class Format(Enum):
    """What a configuration file is written in."""

    TOML = "TOML"
    INI = "PgBouncer's format"


def format_of(path: Path, text: str) -> tuple[Format, str]:
    """The format, and why it is taken for that: the end of the file's name, or a line [pgbouncer]."""
    for suffix, format in ((".ini", Format.INI), (".toml", Format.TOML)):
        if path.suffix == suffix:
            return format, f"its name ends in {suffix}"
    if _INI_HEADER.search(text):
        return Format.INI, "it has a section [pgbouncer]"
    return Format.TOML, "it has no section [pgbouncer]"


@attrs.frozen
class Overrides:
    """What the command line says: it goes before the file's ``user``, and behind its ``verbose``.

    ``settings``: what the console's SET has set since the last reload, as texts; it goes before the file's.
    """

    user: str = ""
    verbose: int = 0
    settings: Mapping[str, str] = attrs.field(factory=dict)

    def applied(self, settings: Settings) -> Settings:
        """The settings with it."""
        verbose = settings.verbose or min(self.verbose, MOST_VERBOSE)
        return attrs.evolve(settings, user=self.user or settings.user, verbose=verbose)


NOTHING = Overrides()


@attrs.frozen
class LoadedConfig:
    """A configuration that was found free of mistakes, with the texts that it came from.

    ``text`` has those of included files, too. ``auth_text`` is the content of ``auth_file``, "" if none
    is set; ``secrets`` are what it says, by user name. ``files``: the content of the other files, by the
    setting that names them; ``auth``: what those of authentication say. ``notes``: what the operator
    should know all the same.
    """

    config: Config
    path: Path
    text: str
    auth_text: str
    secrets: Mapping[str, str]
    files: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    auth: AuthFiles = attrs.field(factory=AuthFiles, repr=False)
    format: Format = Format.TOML
    notes: tuple[Mistake, ...] = ()
    overrides: Overrides = NOTHING


def read_config(path: str | Path, overrides: Overrides = NOTHING) -> LoadedConfig:
    """Read a configuration file and the files that it names.

    Their names start at its own folder if it is TOML, and at the current one if it is PgBouncer's, as
    there. Raises ConfigError with the mistakes of all, also for a file that can't be read.
    """
    path = Path(path)
    text = _read(path, str(path))
    format, why = format_of(path, text)
    kind = _Ini if format is Format.INI else _Toml
    source = kind(path, text, overrides.settings)
    mistakes: list[Mistake] = []
    config = _load(source, mistakes)
    auth_text, secrets = _read_auth_file(source, config, mistakes)
    files: dict[str, str] = {}
    auth, notes = AuthFiles(), tuple[Mistake, ...]()
    if config is not None:
        files = _read_pem_files(config, source.folder, mistakes)
        files |= _read_auth_files(config, source.folder, mistakes)
        # One file speaks of another: a missing one would make mistakes of the rest.
        if not mistakes:
            auth, left_out = _parse_auth_files(source, config, auth_text, files, mistakes)
            notes = config.notes + left_out
    if config is None or mistakes:
        doubtful = path.suffix != ".toml"
        read_as = f"{path} was read as {format.value}: {why}" if doubtful else ""
        raise ConfigError(list(dict.fromkeys(mistakes)), read_as)
    settings = overrides.applied(_with_whole_names(config.settings, source.folder))
    config = attrs.evolve(config, settings=settings)
    return LoadedConfig(
        config, path, source.text, auth_text, secrets, files, auth, format, notes, overrides
    )


class _Toml:
    """A TOML file whose text has been read. ``lenient``: broken lines of other files are left out."""

    lenient = False

    def __init__(self, path: Path, text: str, overrides: Mapping[str, str]) -> None:
        self.path = path
        self.text = text
        self.overrides = [Item(PROXY, None, n, v, "SET") for n, v in overrides.items()]
        self.folder = path.parent

    def load(self) -> Config:
        """Raises ConfigError."""
        return load_toml(self.text, str(self.path), self.overrides)

    def auth_file(self) -> str:
        """The auth_file of a configuration that has mistakes, so that both files' are told at once."""
        named = (
            item.value for item in self._items() if (item.table, item.key) == (PROXY, "auth_file")
        )
        value = next(named, "")
        return value if isinstance(value, str) else ""

    def _items(self) -> list[Item]:
        try:
            return read_toml(self.text, "")
        except ConfigError:
            return []


class _Ini(_Toml):
    """The same in PgBouncer's format."""

    lenient = True

    def __init__(self, path: Path, text: str, overrides: Mapping[str, str]) -> None:
        super().__init__(path, text, overrides)
        self._main = text
        self.folder = Path()

    def load(self) -> Config:
        self.text = self._main
        return load_ini(self._main, str(self.path), self._include, self.overrides)

    def _items(self) -> list[Item]:
        return list(read_ini(self._main, "", self._include))

    def _include(self, name: str) -> str:
        text = _read(self.folder / name, name)
        self.text += "\n" + text
        if len(self.text) > MAX_FILE_BYTES:
            # Ten files that include each other twice are a thousand.
            raise ConfigError([Mistake(name, f"with it all is larger than {MAX_FILE_BYTES} bytes")])
        return text


# What reads a part of a configuration adds what is wrong with it to ``mistakes``: all is told at once.


def _load(source: _Toml, mistakes: list[Mistake]) -> Config | None:
    try:
        return source.load()
    except ConfigError as error:
        mistakes.extend(error.mistakes)
        return None


def _read_auth_file(
    source: _Toml, config: Config | None, mistakes: list[Mistake]
) -> tuple[str, Mapping[str, str]]:
    """Its text, and the secrets by user name; also where the configuration (None) has mistakes."""
    name = config.settings.auth_file if config is not None else source.auth_file()
    if not name:
        return "", {}
    path = source.folder / name
    try:
        text = _read(path, f"auth_file {path}")
        secrets, faults = parse_userlist(text, str(path))
    except ConfigError as error:
        mistakes.extend(error.mistakes)
        return "", {}
    if not source.lenient:
        mistakes.extend(faults)
    return text, secrets


def _parse_auth_files(
    source: _Toml,
    config: Config,
    auth_text: str,
    files: Mapping[str, str],
    mistakes: list[Mistake],
) -> tuple[AuthFiles, tuple[Mistake, ...]]:
    """What they say, and the lines that are left out where that is allowed."""
    sources = {name: _source(config, source.folder, name) for name in ("auth_file", *AUTH_FILES)}
    auth, faults = parse_auth_files(auth_text, files, sources)
    left_out: tuple[Mistake, ...] = ()
    if source.lenient:
        left_out = tuple(_in_its_words(fault, sources) for fault in faults)
    else:
        mistakes.extend(faults)
    mistakes.extend(missing_libraries(config, auth))
    return auth, left_out


def _with_whole_names(settings: Settings, folder: Path) -> Settings:
    """The names of files that we write, which must not depend on where the process goes."""
    log, pid = [
        file and str(folder.absolute() / file) for file in (settings.logfile, settings.pidfile)
    ]
    return attrs.evolve(settings, logfile=log, pidfile=pid)


def _in_its_words(fault: Mistake, sources: Mapping[str, str]) -> Mistake:
    """A line that is left out, as PgBouncer's log has it."""
    file, _, line = fault.where.rpartition(":")
    if file == sources["auth_hba_file"]:
        return attrs.evolve(fault, text=f"could not parse hba config line {line}: {fault.text}")
    return attrs.evolve(fault, text=f"broken {Path(file).name}, line left out: {fault.text}")


def _source(config: Config, folder: Path, setting: str) -> str:
    return str(folder / getattr(config.settings, setting))


def _read_auth_files(config: Config, folder: Path, mistakes: list[Mistake]) -> dict[str, str]:
    """The files of authentication beside auth_file, by their settings."""
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
    """The files of TLS that are used, by their settings."""
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
