"""The front end for PgBouncer's own files, by PgBouncer's rules (https://www.pgbouncer.org/config.html).

Where its documentation and its program disagree the program counts. A line is a ``[section]``, a ``key =
value`` or ``%include FILE``; a comment has a line of its own. Unlike PgBouncer, which stops at the first
mistake, all are found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from poolproxy.errors import ConfigError
from poolproxy.settings.build import DATABASES, PEERS, PROXY, TABLES, USERS, Dialect, Item, build
from poolproxy.settings.config import Config
from poolproxy.settings.field import Setting, settings_of
from poolproxy.settings.pgbouncer import ALIASES, WITHOUT_DEFAULT, WITHOUT_MEANING
from poolproxy.settings.schema import Settings
from poolproxy.settings.values import Plain, Unexpected

# What comes of the name in %include: its text. Raises ConfigError.
Include = Callable[[str], str]

DEEPEST = 10  # files that include each other
_SECTIONS = {"pgbouncer": PROXY}

_BLANK = " \t\r\f\v"
_HEADER = re.compile(r"\[([^\]]*)\]")
# The documentation has double quotes around odd names, the program takes single ones.
_KEY = re.compile(r"""'((?:[^']|'')*)'|"((?:[^"]|"")*)"|([A-Za-z0-9_.*-]*)""")
_INCLUDE = re.compile(r"%include[ \t]+(\S.*)")
_PAIR = re.compile(r"([^\s=']+)\s*=\s*(?:'((?:[^']|'')*)'(?=\s|$)|([^\s']\S*)|)")
_INTEGER = re.compile(r"([+-]?)(0[xX][0-9a-fA-F]{1,15}|[0-9]{1,18})")
_FLOAT = re.compile(r"[0-9]{1,18}(?:\.[0-9]{0,9})?(?:[eE][+-]?[0-9]{1,2})?|\.[0-9]{1,9}")


def load_ini(text: str, source: str, include: Include, more: Iterable[Item] = ()) -> Config:
    """The configuration in ``text``; ``source`` names it in messages. ``more`` goes before what it says.

    Raises :class:`ConfigError` with every mistake, in the order of lines.
    """
    return build([*read_ini(text, source, include), *more], source, INI)


def read_ini(text: str, source: str, include: Include) -> Iterator[Item]:
    """What stands in ``text`` and the files that it includes, broken lines too."""
    reader = _Reader(include)
    yield from reader.read(text, source, depth=0)
    if not reader.seen_main:
        yield Item(PROXY, None, None, None, source, fault="there is no section [pgbouncer]")


class _Reader:
    """Goes through the lines. A section that an included file begins goes on behind the %include."""

    def __init__(self, include: Include) -> None:
        self._include = include
        self._section = ""
        self.seen_main = False

    def read(self, text: str, source: str, depth: int) -> Iterator[Item]:
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
            where = f"{source}:{number}"
            rest = line.strip(_BLANK)
            # PgBouncer goes on behind the bracket of a header as at the start of a line.
            while header := _HEADER.match(rest):
                yield self._begin(header[1], where)
                rest = rest[header.end() :].lstrip(_BLANK)
            if not rest or rest[0] in "#;":
                continue
            if rest[0] == "%":
                yield from self._included(rest, where, depth)
            else:
                yield from self._statement(rest, where)

    def _begin(self, section: str, where: str) -> Item:
        self._section = _SECTIONS.get(section, section)
        if section == PROXY:
            # It is the table's name of the other format; a section of that name is none.
            self._section = section = f"{section} "
        self.seen_main = self.seen_main or self._section == PROXY
        return Item(self._section, None, None, None, where, fresh=self._section == PROXY)

    def _included(self, line: str, where: str, depth: int) -> Iterator[Item]:
        found = _INCLUDE.fullmatch(line)
        if found is None:
            yield self._broken(where, "expected %include FILE")
            return
        if depth >= DEEPEST:
            yield self._broken(where, f"more than {DEEPEST} files include each other")
            return
        try:
            text = self._include(found[1])
        except ConfigError as error:
            yield self._broken(where, "; ".join(map(str, error.mistakes)))
            return
        yield from self.read(text, found[1], depth + 1)

    def _statement(self, line: str, where: str) -> Iterator[Item]:
        found = _KEY.match(line)
        assert found is not None  # the empty text fits
        rest = line[found.end() :].lstrip(_BLANK)
        key = found[3]
        if key is None:
            key = (found[1] or found[2] or "").replace("''", "'").replace('""', '"')
        if not rest.startswith("="):
            # The line may have a password.
            yield self._broken(where, 'expected "key = value", a [section] or a comment')
            return
        value = rest[1:].lstrip(_BLANK)
        if self._section in (DATABASES, USERS, PEERS) and self._section in TABLES:
            yield from self._entry(key, value, where)
        elif self._section in (*TABLES, ""):
            yield Item(self._section, None, key, value, where)
        # The section itself is the mistake else.

    def _entry(self, name: str, value: str, where: str) -> Iterator[Item]:
        # A later line for the same name replaces the earlier one.
        yield Item(self._section, name, None, None, where, fresh=True)
        try:
            for key, word in pairs(value):
                yield Item(self._section, name, ALIASES.get(key, key), word, where)
        except ValueError as error:
            yield self._broken(where, f"{name}: {error}")

    def _broken(self, where: str, fault: str) -> Item:
        return Item(self._section, None, None, None, where, fault=fault)


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """The keys and values of a connection string; raises ValueError where it is none any more."""
    position = 0
    text = text.strip()
    while position < len(text):
        found = _PAIR.match(text, position)
        if found is None:
            raise ValueError("expected key=value pairs with blanks between them")
        key, quoted, bare = found.groups()
        position = found.end()
        if bare is None and quoted is None and text.startswith("'", position):
            raise ValueError(f"the quotes around the value of {key} are not closed")
        value = bare if quoted is None else quoted.replace("''", "'")
        if not value:
            raise ValueError(f"{key} has no value")
        yield key, value
        while position < len(text) and text[position].isspace():
            position += 1


# -- values ---------------------------------------------------------------------------------------


def _read(item: Item, setting: Setting) -> Any:
    """The value of a line of text, as PgBouncer reads its kind."""
    text = item.value
    assert isinstance(text, str)
    kind = setting.kind
    in_entry = item.name is not None
    if in_entry and setting.default is None and kind.plain is not Plain.TEXT and text == "-1":
        return None  # as the wider scope has it
    match kind.plain:
        case Plain.BOOLEAN:
            if hint := _HINTS.get(text.strip().lower()):
                raise Unexpected(hint)
            return kind.read(_integer(text) != 0)
        case Plain.INTEGER | Plain.OCTAL:
            # In connection strings PgBouncer reads numbers with atoi(), else with strtol(base 0).
            return kind.read(_integer(text, decimal=in_entry))
        case Plain.SECONDS:
            return kind.read(_seconds(text))
        case Plain.MILLISECONDS:
            return kind.read(_integer(text) / 1000)
        case Plain.TEXT:
            return kind.read(text)


def _integer(text: str, *, decimal: bool = False) -> int:
    found = _INTEGER.fullmatch(text.strip())
    if found is None:
        raise Unexpected
    sign, digits = found.groups()
    if decimal or digits[:2] in ("0x", "0X"):
        base = 16 if digits[:2] in ("0x", "0X") else 10
    else:
        base = 8 if digits.startswith("0") else 10
    try:
        return int(digits, base) * (-1 if sign == "-" else 1)
    except ValueError:
        raise Unexpected("a number that begins with 0 is octal") from None


_HINTS = {"on": "write 1", "yes": "write 1", "true": "write 1"}
_HINTS |= {"off": "write 0", "no": "write 0", "false": "write 0"}


def _seconds(text: str) -> float:
    if not _FLOAT.fullmatch(text.strip()):
        raise Unexpected("units are for TOML" if text.strip()[:1].isdigit() else "")
    return float(text)


def _write(setting: Setting, value: Any) -> str:
    """The value as PgBouncer's SHOW CONFIG has it."""
    match setting.kind.plain:
        case Plain.MILLISECONDS:
            return str(round(value * 1000))
        case Plain.OCTAL:
            return str(value)
        case _:
            return setting.kind.bare(value)


def _expected(setting: Setting) -> str:
    """``kind.expected`` in the words of this format."""
    text = setting.kind.expected
    match setting.kind.plain:
        case Plain.BOOLEAN:
            return "0 or 1"
        case Plain.MILLISECONDS:
            return "a whole number of milliseconds"
        case Plain.SECONDS | Plain.INTEGER | Plain.OCTAL:
            start = re.search("a number of (seconds|bytes)", text)
            return text[start.start() :] if start else text.replace('"', "")
        case Plain.TEXT:
            bare = text.replace('["', "").replace('"]', "").replace('", "', ", ")
            return bare.replace(" in quotes", "").replace('""', "nothing").replace('"', "")


INI = Dialect(
    headers={
        PROXY: "[pgbouncer]",
        DATABASES: "[databases]",
        USERS: "[users]",
        PEERS: "[peers]",
    },
    read=_read,
    write=_write,
    expected=_expected,
    path=lambda path: "",
    defaults={
        setting.name: setting.ini_default
        for setting in settings_of(Settings)
        if setting.ini_default != setting.default
    },
    lasting=WITHOUT_DEFAULT,
    idle=WITHOUT_MEANING,
    lenient=True,
    noun="section",
)
