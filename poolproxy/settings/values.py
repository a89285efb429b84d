"""Kinds of values: how each is read, written, and described when it is wrong.

A kind reads what TOML gives (numbers, booleans, arrays) and what is written as text, because
an INI file has nothing but text. Reading raises :class:`Unexpected`; the caller knows the
setting's name and whether its value may be shown, and makes the sentence.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Generic, TypeVar

import attrs

T = TypeVar("T")
E = TypeVar("E", bound=Enum)

# No timeout means a century; a longer one is a slip of the unit.
LONGEST = 100 * 365 * 86400.0
MAX_INT = 2**31 - 1
LONGEST_NAME = 127  # bytes of a user's name, as in PgBouncer

_TIME_UNITS = {"d": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001}
_SIZE_UNITS = {"gb": 2**30, "mb": 2**20, "kb": 2**10, "b": 1}
# Digits are spelled out, as \d and int() take every script's; their number is bounded because
# int() refuses more than 4300 with an error of its own.
_INTEGER = re.compile(r"[0-9]{1,18}")
_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})\s*([A-Za-z]*)")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]{0,62}")
_WORDS = {"true": True, "on": True, "yes": True, "1": True}
_WORDS |= {"false": False, "off": False, "no": False, "0": False}


class Unexpected(Exception):
    """A value is not of the kind that a setting wants; ``hint`` is what may help, or ""."""

    def __init__(self, hint: str = "") -> None:
        super().__init__(hint)
        self.hint = hint


class Plain(Enum):
    """What a value is where all values are bare text, as in pgbouncer.ini."""

    TEXT = "text"
    INTEGER = "integer"
    OCTAL = "octal"
    BOOLEAN = "boolean"
    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"


@attrs.frozen
class Kind(Generic[T]):
    """A kind of value.

    ``label`` names it in the reference, ``expected`` completes "NAME must be ...". ``read``
    raises :class:`Unexpected`; ``write`` gives TOML that ``read`` takes back.
    """

    label: str
    expected: str
    read: Callable[[object], T]
    write: Callable[[T], str]
    plain: Plain = Plain.TEXT

    def bare(self, value: T) -> str:
        """The value without quotes and units: times in seconds, sizes in bytes, booleans as 1 and 0."""
        match self.plain:
            case Plain.BOOLEAN:
                return str(int(value))  # type: ignore[call-overload]
            case Plain.INTEGER:
                return str(value)
            case Plain.SECONDS | Plain.MILLISECONDS:
                return f"{value:.10g}"
            case Plain.OCTAL | Plain.TEXT:
                written = tomllib.loads(f"value = {self.write(value)}")["value"]
                return ", ".join(written) if isinstance(written, list) else str(written)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint at the known word nearest to ``word``, or ""."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.7)
    return f'did you mean "{near[0]}"?' if near else ""


def alternatives(words: Iterable[str]) -> str:
    """Join words as a sentence does: "a, b or c"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def quoted(text: str) -> str:
    """``text`` as a TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def shown(value: object) -> str:
    """A wrong value in short, for a message."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value if len(value) <= 60 else value[:60] + "…")
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return str(value)[:60]


# -- numbers --------------------------------------------------------------------------------------


def count(least: int = 0, most: int = MAX_INT) -> Kind[int]:
    """A whole number from ``least`` to ``most``."""

    def read(value: object) -> int:
        number = _whole(value)
        if not least <= number <= most:
            raise Unexpected
        return number

    above = f"{least} or more" if most == MAX_INT else f"{least} to {most}"
    label = "whole number" if most == MAX_INT else above
    return Kind(label, f"a whole number, {above}", read, str, Plain.INTEGER)


def _whole(value: object) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value := value.strip()):
        return int(value)
    # bool is a subclass of int, but "listen_port = true" is a mistake.
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Unexpected


def seconds(least: float = 0.0, most: float = LONGEST, plain: Plain = Plain.SECONDS) -> Kind[float]:
    """A time of at least ``least`` seconds, at most ``most``; a bare number counts seconds."""

    def read(value: object) -> float:
        time = _time(value)
        # A NaN fails this as well.
        if not least <= time <= most:
            raise Unexpected
        return time

    expected = 'a time such as "30s", "500ms", "5min" or a number of seconds'
    if least:
        expected += f", at least {write_time(least)}"
    if most < LONGEST:
        expected += f", at most {write_time(most)}"
    return Kind("time", expected, read, write_time, plain)


def whole_seconds(most: int) -> Kind[int]:
    """A time in whole seconds, up to ``most``, where the kernel has no finer unit."""

    def read(value: object) -> int:
        time = _time(value)
        if not 0 <= time <= most or time != int(time):
            raise Unexpected
        return int(time)

    expected = f"a time in whole seconds, at most {most}"
    return Kind("time", expected, read, write_time, Plain.SECONDS)


def _time(value: object) -> float:
    if isinstance(value, str):
        return _measured(value, _TIME_UNITS, "us, ms, s, min (minutes), h and d")
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Python's integers have no end, floats have: compare before converting.
        return float(value) if value <= LONGEST else LONGEST * 2
    raise Unexpected


def write_time(time: float) -> str:
    """A time in its largest whole unit, as TOML: ``"5min"``, ``0``."""
    if not time:
        return "0"
    for unit, length in _TIME_UNITS.items():
        number = round(time / length, 6)
        if number == int(number) and number:
            return quoted(f"{int(number)}{unit}")
    return repr(time)


def size(least: int = 0, most: int = MAX_INT) -> Kind[int]:
    """A number of bytes; the units are powers of 1024."""

    def read(value: object) -> int:
        if isinstance(value, str):
            number = _measured(value.lower(), _SIZE_UNITS, "B, kB, MB and GB")
        else:
            number = _whole(value)
        if not least <= number <= most or number != int(number):
            raise Unexpected
        return int(number)

    expected = f'a size such as "64kB", "1MB" or a number of bytes, {least} to {most}'
    return Kind("size", expected, read, _write_size, Plain.INTEGER)


def _write_size(number: int) -> str:
    for unit, factor in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if number and number % factor == 0:
            return quoted(f"{number // factor}{unit}")
    return str(number)


def _measured(text: str, units: dict[str, Any], names: str) -> float:
    """The number in ``text`` times its unit; without a unit, the number."""
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if match is None:
        raise Unexpected
    number, unit = match.groups()
    if unit and unit not in units:
        raise Unexpected(f"units are {names}")
    return float(number) * units[unit] if unit else float(number)


# -- words ----------------------------------------------------------------------------------------


def _read_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str):
        word = str(value).strip().lower()
        if word in _WORDS:
            return _WORDS[word]
    raise Unexpected


BOOLEAN = Kind(
    "boolean", "true or false", _read_boolean, lambda value: str(value).lower(), Plain.BOOLEAN
)


def choice(options: type[E]) -> Kind[E]:
    """One member of an enumeration, by its value, in any case of letters."""
    members = {str(member.value): member for member in options}

    def read(value: object) -> E:
        if not isinstance(value, str):
            raise Unexpected
        member = members.get(value.strip().lower())
        if member is None:
            raise Unexpected(did_you_mean(value, members))
        return member

    words = alternatives(members)
    return Kind(words, words, read, lambda member: quoted(str(member.value)))


def read_text(value: object) -> str:
    """Text that can travel in the protocol, whose strings end at a zero byte."""
    if not isinstance(value, str) or "\0" in value:
        raise Unexpected
    return value


def _read_given(value: object) -> str:
    text = read_text(value)
    if not text:
        raise Unexpected
    return text


TEXT = Kind("text", "text in quotes", read_text, quoted)
GIVEN = Kind("text", "text in quotes, not empty", _read_given, quoted)


def name(longest: int) -> Kind[str]:
    """The name of a database or role: not empty, at most ``longest`` bytes."""

    def read(value: object) -> str:
        text = _read_given(value)
        if len(text.encode()) > longest:
            raise Unexpected
        return text

    return Kind("name", f"a name in quotes, 1 to {longest} bytes", read, quoted)


def _read_name_or_none(value: object) -> str:
    return "" if value == "" else name(LONGEST_NAME).read(value)


NAME_OR_NONE = Kind(
    "name", f'a name of at most {LONGEST_NAME} bytes, or "" for none', _read_name_or_none, quoted
)


# -- lists ----------------------------------------------------------------------------------------


def listed(label: str, expected: str, read_one: Callable[[str], str]) -> Kind[tuple[str, ...]]:
    """A TOML array of texts, or one text with commas; ``read_one`` checks and returns an item."""

    def read(value: object) -> tuple[str, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list):
            raise Unexpected
        texts = [read_text(item).strip() for item in items]
        return tuple(read_one(text) for text in texts if text)

    return Kind(label, expected, read, _write_list)


def _write_list(items: tuple[str, ...]) -> str:
    return f"[{', '.join(map(quoted, items))}]"


def _read_parameter(text: str) -> str:
    # These names are put into SET statements as they are, so nothing that could end one passes.
    if not _PARAMETER.fullmatch(text):
        raise Unexpected(f"{shown(text)} is not a parameter name")
    return text


PARAMETERS = listed(
    "list of names", 'a list of parameter names such as ["IntervalStyle"]', _read_parameter
)
USERS = listed(
    "list of names", 'a list of user names such as ["ann", "bob"]', name(LONGEST_NAME).read
)
