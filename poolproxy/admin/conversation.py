"""A console client's conversation, sans-I/O: PostgreSQL's simple and extended query protocol.

It is fed one message after the other, never the next one while a command runs (``Step.call``). The command
is executed elsewhere, and its rows and its end come back through :meth:`Conversation.rows` and
:meth:`Conversation.end`. PgBouncer's console knows only the simple protocol; many drivers know only the
other.

A row limit of Execute is not heeded: the answers are short, and drivers take more than they have asked for.

https://www.postgresql.org/docs/current/protocol-flow.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import attrs

from poolproxy.admin.column import Column, Row, Type, in_binary
from poolproxy.admin.command import SET_IGNORED, Call, check_rights, console_error
from poolproxy.admin.registry import help_text, parse
from poolproxy.admin.shows.help import HELP
from poolproxy.errors import PoolerError
from poolproxy.wire import build
from poolproxy.wire.codes import (
    BIND,
    BIND_COMPLETE,
    CLOSE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DATA_ROW,
    DESCRIBE,
    EMPTY_QUERY_RESPONSE,
    EXECUTE,
    FLUSH,
    NO_DATA,
    PARAMETER_DESCRIPTION,
    PARSE,
    PARSE_COMPLETE,
    QUERY,
    ROW_DESCRIPTION,
    SYNC,
    TERMINATE,
)

MAX_NAMES = 1000  # prepared statements and portals that one client may have
PARAMETERS = {
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "DateStyle": "ISO",
    "TimeZone": "GMT",
    "standard_conforming_strings": "on",
    "is_superuser": "on",
}


@attrs.frozen
class Prepared:
    """A command that was parsed; None is the empty query. ``binary``: by column, in a portal."""

    text: str
    call: Call | None
    binary: tuple[bool, ...] = ()


@attrs.frozen
class Step:
    """What to do about a message: send ``reply``, execute ``call``, or end the connection."""

    reply: bytes = b""
    call: Call | None = None
    text: str = ""
    over: bool = False


class Conversation:
    """One client. ``admin``: it may give every command."""

    def __init__(self, *, admin: bool) -> None:
        self._admin = admin
        self._statements: dict[str, Prepared] = {}
        self._portals: dict[str, Prepared] = {}
        self._skipping = False  # up to the next Sync
        self._simple = False  # the running command came in a Query
        self._running = Prepared("", None)

    def take(self, code: int, body: bytes) -> Step:
        """The next message of the client; raises PoolerError where the connection must end."""
        if code == TERMINATE:
            return Step(over=True)
        if code == SYNC:
            self._skipping = False
            return Step(build.ready_for_query())
        if self._skipping or code in (FLUSH, COPY_DATA, COPY_DONE, COPY_FAIL):
            return Step()
        take = {
            QUERY: self._query,
            PARSE: self._parse,
            BIND: self._bind,
            DESCRIBE: self._describe,
            EXECUTE: self._execute,
            CLOSE: self._close,
        }.get(code)
        if take is None:
            raise PoolerError("unknown pkt", hint=f"Message type {code:#04x} has no use here.")
        try:
            return take(body)
        except PoolerError as error:
            if error.severity == "FATAL":
                raise
            return Step(self._failed(error, simple=code == QUERY))

    # -- the simple protocol ----------------------------------------------------------------------

    def _query(self, body: bytes) -> Step:
        text = _Body(body).text()
        call = self._command(text)
        if call is None:
            return Step(build.message(EMPTY_QUERY_RESPONSE, b"") + build.ready_for_query())
        self._simple = True
        self._running = Prepared(text, call)
        step = self._run()
        return attrs.evolve(step, reply=_description(call.columns) + step.reply)

    # -- the extended protocol --------------------------------------------------------------------

    def _parse(self, body: bytes) -> Step:
        fields = _Body(body)
        name, text = fields.text(), fields.text()
        if name and name in self._statements:
            raise console_error(f'prepared statement "{name}" already exists', "42P05")
        self._keep(self._statements, name, Prepared(text, self._command(text)))
        return Step(build.message(PARSE_COMPLETE, b""))

    def _bind(self, body: bytes) -> Step:
        fields = _Body(body)
        portal, name = fields.text(), fields.text()
        prepared = self._statement(name)
        fields.numbers(fields.number())  # the formats of parameters
        if fields.number():
            raise console_error("the console's commands have no parameters", "08P01")
        formats = fields.numbers(fields.number())
        columns = prepared.call.columns if prepared.call is not None else ()
        if len(formats) == 1:
            formats *= len(columns)
        if formats and len(formats) != len(columns):
            raise console_error(f"bind message has {len(formats)} result formats", "08P01")
        bound = attrs.evolve(prepared, binary=tuple(format == 1 for format in formats))
        self._keep(self._portals, portal, bound)
        return Step(build.message(BIND_COMPLETE, b""))

    def _describe(self, body: bytes) -> Step:
        fields = _Body(body)
        kind, name = fields.kind(), fields.text()
        if kind == "S":
            prepared, before = self._statement(name), build.message(PARAMETER_DESCRIPTION, b"\0\0")
        else:
            prepared, before = self._portal(name), b""
        columns = prepared.call.columns if prepared.call is not None else ()
        described = _description(columns, prepared.binary) or build.message(NO_DATA, b"")
        return Step(before + described)

    def _execute(self, body: bytes) -> Step:
        prepared = self._portal(_Body(body).text())
        if prepared.call is None:
            return Step(build.message(EMPTY_QUERY_RESPONSE, b""))
        self._simple, self._running = False, prepared
        return self._run()

    def _close(self, body: bytes) -> Step:
        fields = _Body(body)
        kept = self._statements if fields.kind() == "S" else self._portals
        kept.pop(fields.text(), None)
        return Step(build.message(CLOSE_COMPLETE, b""))

    def _statement(self, name: str) -> Prepared:
        try:
            return self._statements[name]
        except KeyError:
            raise console_error(f'prepared statement "{name}" does not exist', "26000") from None

    def _portal(self, name: str) -> Prepared:
        try:
            return self._portals[name]
        except KeyError:
            raise console_error(f'portal "{name}" does not exist', "34000") from None

    @staticmethod
    def _keep(kept: dict[str, Prepared], name: str, prepared: Prepared) -> None:
        if name not in kept and len(kept) >= MAX_NAMES:
            raise console_error("too many prepared statements", "53400")
        kept[name] = prepared

    # -- commands ---------------------------------------------------------------------------------

    def _command(self, text: str) -> Call | None:
        call = parse(text)
        if call is not None:
            check_rights(call, admin=self._admin)
        return call

    def _run(self) -> Step:
        """Execute what is running; what needs nobody else is answered at once."""
        prepared, call = self._running, self._running.call
        assert call is not None
        if call.command is HELP:
            notice = build.notice_response("Console usage", detail=help_text())
            return Step(notice + self.end(call.tag))
        if call.command is SET_IGNORED:
            return Step(build.notice_response("SET ignored") + self.end(call.tag))
        return Step(call=call, text=prepared.text)

    def rows(self, rows: Iterable[Row]) -> bytes:
        """Rows of the running command."""
        call = self._running.call
        assert call is not None
        binary = self._running.binary or (False,) * len(call.columns)
        how = tuple(zip(call.columns, binary, strict=True))
        return b"".join(_data_row(row, how) for row in rows)

    def end(self, tag: str) -> bytes:
        """The running command has ended well."""
        done = build.message(COMMAND_COMPLETE, tag.encode() + b"\0")
        return done + (build.ready_for_query() if self._simple else b"")

    def failed(self, error: PoolerError) -> bytes:
        """The running command has failed."""
        return self._failed(error, simple=self._simple)

    def _failed(self, error: PoolerError, *, simple: bool) -> bytes:
        self._skipping = not simple
        return build.error_response(error) + (build.ready_for_query() if simple else b"")


class _Body:
    """Reads a message's fields; raises PoolerError for one that is cut."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def text(self) -> str:
        end = self._data.find(b"\0", self._position)
        if end < 0:
            raise _broken()
        found = self._data[self._position : end]
        self._position = end + 1
        return found.decode("utf-8", "replace")

    def kind(self) -> str:
        self._position += 1
        kind = self._data[self._position - 1 : self._position]
        if kind not in (b"S", b"P"):
            raise _broken()
        return kind.decode()

    def number(self) -> int:
        return self.numbers(1)[0]

    def numbers(self, count: int) -> tuple[int, ...]:
        try:
            found = struct.unpack_from(f">{count}H", self._data, self._position)
        except struct.error:
            raise _broken() from None
        self._position += 2 * count
        return found


def _broken() -> PoolerError:
    return PoolerError("failed to parse packet", hint="A message is cut or malformed.")


def _description(columns: Sequence[Column], binary: Sequence[bool] = ()) -> bytes:
    """RowDescription; nothing where there are no columns."""
    if not columns:
        return b""
    binary = binary or (False,) * len(columns)
    fields = b"".join(
        column.name.encode()
        # no table, no attribute number; type, its size, no modifier; format
        + struct.pack(">xIhIhih", 0, 0, column.type.value, column.type.size, -1, format)
        for column, format in zip(columns, binary, strict=True)
    )
    return build.message(ROW_DESCRIPTION, struct.pack(">H", len(columns)) + fields)


def _data_row(row: Row, how: Sequence[tuple[Column, bool]]) -> bytes:
    parts = [struct.pack(">H", len(row))]
    for text, (column, binary) in zip(row, how, strict=True):
        if text is None:
            parts.append(struct.pack(">i", -1))
            continue
        data = in_binary(column.type if binary else Type.TEXT, text)
        parts.append(struct.pack(">i", len(data)) + data)
    return build.message(DATA_ROW, b"".join(parts))


def greeting(server_version: str) -> bytes:
    """The parameters that a console client is welcomed with."""
    parameters = {"server_version": f"{server_version}/bouncer", **PARAMETERS}
    return b"".join(build.parameter_status(name, value) for name, value in parameters.items())
