"""libpq's password file: lines ``host:port:database:user:password``.

A field may be ``*``; a backslash takes the next character as it is. The first line that fits counts.
https://www.postgresql.org/docs/current/libpq-pgpass.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

from poolproxy.errors import Mistake

_FIELD = re.compile(r"(?:\\.|[^\\:])*+")
_ESCAPE = re.compile(r"\\(.)")
_FIELDS = 5


@attrs.frozen
class PassLine:
    """One line; None is any."""

    host: str | None
    port: str | None
    database: str | None
    user: str | None
    password: str = attrs.field(repr=False)

    def fits(self, hosts: Iterable[str], port: int, database: str, user: str) -> bool:
        """Whether it is for a server that is known by one of the names ``hosts``."""
        return (
            (self.host is None or self.host in hosts)
            and self.port in (None, str(port))
            and self.database in (None, database)
            and self.user in (None, user)
        )


def parse_passfile(text: str, source: str) -> tuple[tuple[PassLine, ...], tuple[Mistake, ...]]:
    """The lines, and the mistakes with their ``source:line``; never raises, shows no password."""
    found: list[PassLine] = []
    mistakes: list[Mistake] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or line.startswith("#"):
            continue
        parts = _split(line)
        if len(parts) != _FIELDS or not parts[-1] or "\0" in line:
            fault = "expected host:port:database:user:password"
            mistakes.append(Mistake(f"{source}:{number}", fault))
            continue
        *names, password = parts
        host, port, database, user = (_name(name) for name in names)
        found.append(PassLine(host, port, database, user, _ESCAPE.sub(r"\1", password)))
    return tuple(found), tuple(mistakes)


def _split(line: str) -> list[str]:
    """Four fields, and all the rest: libpq reads the password up to the next colon."""
    parts: list[str] = []
    position = 0
    while len(parts) < _FIELDS:
        match = _FIELD.match(line, position)
        assert match is not None  # it matches nothing as well
        parts.append(match[0])
        position = match.end() + 1
        if match.end() == len(line):
            break
    return parts


def _name(field: str) -> str | None:
    return None if field == "*" else _ESCAPE.sub(r"\1", field)


def password_for(
    lines: tuple[PassLine, ...], host: str, port: int, database: str, user: str
) -> str | None:
    """The password of the first line that fits; a Unix socket is known as localhost, too."""
    hosts = (host, "localhost") if host.startswith(("/", "@")) else (host,)
    return next((line.password for line in lines if line.fits(hosts, port, database, user)), None)
