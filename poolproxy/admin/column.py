"""The class is the table: a field of a row class is a column of a SHOW command."""

from __future__ import annotations

import struct
from enum import Enum
from functools import cache
from typing import Any, TypeAlias

import attrs

Row: TypeAlias = tuple[str | None, ...]

_KEY = "column"  # in the metadata of an attrs field
_DIGITS = 10_000  # numeric's base in PostgreSQL's binary format


class Type(Enum):
    """The types of columns; the value is PostgreSQL's oid (pg_type.dat)."""

    BYTES = 17
    BIGINT = 20
    INT = 23
    TEXT = 25
    NUMERIC = 1700

    @property
    def size(self) -> int:
        """The bytes of a value, -1 if they vary (pg_type.typlen)."""
        return {Type.INT: 4, Type.BIGINT: 8}.get(self, -1)

    @property
    def title(self) -> str:
        """The type's name in SQL."""
        return {Type.BYTES: "bytea", Type.INT: "integer"}.get(self, self.name.lower())


@attrs.frozen
class Column:
    """A column's name, type and meaning."""

    name: str
    type: Type
    doc: str


def column(type: Type, doc: str, **how: Any) -> Any:
    """Declare a column as an attrs field; ``how`` goes to ``attrs.field`` (a default)."""
    return attrs.field(metadata={_KEY: (type, doc)}, kw_only=True, **how)


@cache
def columns_of(row: type) -> tuple[Column, ...]:
    """The columns of a row class, in order."""
    return tuple(Column(field.name, *field.metadata[_KEY]) for field in attrs.fields(row))


def values_of(row: object) -> Row:
    """The texts of a row; None is NULL."""
    return tuple(text_of(getattr(row, field.name)) for field in attrs.fields(type(row)))  # type: ignore[arg-type]


def text_of(value: object) -> str | None:
    """A value as PostgreSQL's text format has it: booleans are 1 and 0 on this console."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return str(round(value))
    return str(value)


def in_binary(type: Type, text: str) -> bytes:
    """A value in PostgreSQL's binary format, for clients that ask for nothing else."""
    match type:
        case Type.INT:
            return struct.pack(">i", int(text))
        case Type.BIGINT:
            return struct.pack(">q", int(text))
        case Type.NUMERIC:
            return _numeric(int(text))
        case Type.BYTES:
            return bytes.fromhex(text.removeprefix("\\x"))
        case Type.TEXT:
            return text.encode("utf-8", "backslashreplace")


def _numeric(value: int) -> bytes:
    # numeric_send: number of digits, weight of the first, sign, digits behind the point, the digits.
    digits: list[int] = []
    rest = abs(value)
    while rest:
        rest, digit = divmod(rest, _DIGITS)
        digits.insert(0, digit)
    sign = 0x4000 if value < 0 else 0
    weight = max(0, len(digits) - 1)
    return struct.pack(f">hhHh{len(digits)}h", len(digits), weight, sign, 0, *digits)
