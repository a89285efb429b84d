"""Splitting the lines of pg_hba.conf and pg_ident.conf.

https://www.postgresql.org/docs/current/auth-pg-hba-conf.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

# A quote inside of quotes is doubled. What stands in quotes has no special meaning. No possessive
# quantifiers: Python 3.11.0 to 3.11.3 take one within another wrongly, so a quote without end for a word.
# Without them a word is what goes before the quote that is one too many, and behind it there is none.
_WORD = re.compile(r'\s*(?:(?P<comma>,)|(?P<end>\#.*|$)|(?P<word>(?:"(?:[^"]|"")*"|[^\s,#"])+))')


@attrs.frozen
class Word:
    """One word; ``keyword`` is "" where quotes take its special meaning away."""

    text: str
    keyword: str


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.rstrip("\r")


def fields(line: str) -> list[list[Word]]:
    """The fields of a line, each a list of words: commas join words to one field.

    Raises ValueError for a quote that does not end.
    """
    found: list[list[Word]] = []
    position, joined = 0, False
    while True:
        match = _WORD.match(line, position)
        if match is None:
            raise ValueError('a quote (") is not closed')
        position = match.end()
        if match["end"] is not None:
            return found
        if match["comma"]:
            joined = bool(found)
            continue
        word = _word(match["word"])
        if joined:
            found[-1].append(word)
        else:
            found.append([word])
        joined = False


def _word(text: str) -> Word:
    if '"' not in text:
        return Word(text, text.lower())
    plain = re.sub(r'"((?:[^"]|"")*)"', lambda m: m[1].replace('""', '"'), text)
    # A sign before the quotes keeps its meaning: +"my group", @"my file".
    return Word(plain, text[0] if text[0] in "+@" else "")
