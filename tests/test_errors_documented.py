"""docs/errors.md and the code name the same errors."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from poolproxy.errors import PROTOCOL_VIOLATION

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"

# What makes an error for clients: which argument is its SQLSTATE, and what it is without one.
MAKERS = {
    "PoolerError": (1, PROTOCOL_VIOLATION),
    "_timeout": (2, PROTOCOL_VIOLATION),
    "reject": (2, "28P01"),
    "lost": (9, "08006"),
    "console_error": (1, PROTOCOL_VIOLATION),
    "Refused": (1, PROTOCOL_VIOLATION),
}
# What makes a reason for which a server connection could not be made.
REASONS = {"ServerError", "_fail"}
# Errors that are put together in another way, with the expressions in the code that stand for them.
PUT_TOGETHER = {
    # auth/delegated.py
    "self.failed": {
        ("PAM authentication failed", "28P01"),
        ("LDAP authentication failed", "28P01"),
    },
    "text": {
        ("client_login_timeout", "08P01"),
        ("client_login_timeout (server down)", "08P01"),
    },
    # worker/choosing.py
    "str(fault)": {("no WANTED host: HOST: REASON; ...", None), ("HOST: REASON; ...", None)},
    "reason": {("connect failed: REASON", None), ("server DNS lookup failed", None)},
}
# These pass on what another of the calls, or PostgreSQL, has made.
PASSED_ON = {
    "message",
    "message.reason",
    "answer.error",
    "str(error)",
    "error.message",
    "fields.message",
}
PLACEHOLDER = "[A-Z]+"


@attrs.frozen
class Made:
    """An error as the code makes it: a pattern for its text; no SQLSTATE means a reason."""

    pattern: str
    sqlstate: str | None

    def fits(self, text: str, sqlstate: str | None) -> bool:
        return self.sqlstate == sqlstate and re.fullmatch(self.pattern, text) is not None


def made() -> Iterator[Made]:
    """All that the package makes; fails for an expression that this test can't follow."""
    for path in sorted((ROOT / "poolproxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and _name(node) in {*MAKERS, *REASONS}:
                yield from _read(node, path)


def _name(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _read(call: ast.Call, path: Path) -> Iterator[Made]:
    text = _value(call.args[0], path)
    sqlstate = None if _name(call) in REASONS else _sqlstate(call, path)
    if text is not None:
        yield Made(text, sqlstate)
        return
    source = ast.unparse(call.args[0])
    for known, state in PUT_TOGETHER.get(source, ()):
        yield Made(re.escape(known), state)
    assert source in PUT_TOGETHER or source in PASSED_ON, f"{path}: what can {source} be?"


def _sqlstate(call: ast.Call, path: Path) -> str:
    position, default = MAKERS[_name(call)]
    given = [k.value for k in call.keywords if k.arg == "sqlstate"] or call.args[position:]
    if not given:
        return default
    return (_value(given[0], path) or "(passed on)").replace("\\", "")


def _value(node: ast.expr, path: Path) -> str | None:
    """A pattern for a text: a literal, an f-string, or a constant of the module."""
    match node:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=parts):
            return "".join(_value(part, path) or PLACEHOLDER for part in parts)
        case ast.Name(id=name) if name.isupper():
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            return re.escape(getattr(importlib.import_module(module), name))
    return None


def documented() -> set[tuple[str, str | None]]:
    """(text, SQLSTATE) of each row of the page; None in the table of reasons."""
    rows = set()
    for line in PAGE.read_text().splitlines():
        found = re.match(r"\| `(.+?)` \| (?:([0-9A-Z]{5}) \| )?", line)
        if found:
            rows.add((found[1], found[2]))
    return rows


def test_every_error_is_documented() -> None:
    """Each error that the code can send stands in the page, with its SQLSTATE."""
    rows = documented()
    for error in made():
        # What the reader of messages says of a server becomes a reason.
        alike = [error, attrs.evolve(error, sqlstate=None)]
        assert any(each.fits(*row) for each in alike for row in rows), error


def test_no_documented_error_is_gone() -> None:
    """Each row of the page is an error that the code can send."""
    errors = list(made())
    for text, sqlstate in documented():
        fitting = [each for each in errors if re.fullmatch(each.pattern, text)]
        assert fitting, text
        assert sqlstate is None or sqlstate in {each.sqlstate for each in fitting}, text
