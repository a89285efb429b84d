"""``poolproxy check --auth``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poolproxy.auth.scram import make_secret
from poolproxy.auth.secrets import md5_secret
from poolproxy.cli import main

SCRAM = make_secret("x", b"s" * 16, 1).to_text()
MD5 = f"md5{md5_secret('x', 'hash').hash}"

CONFIG = """
[poolproxy]
auth_type = "hba"
auth_file = "users.txt"
auth_hba_file = "hba.conf"
passfile = "pass"

[databases.shop]
host = "db.example.org"

[databases.forced]
host = "db.example.org"
user = "scram"

[databases.token]
host = "db.example.org"
user = "app"
password_command = "get-token"

[databases.looked]
host = "db.example.org"
auth_user = "asker"

[databases.anybody]
host = "db.example.org"
user = "app"
password = "secret"
auth_type = "any"

[databases.directory]
host = "db.example.org"

[databases.forced_directory]
host = "db.example.org"
user = "scram"

[users.own]
password = "p"
auth_type = "trust"
"""
HBA = """
local all all peer
host all evil all reject
host shop all 10.0.0.0/8 scram-sha-256
host shop,forced all 192.168.0.0/16 md5
host token all all trust
host directory all 10.0.0.0/8 ldap ldapserver=h ldapprefix=uid=
host directory,forced_directory all all pam
host looked all all scram-sha-256
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "c.toml").write_text(CONFIG)
    (tmp_path / "hba.conf").write_text(HBA)
    (tmp_path / "users.txt").write_text(
        f'"plain" "x"\n"scram" "{SCRAM}"\n"hash" "{MD5}"\n"asker" "x"\n"evil" "x"\n"passed" "{SCRAM}"\n'
    )
    passfile = tmp_path / "pass"
    passfile.write_text("db.example.org:5432:shop:passed:x\n")
    passfile.chmod(0o600)
    return tmp_path


def ask(folder: Path, user: str, database: str, *more: str) -> Result:
    arguments = ["check", "--auth", user, database, *more, str(folder / "c.toml")]
    return CliRunner().invoke(main, arguments)


INSIDE = ("--from", "10.1.2.3")
OFFICE = ("--from", "192.168.1.1")


@pytest.mark.parametrize(
    ("asked", "works", "words"),
    [
        (("plain", "shop", *INSIDE), True, ("hba.conf:4: scram-sha-256", "a plain password")),
        (("scram", "shop", *INSIDE), True, ("by the key of the client's own log-in",)),
        (("hash", "shop", *INSIDE), False, ("can't be used for SCRAM", "the method md5")),
        (("hash", "shop", *OFFICE), True, ("hba.conf:5: md5", "an md5 secret (auth_file)")),
        (("passed", "shop", *INSIDE), True, ("a plain password (passfile)",)),
        (("plain", "forced", *OFFICE), False, ('as "scram"', "set password of the database")),
        (("evil", "shop", *INSIDE), False, ("login rejected",)),
        (("plain", "shop", "--from", "::1"), False, ("no authentication method is found",)),
        (("plain", "shop"), True, ("hba.conf:2: peer", "the Unix socket")),
        (("scram", "shop"), False, ("peer gives no key",)),
        (("nobody", "shop", *INSIDE), False, ("the user is unknown",)),
        (("nobody", "looked", *INSIDE), True, ('as "asker" in database "looked"',)),
        (("plain", "token", *INSIDE), True, ("what the command prints",)),
        (("whoever", "anybody", *INSIDE), True, ("everybody gets in", "[databases.anybody]")),
        (("who", "directory", *INSIDE), True, ("the LDAP directory", "PostgreSQL takes it, too")),
        (("plain", "directory", *OFFICE), True, ("the PAM service", "a plain password (auth")),
        (("who", "forced_directory", *OFFICE), False, ("gives the key that", "set password of")),
        (("own", "shop", *INSIDE), True, ('auth_type of the user: "trust"',)),
        (("own", "nowhere", *INSIDE), False, ("there is no such database, nowhere",)),
    ],
)
def test_what_it_says(
    folder: Path, asked: tuple[str, ...], works: bool, words: tuple[str, ...]
) -> None:
    """The rule, the secrets of both sides, and whether it can work; never a secret itself."""
    result = ask(folder, *asked)
    assert result.exit_code == (0 if works else 1), result.output
    for word in words:
        assert word in result.output
    assert "SCRAM-SHA-256$" not in result.output


def test_usage(folder: Path) -> None:
    """An address must be one, and goes with --auth."""
    assert "is no IP address" in ask(folder, "a", "b", "--from", "example.org").output
    alone = CliRunner().invoke(main, ["check", "--from", "::1", str(folder / "c.toml")])
    assert alone.exit_code == 2


def test_mistakes_of_all_files_are_told(folder: Path) -> None:
    """A broken rule, a password file for everybody's eyes, a missing list: each with its file."""
    (folder / "hba.conf").write_text("local all all nonsense\nlocal all @missing trust\n")
    (folder / "pass").chmod(0o644)
    result = ask(folder, "plain", "shop")
    assert result.exit_code == 1
    assert "chmod 600" in result.output
    assert "missing: error: can't be read" in result.output
    (folder / "missing").write_text("ann\n")
    (folder / "pass").chmod(0o600)
    (folder / "pass").write_text("what\n")
    result = ask(folder, "plain", "shop")
    assert 'hba.conf:1: error: the method "nonsense"' in result.output
    assert "pass:1: error: expected host" in result.output
