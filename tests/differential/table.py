"""The table of docs/features.md: what a pool mode promises, row by row."""

from __future__ import annotations

from enum import Enum, auto
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "features.md"
MODES = ("session", "transaction", "statement")
HEADER = "| | Session | Transaction | Statement |"


class Promise(Enum):
    """Where a feature works as with PostgreSQL itself."""

    ANYWHERE = auto()
    IN_TRANSACTION = auto()
    NOWHERE = auto()


# By how a cell begins. What a client may do in one statement only is not tried.
WORDS = {
    "yes": Promise.ANYWHERE,
    "in it": Promise.IN_TRANSACTION,
    "no": Promise.NOWHERE,
    "for the one statement": Promise.NOWHERE,
    "one call for each statement": Promise.NOWHERE,
}


@cache
def rows() -> dict[str, dict[str, Promise]]:
    """By the row's first cell and the mode."""
    text = PAGE.read_text().partition(HEADER)[2].partition("\n\n")[0]
    found = {}
    for line in text.splitlines()[2:]:
        name, *cells = (cell.strip() for cell in line.strip("| ").split(" | "))
        found[name] = dict(zip(MODES, map(_promise, cells), strict=True))
    return found


def promise(row: str, mode: str) -> Promise:
    """Raises KeyError where the table has no such row."""
    return rows()[row][mode]


def promised(row: str, mode: str) -> bool:
    """Whether it works there without conditions."""
    return promise(row, mode) is Promise.ANYWHERE


def _promise(cell: str) -> Promise:
    for word, promise in WORDS.items():
        if cell.lower().startswith(word):
            return promise
    raise ValueError(f"docs/features.md: a cell begins with none of {list(WORDS)}: {cell!r}")
