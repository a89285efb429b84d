"""What a command of the console is, and how it is read.

The grammar is PgBouncer's: one command in a query, case-insensitive, a semicolon behind it if one likes;
``CMD [word]``, ``SET key = value`` and ``SET key TO value``. A word is of letters, digits and underscores, or
stands in double quotes. ``SELECT x`` means ``SHOW x``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import attrs

from poolproxy.admin.column import Column, Row
from poolproxy.admin.view import View
from poolproxy.errors import PoolerError


def console_error(text: str, sqlstate: str = "08P01", hint: str = "") -> PoolerError:
    """An error of the console: it says what is wrong with a command, and the connection goes on."""
    return PoolerError(text, sqlstate=sqlstate, hint=hint, severity="ERROR", reason="console")


class Source(Enum):
    """Where the rows of a SHOW come from."""

    ACCEPTOR = "acceptor"  # its own knowledge, and the last reports of workers
    WORKERS = "workers"  # each worker makes its own rows


class Argument(Enum):
    """What may follow an order's verb. The value stands for it in HELP."""

    NONE = ""
    DATABASE = "<db>"
    OPTIONAL_DATABASE = "[<db>]"
    CLIENT = "<client-id>"
    WORKER = "<worker>"
    SHUTDOWN = "[WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]"
    SETTING = "key = arg"


@attrs.frozen
class Show:
    """A SHOW command. ``rows`` makes them of what the acceptor knows; None if the workers make them."""

    name: str
    columns: tuple[Column, ...]
    doc: str
    rows: Callable[[View], Iterable[Row]] | None = None
    admin_only: bool = False
    hidden: bool = False  # there for drivers, not for people

    @property
    def source(self) -> Source:
        return Source.WORKERS if self.rows is None else Source.ACCEPTOR


@attrs.frozen
class Order:
    """A command that changes something. ``everybody``: it needs no right to change anything."""

    verb: str
    argument: Argument
    doc: str
    everybody: bool = False

    @property
    def admin_only(self) -> bool:
        return not self.everybody


@attrs.frozen
class Call:
    """A command as it was given. ``value`` is what SET is to set ``argument`` to."""

    command: Show | Order
    tag: str
    argument: str = ""
    value: str = ""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of its answer; empty if it has no rows."""
        return self.command.columns if isinstance(self.command, Show) else ()


MAX_WORD = 128  # bytes, as PgBouncer's buffers
_WORD = r'[0-9a-z_]+|"(?:[^"]|"")*"'
_COMMAND = re.compile(rf"\s*(recycle\s+worker|[a-z_]+)(?:\s+({_WORD}))?\s*;?\s*", re.IGNORECASE)
_SET = re.compile(
    rf"\s*set\s+({_WORD})\s*(?:=|\s+to\s+)\s*('(?:[^']|'')*'|[^\s;']+)\s*;?\s*", re.IGNORECASE
)
IGNORED = frozenset(
    {
        *("client_encoding", "default_transaction_isolation", "standard_conforming_strings"),
        *("datestyle", "timezone", "application_name", "extra_float_digits"),
    }
)
SET_IGNORED = Order("SET", Argument.SETTING, "", everybody=True)


def parse(text: str, shows: Mapping[str, Show], orders: Mapping[str, Order]) -> Call | None:
    """The command in ``text``, None if it is empty; raises PoolerError for what is none."""
    if not text.strip(" \t\r\n;"):
        return None
    setting = _SET.fullmatch(text)
    if setting:
        return _set(unquoted(setting[1]), unquoted(setting[2]), orders)
    found = _COMMAND.fullmatch(text)
    if found is None:
        raise _invalid(text)
    verb, word = " ".join(found[1].upper().split()), unquoted(found[2] or "")
    if len(word.encode()) > MAX_WORD:
        raise console_error("bad arguments")
    if verb in ("SHOW", "SELECT"):
        show = shows.get(word.upper() or "HELP")
        if show is None:
            raise _invalid(text)
        return Call(show, "SHOW")
    order = orders.get(verb)
    if order is None:
        raise _invalid(text)
    _demand(order, word, text)
    return Call(order, verb, word)


def _set(key: str, value: str, orders: Mapping[str, Order]) -> Call:
    if len(key.encode()) > MAX_WORD or len(value.encode()) > 8 * MAX_WORD:
        raise console_error("bad arguments")
    if key.lower() in IGNORED:
        return Call(SET_IGNORED, "SET", key, value)
    order = orders["SET"]
    return Call(order, f"SET {key}={value}", key, value)


def _demand(order: Order, word: str, text: str) -> None:
    """Raise PoolerError if the word does not fit the order."""
    match order.argument:
        case Argument.DATABASE if not word:
            raise console_error("a database is required")
        case Argument.CLIENT if not re.fullmatch(r"(C-)?[0-9]{1,18}", word):
            raise console_error(
                "invalid client pointer supplied",
                hint="Give the number in column id of SHOW CLIENTS.",
            )
        case Argument.NONE if word:
            raise _invalid(text)
        case Argument.SETTING:
            raise _invalid(text)
        case Argument.WORKER if not re.fullmatch(r"[0-9]{1,4}", word):
            raise console_error(
                "a worker is required", hint="Give the number in column worker of SHOW WORKERS."
            )
        case Argument.SHUTDOWN if word.upper() not in ("", "WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"):
            raise _invalid(text)
        case _:
            pass


def unquoted(word: str) -> str:
    """A word without its quotes; doubled ones inside are one."""
    quote = word[:1]
    if quote in ('"', "'") and len(word) >= 2:
        return word[1:-1].replace(quote * 2, quote)
    return word


def _invalid(text: str) -> PoolerError:
    shown = text.strip()[:MAX_WORD]
    return console_error(f"invalid command '{shown}', use SHOW HELP;")


def check_rights(call: Call, *, admin: bool) -> None:
    """Raise PoolerError if this command is for administrators, and the client is none."""
    if call.command.admin_only and not admin:
        raise console_error(
            "admin access needed",
            sqlstate="42501",
            hint="The user must be in admin_users; those in stats_users may only look.",
        )
