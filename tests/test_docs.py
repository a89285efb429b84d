"""What the documentation says can be done."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
import pytest

from poolproxy.cli import main
from poolproxy.settings.field import settings_of
from poolproxy.settings.ini import load_ini
from poolproxy.settings.schema import Settings
from poolproxy.settings.toml import load_toml

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "grafana" / "README.md",
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks in a language."""
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


def code(page: Path) -> Iterator[str]:
    """All that is set as code, line by line."""
    text = page.read_text()
    for _, block in FENCE.findall(text):
        yield from block.splitlines()
    yield from SPAN.findall(FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_configurations_load(page: Path) -> None:
    """Each TOML block is a configuration without a mistake."""
    for text in blocks(page, "toml"):
        load_toml(text, page.name)


def test_the_first_configuration_is_the_minimal_one() -> None:
    """README shows config/minimal.toml as it is."""
    assert blocks(ROOT / "README.md", "toml") == [(ROOT / "config" / "minimal.toml").read_text()]


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links name a file or folder that exists, and their anchors a heading in it."""
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_commands_exist(page: Path) -> None:
    """Each `poolproxy ...` that is named is a command with these options."""
    for line in code(page):
        for found in re.finditer(r"(?:^|[ /])poolproxy (?=[a-z-])([^|#>&]*)", line):
            check_command(found[1].split())


def check_command(words: list[str]) -> None:
    """Follow the words through the groups to a command; fails for a word or option that is unknown."""
    command: click.Command = main
    options = {name for each in main.params for name in each.opts}
    for word in words:
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(click.Context(command), word)
            assert found is not None, words
            command = found
            options |= {name for each in command.params for name in each.opts}
        elif word.startswith("--"):
            assert word.partition("=")[0] in options, words


@each_page
def test_modules_exist(page: Path) -> None:
    """Each `python -m ...` names a module that can be run."""
    for line in code(page):
        for name in re.findall(r"python3? -m ([\w.]+)", line):
            assert importlib.util.find_spec(name) is not None, line


@each_page
def test_metrics_exist(page: Path) -> None:
    """Each metric that is named stands in the list of metrics."""
    known = set(re.findall(r"`(poolproxy_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    for line in code(page):
        for name in re.findall(r"\bpoolproxy_\w+[a-z]\b", line):
            bare = re.sub(r"_(bucket|sum|count)$", "", name)
            # "poolproxy_pool_" and the like stand for all that begin so.
            assert {name, bare} & known or any(each.startswith(name + "_") for each in known), name


def test_the_pgbouncer_ini_is_the_toml_behind_it() -> None:
    """The two configurations of the page on PgBouncer mean the same, but for defaults that differ."""
    page = ROOT / "docs" / "migrating-from-pgbouncer.md"
    (text,), (toml,) = blocks(page, "ini"), blocks(page, "toml")
    ini, other = load_ini(text, page.name, lambda name: ""), load_toml(toml, page.name)
    assert (ini.databases, ini.users) == (other.databases, other.users)
    assert ini.settings == attrs.evolve(
        other.settings,
        **{s.name: s.ini_default for s in settings_of(Settings) if s.default != s.ini_default}
        | {"listen_addr": ("*",)},
    )


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """.ci/run installs and tests by the command that README gives."""
    command = "pip install -e '.[test]' && python -m pytest"
    install, run = command.removeprefix("pip ").split(" && ")
    script = (ROOT / ".ci" / "run").read_text()
    assert command in "".join(blocks(ROOT / "README.md", "sh"))
    assert re.search(r"^python -m pip install .*-e '\.\[test\]'$", script, re.MULTILINE), install
    assert re.search(rf"^{re.escape(run)} ", script, re.MULTILINE)


def test_the_version_is_in_the_changelog() -> None:
    """The changelog has a section for the version of the package, and one for what comes next."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## [{version}]" in text
    assert "\n## [Unreleased]\n" in text
