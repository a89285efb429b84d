from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from poolproxy.settings import render
from poolproxy.settings.build import TABLES
from poolproxy.settings.field import Setting, settings_of
from poolproxy.settings.hosts import Host
from poolproxy.settings.schema import Settings
from tests.settings.loading import load

ROOT = Path(__file__).parents[2]
ALL = [(table, setting) for table, cls in TABLES.items() for setting in settings_of(cls)]
IDS = [f"{table}.{setting.name}" for table, setting in ALL]


@pytest.mark.parametrize(
    ("path", "made"),
    [("config/poolproxy.toml", render.sample), ("docs/settings.md", render.reference)],
    ids=["sample", "reference"],
)
def test_a_generated_file_is_up_to_date(path: str, made: object) -> None:
    """The file in the tree is what the settings classes say: `poolproxy config sample|reference`."""
    assert callable(made)
    assert (ROOT / path).read_text(encoding="utf-8") == made()


def test_the_sample_loads_as_it_is() -> None:
    """The sample has no mistakes, and all of the proxy's settings in it are defaults."""
    config = load(render.sample())
    assert config.settings == Settings()
    assert set(config.databases) == set(config.users) == {"postgres"}


def test_the_sample_with_all_its_defaults_means_the_same() -> None:
    """Taking the comment sign off a setting changes nothing until its value is changed."""
    text = re.sub(r"^#(\w+ = .)", r"\1", render.sample(), flags=re.MULTILINE)
    assert text.count("\nlisten_port = 6432\n") == 1
    plain, uncommented = load(render.sample()), load(text)
    assert uncommented.settings == plain.settings
    assert uncommented.databases == plain.databases
    assert len(tomllib.loads(text)["poolproxy"]) == len(list(settings_of(Settings)))


def test_the_minimal_file_loads() -> None:
    """The minimal file has no mistakes and fits on a screen with room to spare."""
    text = (ROOT / "config/minimal.toml").read_text(encoding="utf-8")
    config = load(text)
    assert len(text.splitlines()) <= 12
    pool = config.pool("postgres", "postgres")
    assert pool is not None
    assert pool.hosts == (Host("127.0.0.1", 5432),)


@pytest.mark.parametrize(("table", "setting"), ALL, ids=IDS)
def test_a_default_can_be_written_and_read(table: str, setting: Setting) -> None:
    """Each default is itself a value that its setting accepts, with the same meaning."""
    if setting.default is not None:
        value = tomllib.loads(f"x = {setting.default_text}")["x"]
        assert setting.kind.read(value) == setting.default


@pytest.mark.parametrize(("table", "setting"), ALL, ids=IDS)
def test_a_setting_is_documented(table: str, setting: Setting) -> None:
    """Each setting has a sentence that ends, and stands in the reference and in the sample."""
    assert setting.doc.endswith(".")
    assert f"| `{setting.name}` |" in render.reference()
    assert re.search(rf"^#?{setting.name} =", render.sample(), re.MULTILINE)


def test_only_passwords_are_secret() -> None:
    """What is or has a secret is marked so, and nothing else is hidden."""
    secrets = {name for name, (_, setting) in zip(IDS, ALL, strict=True) if setting.secret}
    assert secrets == {"databases.password", "users.password", "poolproxy.auth_ldap_options"}
