"""Session parameters that follow a client from server to server.

PostgreSQL reports the *tracked* ones by ParameterStatus, so client and server each have a known value;
before a server serves a client, those that differ are set (PgBouncer's "tracked variables"). With them
go the other parameters of the client's start-up packet, see ``wire.unreported``.

Values are kept as one tuple, the tracked ones in the tracker's order and the unreported ones as the
last item: comparing two tuples of the same strings costs about as much as one attribute look-up, and
most clients share their strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from poolproxy.errors import PoolerError
from poolproxy.wire import unreported

Values: TypeAlias = tuple[str | None, ...]

ALWAYS_TRACKED = (
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "standard_conforming_strings",
    "application_name",
)
SEARCH_PATH = "search_path"
MAX_VALUE = 1024  # bytes: no tracked setting is longer, and each idle client keeps its values


class Tracker:
    """Which parameters are tracked: the fixed ones and track_extra_parameters."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        names = {name.lower(): name for name in (*ALWAYS_TRACKED, *extra)}
        self.names = tuple(names.values())
        self._index = {name: i for i, name in enumerate(names)}
        self.nothing: Values = (None,) * (len(self.names) + 1)

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
        """The values of a server that reports these parameters and has been given no others."""
        result = self.nothing
        for name, value in parameters.items():
            result = self.updated(result, name, value)
        return result

    def translated(self, values: Values, names: Iterable[str]) -> Values:
        """``values`` of a tracker with these ``names``, as this one would have them: None for what the other
        does not track.
        """
        known = dict(zip((name.lower() for name in names), values[:-1], strict=True))
        return (*(known.get(name) for name in self._index), values[-1])

    def wished(self, parameters: Mapping[str, str], defaults: Values) -> Values:
        """The values of a client with these start-up parameters, where servers report ``defaults``.

        What is tracked and not reported goes with the unreported ones. Raises PoolerError for a value
        that is too long to keep.
        """
        result = defaults
        others: dict[str, str] = {}
        for name, value in parameters.items():
            index = self._index.get(name.lower())
            if index is None or defaults[index] is None:
                others[name] = value
            else:
                result = self.updated(result, name, _kept(name, value))
        return (*result[:-1], unreported.pack(others))

    def others(self, values: Values) -> dict[str, str]:
        """The unreported ones among ``values``, by lower-case name."""
        return unreported.unpack(values[-1])

    def place(self, values: Values) -> str:
        """What is known of that which decides what tables a statement's names stand for."""
        index = self._index.get(SEARCH_PATH)
        tracked = None if index is None else values[index]
        others = self.others(values)
        path = tracked or others.get(SEARCH_PATH, "")
        role = others.get(unreported.ROLE, "")
        return f"{path}\0{role}" if path or role else ""

    def given(self, server: Values, client: Values) -> Values:
        """The values of a server that has been brought to a client's, but for what it reports itself."""
        return (*server[:-1], client[-1])

    def default(self, values: Values) -> Values:
        """``values`` of a server whose unreported parameters have been reset."""
        return (*values[:-1], None)

    def set_statement(self, server: Values, client: Values) -> str:
        """The SQL that brings a server to a client's values; "" if nothing differs.

        A tracked parameter without a value on either side is left alone. The SQL is ASCII, which is the same
        in every client_encoding: in some (SJIS, BIG5) a byte of a character is a backslash or a quote.
        """
        tracked: list[tuple[str, str | None]] = [
            (name, theirs)
            for name, ours, theirs in zip(self.names, server[:-1], client[:-1], strict=True)
            if ours is not None and theirs is not None and ours.lower() != theirs.lower()
        ]
        # set_config reads a list (search_path) as it is reported; SET would take it for one name. With
        # NULL it is RESET.
        changes = [
            f"pg_catalog.set_config({_quote(name)},{'NULL' if value is None else _quote(value)},false)"
            for name, value in (*tracked, *unreported.changes(server[-1], client[-1]))
        ]
        return "SELECT " + ",".join(changes) if changes else ""

    def canonical(self, client: Values, server: Values) -> Values:
        """The client's values as the server reports them, once it has been brought to them."""
        reported = [
            c if c is None or s is None else s
            for c, s in zip(client[:-1], server[:-1], strict=True)
        ]
        return (*reported, client[-1])

    def items(self, values: Values) -> Iterable[tuple[str, str]]:
        """(name, value) of the tracked ones that have a value."""
        return [(n, v) for n, v in zip(self.names, values[:-1], strict=True) if v is not None]


def _kept(name: str, value: str) -> str:
    if len(value) > MAX_VALUE:
        raise PoolerError(
            f"invalid value for startup parameter: {name} is too long", reason="startup_parameter"
        )
    if name.lower() == "application_name":
        return "".join(c if " " <= c <= "~" else "?" for c in value)  # as PostgreSQL does
    return value


def _quote(value: str) -> str:
    quoted = value.replace("'", "''")
    if "\\" not in quoted and quoted.isascii() and quoted.isprintable():
        return f"'{quoted}'"
    return "E'" + "".join(_escaped(character) for character in quoted) + "'"


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isascii() and character.isprintable():
        return character
    return f"\\U{ord(character):08x}"
