"""A small client of the console, for the commands that need one: no driver has to be installed for them."""

from __future__ import annotations

import base64
import os
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
import click

from poolproxy.auth.exchange import Compute
from poolproxy.auth.passfile import parse_passfile, password_for
from poolproxy.auth.server import Fail, Reply, ServerExchange
from poolproxy.cli.console_tls import TlsRefused, secured
from poolproxy.cli.where import Target
from poolproxy.wire.build import password_message, query
from poolproxy.wire.codes import (
    AUTHENTICATION,
    COMMAND_COMPLETE,
    DATA_ROW,
    ERROR_RESPONSE,
    NOTICE_RESPONSE,
    READY_FOR_QUERY,
    ROW_DESCRIPTION,
)
from poolproxy.wire.read import MessageReader, error_fields
from poolproxy.wire.startup import startup_message

MAX_MESSAGE = 1 << 24  # bytes
TIMEOUT = 10.0  # seconds to connect and log in; an answer may take longer (PAUSE)


class ConsoleError(Exception):
    """The console can't be reached, or does not like what it was asked; the text is for the user."""


@attrs.frozen
class Answer:
    """What a command has answered. None in ``rows`` is NULL."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    tag: str
    notices: tuple[str, ...]


class Console:
    """A connection to the console; raises ConsoleError. ``patience``: seconds for each answer, if any."""

    def __init__(self, where: Target, patience: float | None = None) -> None:
        self._where = where
        self._messages = MessageReader(MAX_MESSAGE)
        try:
            self._sock = _connected(where)
        except (OSError, TlsRefused) as error:
            raise ConsoleError(
                f"can't connect to {where.host}, port {where.port}: {error}"
            ) from None
        try:
            self._log_in()
            self._sock.settimeout(patience)
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sock.close()

    def ask(self, command: str) -> Answer:
        """Give a command and read its answer."""
        self._send(query(command))
        columns: tuple[str, ...] = ()
        rows: list[tuple[str | None, ...]] = []
        notices: list[str] = []
        tag, error = "", ""
        while True:
            code, body = self._read()
            if code == ROW_DESCRIPTION:
                columns = tuple(_columns(body))
            elif code == DATA_ROW:
                rows.append(_row(body))
            elif code == NOTICE_RESPONSE:
                notices.append(_notice(body))
            elif code == COMMAND_COMPLETE:
                tag = body[:-1].decode()
            elif code == ERROR_RESPONSE:
                error = _error(body)
            elif code == READY_FOR_QUERY:
                if error:
                    raise ConsoleError(error)
                return Answer(columns, tuple(rows), tag, tuple(notices))

    def _log_in(self) -> None:
        where = self._where
        self._send(startup_message({"user": where.user, "database": "pgbouncer"}))
        nonce = base64.b64encode(os.urandom(18)).decode()
        exchange = ServerExchange(where.user, None, _password(where), None, nonce)
        while True:
            code, body = self._read()
            if code == ERROR_RESPONSE:
                raise ConsoleError(_error(body))
            if code == READY_FOR_QUERY:
                return
            if code != AUTHENTICATION:
                continue
            step = exchange.feed(int.from_bytes(body[:4], "big"), body[4:])
            while isinstance(step, Compute):
                step = exchange.computed(step.request.derive())
            if isinstance(step, Reply):
                self._send(password_message(step.payload))
            elif isinstance(step, Fail):
                raise ConsoleError(
                    f"{step.error.message}: set PGPASSWORD, or have a line in ~/.pgpass"
                )

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise ConsoleError(f"the connection is lost: {error}") from None

    def _read(self) -> tuple[int, bytes]:
        while True:
            message = self._messages.next_message()
            if message is not None:
                return message
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                raise ConsoleError("no answer in time") from None
            except OSError as error:
                raise ConsoleError(f"the connection is lost: {error}") from None
            if not data:
                raise ConsoleError("the console has closed the connection")
            self._messages.feed(data)


def _connected(where: Target) -> socket.socket:
    if not where.host.startswith("/"):
        sock = socket.create_connection((where.host, where.port), TIMEOUT)
        try:
            return secured(sock, where.host, where.tls)
        except BaseException:
            sock.close()
            raise
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(f"{where.host}/.s.PGSQL.{where.port}")
    except BaseException:
        sock.close()
        raise
    return sock


def _password(where: Target) -> str | None:
    """That of the URL, or PGPASSWORD, else the line of PGPASSFILE or ~/.pgpass, as with libpq."""
    given = where.password or os.environ.get("PGPASSWORD")
    if given is not None:
        return given
    file = Path(os.environ.get("PGPASSFILE", "~/.pgpass")).expanduser()
    try:
        lines, _ = parse_passfile(file.read_text(), str(file))
    except (OSError, UnicodeDecodeError):
        return None
    return password_for(lines, where.host, where.port, "pgbouncer", where.user)


def _columns(body: bytes) -> list[str]:
    names, position = [], 2
    for _ in range(int.from_bytes(body[:2], "big")):
        end = body.index(b"\0", position)
        names.append(body[position:end].decode())
        position = end + 19  # the zero byte, and what is told of the type
    return names


def _row(body: bytes) -> tuple[str | None, ...]:
    cells: list[str | None] = []
    position = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        (size,) = struct.unpack_from(">i", body, position)
        position += 4
        cells.append(None if size < 0 else body[position : position + size].decode())
        position += max(0, size)
    return tuple(cells)


def _fields(body: bytes) -> dict[str, str]:
    return {chr(item[0]): item[1:].decode("utf-8", "replace") for item in body.split(b"\0") if item}


def _notice(body: bytes) -> str:
    fields = _fields(body)
    return f"{fields.get('M', '')}{fields.get('D', '')}"


def _error(body: bytes) -> str:
    hint = _fields(body).get("H", "")
    return error_fields(body).message + (f" ({hint})" if hint else "")


def connected(where: Target, patience: float | None = None) -> Console:
    """The console; if it can't be had, the reason goes to stderr and the process ends (status 1)."""
    try:
        return Console(where, patience)
    except ConsoleError as error:
        click.echo(f"poolproxy: {error}", err=True)
        raise click.exceptions.Exit(1) from None
