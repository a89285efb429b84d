"""The TOML front end: text in, :class:`Config` out. Reading files is the caller's work."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.build import (
    DATABASES,
    PEERS,
    PROXY,
    TABLES,
    USERS,
    Dialect,
    Item,
    assemble,
    build,
    key_path,
)
from poolproxy.settings.config import Config
from poolproxy.settings.locate import Locator

# How tomllib ends its messages; it has no attributes for the position before Python 3.14.
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
# The commonest slip of all: a word, or a number with a unit, without quotes.
_UNQUOTED = re.compile(r"""\s*([\w."'-]+)\s*=\s*[^\s"'\[{#]""")


TOML = Dialect(
    headers={
        PROXY: "[poolproxy]",
        DATABASES: "[databases.NAME]",
        USERS: "[users.NAME]",
        PEERS: "[peers.N]",
    },
    read=lambda item, setting: setting.kind.read(item.value),
    write=lambda setting, value: setting.kind.bare(value),
    expected=lambda setting: setting.kind.expected,
    path=key_path,
)


def load_toml(text: str, source: str, more: Iterable[Item] = ()) -> Config:
    """The configuration in ``text``; ``source`` names it in messages. ``more`` goes before what it says.

    Raises :class:`ConfigError` with every mistake, in file order.
    """
    return build([*read_toml(text, source), *more], source, TOML)


def take_over(text: str, source: str) -> Config:
    """The configuration that :func:`poolproxy.settings.write.to_toml` has written for another process."""
    return assemble(read_toml(text, source), source, TOML)


def read_toml(text: str, source: str) -> list[Item]:
    """What stands in ``text``, in file order; raises :class:`ConfigError` if it is not TOML."""
    text = text.removeprefix("\ufeff")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(str(error), text, source)]) from None
    except (ValueError, RecursionError):
        # tomllib lets two errors of Python pass: int() on thousands of digits, deep brackets.
        reason = "a number is too long or brackets are nested too deep"
        raise ConfigError([Mistake(source, reason)]) from None
    locator = Locator(text)
    items = [_placed(item, locator, source) for item in _items(document)]
    return [item for _, item in sorted(items, key=lambda placed: placed[0])]


def _items(document: dict[str, Any]) -> Iterator[Item]:
    """The items of the document, their places still unknown."""
    for table, content in document.items():
        if not isinstance(content, dict):
            yield Item("", None, table, content)
            continue
        yield Item(table, None, None, None)
        if table not in TABLES:
            continue
        for name, value in content.items():
            if table == PROXY or not isinstance(value, dict):
                yield Item(table, None, name, value)
                continue
            yield Item(table, name, None, None)
            for key, inner in value.items():
                yield Item(table, name, key, inner)


def _placed(item: Item, locator: Locator, source: str) -> tuple[int, Item]:
    line = locator.line(*item.path)
    where = f"{source}:{line}" if line else f"{source}: {key_path(item.path)}"
    return line or 0, attrs.evolve(item, where=where)


def _syntax(message: str, text: str, source: str) -> Mistake:
    """tomllib's message, with its position in our form and a guess at the cause."""
    lines = text.split("\n")
    position = _POSITION.search(message)
    if position is None:
        return Mistake(source, message)
    number = int(position[1]) if position[1] else len(lines)
    reason = message[: position.start()]
    unquoted = _UNQUOTED.match(lines[number - 1])
    if unquoted and reason.startswith(("Invalid value", "Expected newline")):
        # The value itself may be a password.
        reason += f'; text and numbers with a unit need quotes: {unquoted[1]} = "..."'
    return Mistake(f"{source}:{number}", reason[0].lower() + reason[1:])
