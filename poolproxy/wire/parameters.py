"""Session parameters that follow a client from server to server.

PostgreSQL reports them by ParameterStatus, so client and server each have a known value; before a
server serves a client, those that differ are set (PgBouncer's "tracked variables").

Values are kept as one tuple in the tracker's order: comparing two tuples of the same strings costs
about as much as one attribute look-up, and most clients share their strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from poolproxy.errors import PoolerError

Values: TypeAlias = tuple[str | None, ...]

ALWAYS_TRACKED = (
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "standard_conforming_strings",
    "application_name",
)
MAX_VALUE = 1024  # bytes: no tracked setting is longer, and each idle client keeps its values


class Tracker:
    """Which parameters are tracked: the fixed ones and track_extra_parameters."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        names = {name.lower(): name for name in (*ALWAYS_TRACKED, *extra)}
        self.names = tuple(names.values())
        self._index = {name: i for i, name in enumerate(names)}
        self.nothing: Values = (None,) * len(self.names)

    def tracks(self, name: str) -> bool:
        """Names compare without case, as in PostgreSQL."""
        return name.lower() in self._index

    def updated(self, values: Values, name: str, value: str) -> Values:
        """``values`` with ``name`` set, if it is tracked."""
        index = self._index.get(name.lower())
        if index is None or values[index] == value:
            return values
        return (*values[:index], value, *values[index + 1 :])

    def values(self, parameters: Mapping[str, str]) -> Values:
        """The tracked ones of a start-up packet; raises PoolerError for a value that can't be set."""
        result = self.nothing
        for name, value in parameters.items():
            if self.tracks(name):
                result = self.updated(result, name, _settable(name, value))
        return result

    def missing_from(self, values: Values, defaults: Values) -> Values:
        """``values`` with its gaps filled from ``defaults``."""
        return tuple(d if v is None else v for v, d in zip(values, defaults, strict=True))

    def set_statement(self, server: Values, client: Values) -> str:
        """The SQL that brings a server to a client's values; "" if nothing differs.

        A parameter without a value on either side is left alone.
        """
        # set_config reads a list (search_path) as it is reported; SET would take it for one name.
        changes = [
            f"pg_catalog.set_config('{name}',{_quote(theirs)},false)"
            for name, ours, theirs in zip(self.names, server, client, strict=True)
            if ours is not None and theirs is not None and ours.lower() != theirs.lower()
        ]
        return "SELECT " + ",".join(changes) if changes else ""

    def canonical(self, client: Values, server: Values) -> Values:
        """The client's values as the server reports them, once it has been brought to them."""
        return tuple(
            c if c is None or s is None else s for c, s in zip(client, server, strict=True)
        )

    def items(self, values: Values) -> Iterable[tuple[str, str]]:
        """(name, value) of those that have a value."""
        return [(n, v) for n, v in zip(self.names, values, strict=True) if v is not None]


def _settable(name: str, value: str) -> str:
    # A SET is read in whatever client_encoding the server has then: in some of them (SJIS, BIG5) a
    # byte of a multi-byte character is a backslash or a quote. ASCII is the same in all of them.
    if len(value) > MAX_VALUE:
        raise PoolerError(f"invalid value for startup parameter: {name} is too long")
    if name.lower() == "application_name":
        return "".join(c if " " <= c <= "~" else "?" for c in value)  # as PostgreSQL does
    if not (value.isascii() and value.isprintable()):
        raise PoolerError(f"invalid value for startup parameter: {name}")
    return value


def _quote(value: str) -> str:
    quoted = value.replace("'", "''")
    if "\\" in quoted:
        return "E'" + quoted.replace("\\", "\\\\") + "'"
    return f"'{quoted}'"
