"""The imports keep to the table of layers in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "poolproxy"
IMPURE = {
    *("trio", "socket", "ssl", "select", "selectors", "asyncio", "threading", "multiprocessing"),
    *("subprocess", "signal", "time", "random", "secrets", "logging"),
}
# Files of packages that are not pure, but are so themselves.
PURE_FILES = {
    "ipc/codec.py",
    *(f"ipc/messages/{path.name}" for path in PACKAGE.glob("ipc/messages/*.py")),
}
# The program's frame: what starts the rest, and the version.
FRAME = {"__init__.py", "__main__.py"}


@attrs.frozen
class Layer:
    """A row of the table."""

    name: str
    pure: bool
    may_import: frozenset[str]


def layers() -> dict[str, Layer]:
    """The table, by package."""
    found = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        row = re.fullmatch(r"\| `(\w+)` \| .+ \| (yes|no) \| (.*)\|", line)
        if row:
            names = frozenset(re.findall(r"`(\w+)`", row[3]))
            found[row[1]] = Layer(row[1], row[2] == "yes", names)
    return found


LAYERS = layers()
FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.name not in FRAME
]


def imports(path: Path) -> Iterator[str]:
    """The full names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(path: Path) -> Layer:
    return LAYERS[path.relative_to(PACKAGE).parts[0].removesuffix(".py")]


def test_every_package_is_in_the_table() -> None:
    """The table has a row for each package, and no other."""
    ours = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert ours == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_keeps_to_its_layer(path: Path) -> None:
    """A file imports only the packages that its row names, and in pure code nothing that acts."""
    layer = layer_of(path)
    pure = layer.pure or str(path.relative_to(PACKAGE)) in PURE_FILES
    for name in imports(path):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top == "poolproxy" and target in LAYERS and target != layer.name:
            assert target in layer.may_import, f"{layer.name} must not import {target}"
        assert not (pure and top in IMPURE), f"pure code must not import {top}"


def test_the_channel_is_for_the_two_processes_only() -> None:
    """Of ipc, what is below acceptor and worker knows the messages, never the file that does the I/O."""
    for path in FILES:
        if layer_of(path).name in ("ipc", "acceptor", "worker"):
            continue
        used = {name for name in imports(path) if name.startswith("poolproxy.ipc.")}
        assert {name.split(".")[2] for name in used} <= {"messages", "codec"}, path


def test_settings_know_the_files_of_auth_and_no_more_of_it() -> None:
    """The acceptor checks auth_file and its like through them, and must not come near the exchanges."""
    parsers = {"userlist", "secrets", "hba", "ident", "passfile", "ldap"}
    for path in FILES:
        if layer_of(path).name == "settings":
            used = {name for name in imports(path) if name.startswith("poolproxy.auth.")}
            assert {name.split(".")[2] for name in used} <= parsers, path
