"""What a client asks for in its start-up packet.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import attrs

from poolproxy.errors import PoolerError
from poolproxy.settings.schema import Settings
from poolproxy.wire.parameters import Tracker
from poolproxy.wire.startup import MAX_DATABASE, MAX_USER, PROTOCOL_OPTION, Startup

# One word of options: a backslash takes the next character as it is.
_WORD = re.compile(r"(?:\\.|[^\\\s])+", re.ASCII | re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# What PostgreSQL takes for a parameter's name, if it is ASCII.
_NAME = re.compile(r"[a-z_][a-z0-9_$]*(?:\.[a-z_][a-z0-9_$]*)*", re.ASCII | re.IGNORECASE)
# It replaces the user that all else on the server connection is granted to.
_FORBIDDEN = "session_authorization"
_NOT_PARAMETERS = frozenset(("user", "database", "options", "replication"))

_HINT = "It is no name of a parameter that can be set; ignore_startup_parameters drops it."
_TRUE = ("true", "on", "yes", "1")
_FALSE = ("false", "off", "no", "0")


@attrs.frozen
class Wishes:
    """``parameters``: by their names as given, those to ignore left out.

    ``replication``: the value of that parameter for PostgreSQL, "" for an ordinary connection.
    """

    database: str
    user: str
    parameters: dict[str, str]
    replication: str = ""


def wishes(startup: Startup, settings: Settings, tracker: Tracker) -> Wishes:
    """Read a StartupMessage; raises PoolerError with PgBouncer's text for what can't be had."""
    given = startup.parameters
    user = given.get("user", "")
    if not user:
        raise PoolerError("no username supplied", sqlstate="28000", reason="no_user")
    if len(user.encode()) > MAX_USER:
        raise PoolerError("username too long", sqlstate="28000", reason="no_user")
    database = startup.database
    if len(database.encode()) > MAX_DATABASE:
        raise PoolerError("database name too long", sqlstate="3D000", reason="no_such_database")
    ignored = {name.lower() for name in settings.ignore_startup_parameters}
    # What stands in the packet itself goes before what stands in its options, as in PostgreSQL.
    parameters = dict(_options(given.get("options", ""), ignored, tracker))
    for name, value in _own(given, ignored, tracker):
        parameters = {n: v for n, v in parameters.items() if n.lower() != name.lower()}
        parameters[name] = value
    return Wishes(database, user, parameters, _replication(given.get("replication")))


def _own(
    given: Mapping[str, str], ignored: set[str], tracker: Tracker
) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if name in _NOT_PARAMETERS or name.startswith(PROTOCOL_OPTION):
            continue
        if not tracker.tracks(name) and name.lower() in ignored:
            continue
        if not _may_be_set(name):
            raise PoolerError(
                f"unsupported startup parameter: {name}", hint=_HINT, reason="startup_parameter"
            )
        yield name, value


def _options(text: str, ignored: set[str], tracker: Tracker) -> Iterator[tuple[str, str]]:
    """``-c name=value``, ``-cname=value`` and ``--name=value``."""
    words = iter([_ESCAPE.sub(r"\1", word) for word in _WORD.findall(text)])
    for word in words:
        if word == "-c":
            word = _dashed(next(words, ""))
        elif word.startswith(("-c", "--")):
            word = _dashed(word[2:])
        else:
            word = ""
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise PoolerError(
                "unsupported options startup parameter:"
                " only '-c config=val' and '--config=val' are allowed",
                reason="startup_parameter",
            )
        if not tracker.tracks(name) and ignored & {name.lower(), "options"}:
            continue
        if not _may_be_set(name):
            raise PoolerError(
                f"unsupported startup parameter in options: {name}",
                hint=_HINT,
                reason="startup_parameter",
            )
        yield name.lower(), value


def _dashed(word: str) -> str:
    # PostgreSQL reads dashes in a name as underscores.
    name, equals, value = word.partition("=")
    return name.replace("-", "_") + equals + value


def _may_be_set(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name.lower() != _FORBIDDEN


def _replication(value: str | None) -> str:
    """As PostgreSQL reads it: "database", or a boolean in any abbreviation."""
    if value == "database":
        return value
    if value is None or _abbreviates(value.lower(), _FALSE):
        return ""
    if _abbreviates(value.lower(), _TRUE):
        return "true"
    raise PoolerError(
        f'invalid value for parameter "replication": "{value}"',
        sqlstate="22023",
        hint='Valid values are: "false", 0, "true", 1, "database".',
        reason="startup_parameter",
    )


def _abbreviates(value: str, words: tuple[str, ...]) -> bool:
    # "o" could be on or off.
    return value not in ("", "o") and any(word.startswith(value) for word in words)
