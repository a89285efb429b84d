"""What a reload changes."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from poolproxy.settings.config import Config
from poolproxy.settings.diff import changes, file_changes, settled
from poolproxy.settings.entries import DatabaseSettings, UserSettings
from poolproxy.settings.enums import Reload
from poolproxy.settings.field import Setting, settings_of
from poolproxy.settings.schema import Settings
from tests.settings.other_values import other_value

ALL = list(settings_of(Settings))


def config(
    settings: Settings | None = None,
    databases: dict[str, DatabaseSettings] | None = None,
    users: dict[str, UserSettings] | None = None,
) -> Config:
    return Config(settings or Settings(), databases or {}, users or {}, "test.toml")


def changed(setting: Setting) -> Config:
    """The defaults, but for one setting."""
    values: dict[str, Any] = {setting.name: other_value(setting)}
    return config(attrs.evolve(Settings(), **values))


def told(old: Config, new: Config) -> list[str]:
    return [str(change) for change in changes(old, new)]


@pytest.mark.parametrize("setting", ALL, ids=lambda s: s.name)
def test_a_changed_setting_is_told_with_both_values(setting: Setting) -> None:
    """Each setting alone: its name, what it was and what it is, and what it needs."""
    new = changed(setting)
    (change,) = changes(config(), new)
    write = setting.kind.write
    old = "not set" if setting.default is None else write(setting.default)
    text = f"{old} -> {write(getattr(new.settings, setting.name))}"
    assert str(change) == f"{setting.name}: {'changed' if setting.secret else text}"
    assert change.needs is setting.reload


@pytest.mark.parametrize("setting", ALL, ids=lambda s: s.name)
def test_a_setting_that_needs_a_restart_stays_as_it_was(setting: Setting) -> None:
    """What is in force after a reload has the new value, or the old one where that can't change now."""
    old, new = config(), changed(setting)
    expected = old if setting.reload is Reload.RESTART else new
    assert settled(old, new).settings == expected.settings


def test_it_is_told_again_until_the_restart() -> None:
    """What is in force is what the next file is compared with."""
    setting = next(s for s in ALL if s.reload is Reload.RESTART)
    new = changed(setting)
    in_force = settled(config(), new)
    assert [change.name for change in changes(in_force, new)] == [setting.name]


def test_entries_come_go_and_change() -> None:
    """Databases and users, with the names that the file has."""
    one, two = DatabaseSettings(host=("one",)), DatabaseSettings(host=("two",), pool_size=5)
    old = config(databases={"a": one, "my db": one, "gone": one}, users={"ann": UserSettings()})
    new = config(databases={"a": two, "my db": two, "new": one}, users={"bob": UserSettings()})
    assert told(old, new) == [
        'databases.a.host: "one" -> "two"',
        "databases.a.pool_size: not set -> 5",
        'databases."my db".host: "one" -> "two"',
        'databases."my db".pool_size: not set -> 5',
        "databases.gone: removed",
        "databases.new: added",
        "users.ann: removed",
        "users.bob: added",
    ]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [(None, "tiger", "added"), ("scott", "tiger", "changed"), ("scott", None, "removed")],
)
def test_secrets_are_never_told(old: str | None, new: str | None, text: str) -> None:
    """Neither the old nor the new one."""
    before = config(users={"ann": UserSettings(password=old)})
    after = config(users={"ann": UserSettings(password=new)})
    assert told(before, after) == [f"users.ann.password: {text}"]


def test_files_are_named_by_their_settings() -> None:
    """Content that differs; a file that comes or goes shows by its setting."""
    old = {"auth_file": "a", "client_tls_cert_file": "b", "auth_hba_file": "c"}
    new = {"auth_file": "a", "client_tls_cert_file": "x", "passfile": "d"}
    (change,) = file_changes(old, new)
    assert str(change) == "client_tls_cert_file: its content has changed"
    assert change.needs is Reload.NEW


def test_nothing_changed() -> None:
    """Two readings of one file."""
    assert not changes(config(), config())
    assert not file_changes({"auth_file": "a"}, {"auth_file": "a"})
