from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import poolproxy
from poolproxy.cli import main

ROOT = Path(__file__).parents[2]
MINIMAL = """\
[poolproxy]
auth_file = "userlist.txt"
[databases.app]
host = "127.0.0.1"
"""


def invoke(*arguments: str | Path) -> Result:
    """The command's exit status and what it printed."""
    return CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small configuration that has no mistakes."""
    (tmp_path / "poolproxy.toml").write_text(MINIMAL)
    (tmp_path / "userlist.txt").write_text('"alice" "secret"\n')
    return tmp_path


def test_the_version_tells_what_runs() -> None:
    """--version names the package's version, Python's, and the compiled parts."""
    result = invoke("--version")
    assert result.exit_code == 0
    assert f"poolproxy {poolproxy.__version__}, " in result.output
    assert platform.python_version() in result.output
    assert "compiled parts: " in result.output


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_examples(option: str) -> None:
    """The help names every command and shows how to begin."""
    result = invoke(option)
    assert result.exit_code == 0
    for text in ("run", "check", "demo", "config", "poolproxy config sample > poolproxy.toml"):
        assert text in result.output


@pytest.mark.parametrize("command", ["run", "check", "demo", "config"])
def test_every_command_has_help(command: str) -> None:
    """Each command explains itself."""
    result = invoke(command, "-h")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_python_m_is_the_same_command() -> None:
    """`python -m poolproxy` works, under the name of the installed command."""
    command = [sys.executable, "-m", "poolproxy", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: poolproxy ")


def test_check_sums_up_a_good_configuration(folder: Path) -> None:
    """Without mistakes the summary has the listeners and the worst-case number of servers."""
    result = invoke("check", folder / "poolproxy.toml")
    assert result.exit_code == 0, result.output
    assert "no mistakes" in result.output
    assert "127.0.0.1:6432" in result.output
    assert "server connections in the worst case: 20" in result.output


def test_check_tells_all_mistakes_of_both_files(folder: Path) -> None:
    """Mistakes of the configuration and of the auth_file come together, each with its line."""
    (folder / "poolproxy.toml").write_text(MINIMAL + 'prot = 5432\npool_mode = "fast"\n')
    (folder / "userlist.txt").write_text('"alice" "secret"\nbob\n')
    result = invoke("check", folder / "poolproxy.toml")
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.split(": error: ")[0] for line in lines] == [
        f"{folder}/poolproxy.toml:5",
        f"{folder}/poolproxy.toml:6",
        f"{folder}/userlist.txt:2",
    ]
    assert "port" in lines[0]  # did you mean


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[poolproxy\n", "poolproxy.toml:1: error: "),
        (b"[poolproxy]\n# caf\xe9\n", "poolproxy.toml:2: error: is not UTF-8 text"),
        (b'[poolproxy]\nauth_file = "no"\n[databases."*"]\n', "no: error: can't be read: No such"),
        (b"[[poolproxy]]\n", "error: "),
        (b"[poolproxy]\nauth_file = 7\n", "poolproxy.toml:2: error: "),
        (b"a = " + b"[" * 5000, "error: "),
        (b"a = " + b"9" * 5000, "error: "),
    ],
)
def test_broken_files_are_errors_not_tracebacks(
    folder: Path, command: str, content: bytes, expected: str
) -> None:
    """Whatever is in the file, `check` and `run` say what is wrong and end with status 1."""
    (folder / "poolproxy.toml").write_bytes(content)
    result = invoke(command, folder / "poolproxy.toml")
    assert result.exit_code == 1
    assert expected in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing.toml", "No such file"), (".", "Is a directory"), ("/dev/zero", "larger than")],
)
def test_unreadable_files_are_errors(folder: Path, name: str, reason: str) -> None:
    """A file that can't be read is named with the reason."""
    result = invoke("check", folder / name)
    assert result.exit_code == 1
    assert str(folder / name) in result.stderr
    assert reason in result.stderr


def test_the_sample_has_no_mistakes(folder: Path) -> None:
    """What `config sample` prints can be used as it is."""
    (folder / "sample.toml").write_text(invoke("config", "sample").output)
    result = invoke("check", folder / "sample.toml")
    assert result.exit_code == 0, result.output


def test_the_reference_lists_the_settings() -> None:
    """`config reference` prints settings of every table."""
    output = invoke("config", "reference").output
    for name in ("default_pool_size", "dbname", "max_user_connections"):
        assert name in output


def test_a_pgbouncer_ini_is_checked_and_converted(folder: Path) -> None:
    """check notes what does nothing here; the TOML that convert prints passes check beside its files."""
    ini = folder / "pgbouncer.ini"
    lines = "auth_file = userlist.txt\npkt_buf = 4096\npool_mode = transaction\n"
    ini.write_text(f"[pgbouncer]\n{lines}[databases]\napp = host=127.0.0.1\n")
    with contextlib.chdir(folder):
        checked, converted = invoke("check", ini), invoke("config", "convert", ini)
    assert checked.exit_code == converted.exit_code == 0
    assert f"note: {ini}:3: pkt_buf does nothing here: " in checked.output
    assert "# Relative names begin at the folder of this file: auth_file." in converted.stdout
    (folder / "poolproxy.toml").write_text(converted.stdout)
    again = invoke("check", folder / "poolproxy.toml")
    assert again.exit_code == 0, again.output
    assert "users: 1" in again.output


def test_convert_is_for_pgbouncers_files(folder: Path) -> None:
    """A TOML file needs no conversion."""
    result = invoke("config", "convert", folder / "poolproxy.toml")
    assert result.exit_code == 2
    assert "is TOML already" in result.output
