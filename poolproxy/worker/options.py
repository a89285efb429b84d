"""What a client asks for in its start-up packet.

Keys as PgBouncer takes them: database, user, options, replication, the tracked parameters, and
those of ignore_startup_parameters. https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from poolproxy.errors import PoolerError
from poolproxy.settings.schema import Settings
from poolproxy.wire.parameters import Tracker, Values
from poolproxy.wire.startup import MAX_DATABASE, MAX_USER, Startup

# One word of options: a backslash takes the next character as it is.
_WORD = re.compile(r"(?:\\.|[^\\\s])+", re.ASCII | re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_OPTIONS_HINT = "Set it with SET after connecting, or name it in ignore_startup_parameters."


@attrs.frozen
class Wishes:
    """``values``: the tracked parameters that the client gave, None for the others.

    ``negotiate``: the client must be told that only protocol 3.0 is spoken, and which ``_pq_.`` options
    are unknown.
    """

    database: str
    user: str
    values: Values
    negotiate: bool
    unknown_options: tuple[str, ...]


def wishes(startup: Startup, settings: Settings, tracker: Tracker) -> Wishes:
    """Read a StartupMessage; raises PoolerError with PgBouncer's text for what can't be had."""
    user = startup.parameters.get("user", "")
    if not user:
        raise PoolerError("no username supplied", sqlstate="28000", reason="no_user")
    if len(user.encode()) > MAX_USER:
        raise PoolerError("username too long", sqlstate="28000", reason="no_user")
    database = startup.parameters.get("database") or user
    if len(database.encode()) > MAX_DATABASE:
        raise PoolerError("database name too long", sqlstate="3D000", reason="no_such_database")
    parameters: dict[str, str] = {}
    for name, value in startup.parameters.items():
        parameters.update(_parameter(name, value, settings, tracker))
    unknown = tuple(name for name in startup.parameters if name.startswith("_pq_."))
    return Wishes(
        database, user, tracker.values(parameters), startup.minor > 0 or bool(unknown), unknown
    )


def _parameter(name: str, value: str, settings: Settings, tracker: Tracker) -> dict[str, str]:
    if name in ("user", "database") or name.startswith("_pq_."):
        return {}
    if name == "options":
        return dict(_options(value, settings, tracker))
    if tracker.tracks(name):
        return {name: value}
    if name == "replication" and value.lower() in ("false", "off", "no", "0"):
        return {}
    if name in settings.ignore_startup_parameters:
        return {}
    raise PoolerError(
        f"unsupported startup parameter: {name}",
        hint=_OPTIONS_HINT if name != "replication" else "Connect to the server directly for it.",
        reason="startup_parameter",
    )


def _options(text: str, settings: Settings, tracker: Tracker) -> Iterator[tuple[str, str]]:
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
        if tracker.tracks(name):
            yield name, value
        elif not {name, "options"} & set(settings.ignore_startup_parameters):
            raise PoolerError(
                f"unsupported startup parameter in options: {name}",
                hint=_OPTIONS_HINT,
                reason="startup_parameter",
            )


def _dashed(word: str) -> str:
    # PostgreSQL reads dashes in a name as underscores.
    name, equals, value = word.partition("=")
    return name.replace("-", "_") + equals + value
