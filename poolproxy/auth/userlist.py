"""PgBouncer's auth_file: ``"user" "secret"`` on each line.

Unlike PgBouncer, which stops at the first broken line without a word (and then refuses the users
after it), every line is read and every broken one reported.

Behind the secret, where PgBouncer reads nothing, a line may name groups for the rules of auth_hba_file:
``"ann" "secret" +admins +"night shift"``.
"""

from __future__ import annotations

import re

from poolproxy.auth.secrets import parse_secret, text_bytes
from poolproxy.errors import Mistake

# PgBouncer's limits.
MAX_USER_BYTES = 127
MAX_SECRET_BYTES = 65530

# The possessive quantifiers forbid taking half of an escaped quote ("") for the end of a value.
_QUOTED = r'"((?:[^"]|"")*+)"'
# What stands between and behind the two values is skipped, as PgBouncer does.
_LINE = re.compile(rf'{_QUOTED}[^"]*+{_QUOTED}')
_GROUP = re.compile(rf'(?<=\s)\+(?:{_QUOTED}|([^\s",+]+))(?=\s|$)')


def parse_userlist(text: str, source: str) -> tuple[dict[str, str], tuple[Mistake, ...]]:
    """The secrets by user name, and the mistakes with their ``source:line``; never raises.

    A broken line is left out; a user given twice is a mistake too, and the later line counts, as
    in PgBouncer. No mistake shows a secret. Each secret can be fed to ``parse_secret``.
    """
    secrets: dict[str, str] = {}
    lines: dict[str, int] = {}
    mistakes: list[Mistake] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith(";"):
            continue
        try:
            user, secret = _parse_line(line)
        except ValueError as error:
            mistakes.append(Mistake(f"{source}:{number}", str(error)))
            continue
        if user in lines:
            fault = f'user "{user}" is already on line {lines[user]}; this line replaces it'
            mistakes.append(Mistake(f"{source}:{number}", fault))
        secrets[user], lines[user] = secret, number
    return secrets, tuple(mistakes)


def parse_groups(text: str) -> dict[str, frozenset[str]]:
    """The users of each group; what is no line of a user is left out."""
    groups: dict[str, frozenset[str]] = {}
    for line in text.removeprefix("\ufeff").split("\n"):
        match = _LINE.match(line.strip())
        if match is None:
            continue
        user = match[1].replace('""', '"')
        for quoted, bare in _GROUP.findall(line.strip()[match.end() :]):
            group = quoted.replace('""', '"') or bare
            groups[group] = groups.get(group, frozenset()) | {user}
    return groups


def _parse_line(line: str) -> tuple[str, str]:
    match = _LINE.match(line)
    if match is None:
        raise ValueError(
            'expected "user" "password", both in double quotes; a quote inside is written twice'
        )
    user, secret = (value.replace('""', '"') for value in match.groups())
    if not user:
        raise ValueError("the user name is empty")
    if len(text_bytes(user)) > MAX_USER_BYTES:
        raise ValueError(f"the user name has more than {MAX_USER_BYTES} bytes")
    if len(text_bytes(secret)) > MAX_SECRET_BYTES:
        raise ValueError(f'the password of user "{user}" has more than {MAX_SECRET_BYTES} bytes')
    if "\0" in user + secret:
        raise ValueError("a NUL byte can't be part of a user name or a password")
    try:
        parse_secret(secret)
    except ValueError as error:
        raise ValueError(f'user "{user}": {error}') from None
    return user, secret
