"""On which line of a TOML text a key stands: ``tomllib`` does not tell.

The text must have passed ``tomllib`` already. So this needs no grammar, only enough lexing to
tell keys from what looks like them inside strings, comments and arrays that go over lines.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Path = tuple[str, ...]

_PART = r"""(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_BLANK = re.compile(r"(?:\s|\#[^\n]*)+")
# A closing triple quote may be preceded by up to two quotes that belong to the text.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}\n]"
    r"|[^\"'\#\[\]{}\n]+",
    re.DOTALL,
)
_DEPTH = {"[": 1, "{": 1, "]": -1, "}": -1}


class Locator:
    """Lines of keys and tables in one TOML text."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        text = text.replace("\r\n", "\n")
        line, counted = 1, 0
        for path, position in _keys(text):
            line += text.count("\n", counted, position)
            counted = position
            for length in range(1, len(path) + 1):
                self._lines.setdefault(path[:length], line)

    def line(self, *path: str) -> int | None:
        """The line of the key at ``path``, or of the table that it stands in; None: nowhere.

        A key in an inline table has the line of that table, which cannot go over lines.
        """
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path)


def _keys(text: str) -> Iterator[tuple[Path, int]]:
    """Each table header and each key at the start of a statement, with its position."""
    table: Path = ()
    position = 0
    while True:
        if blank := _BLANK.match(text, position):
            position = blank.end()
        if position >= len(text):
            return
        start = position
        is_header = text[position] == "["
        while text[position] in "[ \t":
            position += 1
        key = _KEY.match(text, position)
        if key is None:
            return
        path = _parts(key.group())
        if is_header:
            table = path
        yield (path if is_header else table + path), start
        position = _end_of_statement(text, key.end())


def _parts(key: str) -> Path:
    """The parts of a dotted key, unquoted; the rules for that are left to tomllib."""
    found: object = tomllib.loads(f"{key} = 0")
    parts = []
    while isinstance(found, dict):
        part, found = next(iter(found.items()))
        parts.append(part)
    return tuple(parts)


def _end_of_statement(text: str, position: int) -> int:
    """Where the line ends that is not inside a string or brackets."""
    depth = 0
    while token := _TOKEN.match(text, position):
        if token.group() == "\n" and depth <= 0:
            break
        depth += _DEPTH.get(token.group(), 0)
        position = token.end()
    return position
