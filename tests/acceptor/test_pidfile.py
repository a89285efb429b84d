from __future__ import annotations

import os
from pathlib import Path

import pytest

from poolproxy.acceptor.pidfile import PidFile
from poolproxy.errors import ConfigError


def test_it_is_there_from_write_to_remove(tmp_path: Path) -> None:
    """It has the process id, and is removed at the end."""
    path = tmp_path / "pid"
    file = PidFile(str(path))
    file.claim()
    assert not path.exists()
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"
    file.remove()
    assert not path.exists()


@pytest.mark.parametrize("left", ["", "nonsense", "-1", "0", "9" * 30, "ours"])
def test_what_names_no_other_process_is_removed(tmp_path: Path, left: str) -> None:
    """Rubbish, and our own number: in a container the next life has the same."""
    path = tmp_path / "pid"
    path.write_text(str(os.getpid()) if left == "ours" else left)
    PidFile(str(path)).claim()
    assert not path.exists()


@pytest.mark.parametrize("process", ["init", "our parent"])
def test_a_live_process_keeps_it(tmp_path: Path, process: str) -> None:
    """Also one of another account. The message names process and setting."""
    path = tmp_path / "pid"
    pid = 1 if process == "init" else os.getppid()
    path.write_text(f"{pid}\n")
    with pytest.raises(ConfigError, match=f"pidfile {path}: process {pid} is running"):
        PidFile(str(path)).claim()
    assert path.exists()


def test_two_that_start_at_once(tmp_path: Path) -> None:
    """The second to write fails, and does not remove the file of the first."""
    path = tmp_path / "pid"
    first, second = PidFile(str(path)), PidFile(str(path))
    first.claim()
    second.claim()
    path.write_text("1\n")
    with pytest.raises(ConfigError, match="File exists"):
        second.write()
    second.remove()
    assert path.read_text() == "1\n"


def test_a_file_that_has_become_anothers_stays(tmp_path: Path) -> None:
    """At the end only our own is removed; one that is gone already is no harm."""
    path = tmp_path / "pid"
    file = PidFile(str(path))
    file.write()
    path.write_text("1\n")
    file.remove()
    assert path.exists()
    path.unlink()
    file.remove()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The mistake names the setting."""
    with pytest.raises(ConfigError, match=r"pidfile .*: can't be written: No such file"):
        PidFile(str(tmp_path / "none" / "pid")).write()


def test_without_a_name_there_is_no_file() -> None:
    """All steps do nothing."""
    file = PidFile("")
    file.claim()
    file.write()
    file.remove()
