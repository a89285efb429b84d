"""The words of SQL texts: where statements begin, and which tokens they are made of.

It is asked only when there is a reason to look (see ``wire.session_state``), so it need not be quick, but it
must end soon whatever a client sends: each byte is looked at a bounded number of times. What
PostgreSQL would refuse (a quote that does not end) ends the reading.

Strings are read as with standard_conforming_strings on. With it off, or in an encoding in which a byte
of a character can be a backslash, statements can be missed: whoever asks must take that for "not known".

https://www.postgresql.org/docs/current/sql-syntax-lexical.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

# A word without quotes, in small letters; '"' and the name of a quoted one; "'" for a string; else
# the character itself.
Token: TypeAlias = bytes

STRING = b"'"
NAME_LENGTH = 63  # bytes; PostgreSQL cuts longer names

_TOKEN = re.compile(
    rb"(?P<space>\s+|--[^\n\r]*)"
    rb"|(?P<comment>/\*)"
    rb"|(?P<escaped>[eE]')"
    rb"|(?P<string>')"
    rb'|(?P<quoted>")'
    rb"|(?P<dollar>\$(?:[a-zA-Z_\x80-\xff][\w\x80-\xff]*)?\$)"
    rb"|(?P<word>[a-zA-Z_\x80-\xff][\w$\x80-\xff]*)"
    rb"|(?P<number>\$?\d[\w.]*)"
    rb"|(?P<other>.)",
    re.DOTALL,
)
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
# Written so that a failure takes no longer than a success.
_ESCAPED_END = re.compile(rb"[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL)
_QUOTED_END = re.compile(rb'([^"]*(?:""[^"]*)*)"')


def statements(text: bytes) -> Iterator[list[Token]]:
    """The tokens of each statement in ``text``; empty statements are left out."""
    tokens: list[Token] = []
    for token in _tokens(text):
        if token != b";":
            tokens.append(token)
        elif tokens:
            yield tokens
            tokens = []
    if tokens:
        yield tokens


def name(token: Token) -> bytes:
    """The name that ``token`` stands for; b"" if it is none."""
    if token[:1] == b'"':
        return token[1:].replace(b'""', b'"')[:NAME_LENGTH]
    return token[:NAME_LENGTH] if token[:1].isalpha() or token[:1] in b"_" else b""


def _tokens(text: bytes) -> Iterator[Token]:
    position = 0
    while match := _TOKEN.match(text, position):
        position = match.end()
        kind = match.lastgroup
        if kind == "word":
            yield match[0].lower()
        elif kind == "other":
            yield match[0]
        elif kind == "number":
            yield b"0"
        elif kind != "space":
            start, position = position, _end(kind, match, text)
            if not position:
                return
            if kind == "quoted":
                yield b'"' + text[start : position - 1]
            elif kind != "comment":
                yield STRING


def _end(kind: str | None, start: re.Match[bytes], text: bytes) -> int:
    """Where the comment, string or name that ``start`` begins is over; 0 if it does not end."""
    if kind == "comment":
        return _end_of_comment(text, start.end())
    if kind in ("escaped", "quoted"):
        pattern = _ESCAPED_END if kind == "escaped" else _QUOTED_END
        end = pattern.match(text, start.end())
        return end.end() if end else 0
    mark = STRING if kind == "string" else start[0]
    found = text.find(mark, start.end())
    return found + len(mark) if found >= 0 else 0


def _end_of_comment(text: bytes, position: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, position):
        depth += 1 if edge[0] == b"/*" else -1
        if not depth:
            return edge.end()
    return 0
