"""What a statement does to the state of its session, by its first words.

Only what outlives a transaction counts: SET LOCAL, SET TRANSACTION, a temporary table ON COMMIT DROP or a
cursor without WITH HOLD leave nothing behind. https://www.postgresql.org/docs/current/sql-commands.html
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from enum import Enum, auto
from itertools import takewhile

import attrs

from poolproxy.wire.sql_words import STRING, Token, name

SET = "set"
LISTEN = "listen"
PREPARE = "prepare"
CURSOR = "cursor"
TEMP = "temp"
LOAD = "load"
# The kinds of session state; those in the second set are there to stay when a transaction is rolled back.
KINDS = (SET, LISTEN, PREPARE, CURSOR, TEMP, LOAD)
LASTING = frozenset((PREPARE, LOAD))

ROLE = b"role"
AUTHORIZATION = b"session_authorization"


class Does(Enum):
    """What an effect is; the last four are about transactions."""

    MARK = auto()  # something is there now
    CLEAR = auto()  # it is gone; without a name: all of its kind
    SAVEPOINT = auto()
    RELEASE = auto()
    REVERT = auto()  # ROLLBACK TO
    END = auto()  # COMMIT or ROLLBACK: the tag says which


@attrs.frozen
class Effect:
    """``name``: of the parameter, channel, statement and so on, or of the savepoint; b"" if not known.

    ``phrase`` names the statement to people.
    """

    does: Does
    kind: str = ""
    name: bytes = b""
    phrase: str = ""


@attrs.frozen
class Statement:
    """``group``: what its command tag says, see :data:`GROUPS`."""

    group: str
    effects: tuple[Effect, ...] = ()


# Tags of which the first words of the statement say more, and the groups they belong to: statements
# of a group can't be told apart by their tags. Others than these do nothing that could be seen.
GROUPS = {
    b"SET": "SET",
    b"RESET": "RESET",
    b"LISTEN": "LISTEN",
    b"UNLISTEN": "UNLISTEN",
    b"PREPARE": "PREPARE",
    b"DEALLOCATE": "DEALLOCATE",
    b"DEALLOCATE ALL": "DEALLOCATE",
    b"DECLARE CURSOR": "DECLARE",
    b"CLOSE CURSOR": "CLOSE",
    b"CLOSE CURSOR ALL": "CLOSE",
    b"LOAD": "LOAD",
    b"DISCARD ALL": "DISCARD",
    b"DISCARD TEMP": "DISCARD",
    b"CREATE TABLE": "CREATE",
    b"CREATE TABLE AS": "CREATE",
    b"CREATE VIEW": "CREATE",
    b"CREATE SEQUENCE": "CREATE",
    b"SELECT": "CREATE",  # of rows that went into a table
    b"DROP TABLE": "DROP",
    b"DROP VIEW": "DROP",
    b"DROP SEQUENCE": "DROP",
    b"SAVEPOINT": "SAVEPOINT",
    b"RELEASE": "RELEASE",
    b"ROLLBACK": "END",  # ROLLBACK TO, too, and a COMMIT that fails
    b"COMMIT": "END",
    b"PREPARE TRANSACTION": "END",
}
# What a statement of a group may have done whose words are not known. The others are taken to have done
# nothing: they could only have made the session cleaner.
FEARED = {
    "SET": Effect(Does.MARK, SET, phrase="SET"),
    "LISTEN": Effect(Does.MARK, LISTEN, phrase="LISTEN"),
    "PREPARE": Effect(Does.MARK, PREPARE, phrase="PREPARE"),
    "DECLARE": Effect(Does.MARK, CURSOR, phrase="DECLARE CURSOR"),
    "LOAD": Effect(Does.MARK, LOAD, phrase="LOAD"),
    "CREATE": Effect(Does.MARK, TEMP, phrase="CREATE TEMP"),
    "SAVEPOINT": Effect(Does.SAVEPOINT),
    "RELEASE": Effect(Does.RELEASE),
    "END": Effect(Does.REVERT),
}

_TEMP = frozenset((b"temp", b"temporary"))
_INTO = _TEMP | {b"local", b"global", b"unlogged", b"table"}  # what can stand before the name
_RELATIONS = frozenset((b"table", b"view", b"sequence"))
_QUERIES = frozenset((b"select", b"with", b"table", b"values", b"("))
# They concern the transaction, and end with it, or can't be set back by anything.
_HARMLESS = frozenset(
    (b"transaction_isolation", b"transaction_read_only", b"transaction_deferrable", b"seed")
)
_SPELLED = {  # what stands for a parameter's name
    (b"time", b"zone"): b"timezone",
    (b"session", b"authorization"): AUTHORIZATION,
    (b"xml", b"option"): b"xmloption",
    (b"names",): b"client_encoding",
    (b"schema",): b"search_path",
}
_CHARACTERISTICS = {
    b"isolation": b"default_transaction_isolation",
    b"read": b"default_transaction_read_only",
    b"deferrable": b"default_transaction_deferrable",
}


def statement(tokens: Sequence[Token], tracked: Container[bytes] = ()) -> Statement | None:
    """What the statement made of ``tokens`` does; None if its tag is in no group.

    ``tracked``: names of the parameters that need no watching.
    """
    first = tokens[0]
    if first in _READERS:
        return _READERS[first](tokens[1:])
    if first == b"set":
        return Statement("SET", _set(tokens[1:], tracked))
    if first == b"reset":
        return Statement("RESET", _reset(tokens[1:]))
    if first in _QUERIES:
        return _select(tokens)
    return None


def _mark(kind: str, named: bytes, phrase: str) -> tuple[Effect, ...]:
    return (Effect(Does.MARK, kind, named, phrase),)


def _clear(kind: str, *names: bytes) -> tuple[Effect, ...]:
    return tuple(Effect(Does.CLEAR, kind, named) for named in names)


def _shown(named: bytes) -> str:
    return "".join(chr(c) if c == 95 or (chr(c).isalnum() and c < 128) else "." for c in named)


# -- SET and RESET -------------------------------------------------------------------------------------


def _set(tokens: Sequence[Token], tracked: Container[bytes]) -> tuple[Effect, ...]:
    if tokens[:1] and tokens[0] in (b"local", b"transaction", b"constraints"):
        return ()
    if tokens[:2] == [b"session", b"characteristics"]:
        return tuple(
            Effect(Does.MARK, SET, parameter, "SET SESSION CHARACTERISTICS")
            for word, parameter in _CHARACTERISTICS.items()
            if word in tokens and parameter not in tracked
        )
    if tokens[:1] == [b"session"] and tokens[1:2] != [b"authorization"]:
        tokens = tokens[1:]
    parameter, rest = _parameter(tokens)
    if parameter in _HARMLESS or (parameter and parameter in tracked):
        return ()
    if rest[:1] and rest[0] in (b"to", b"="):
        rest = rest[1:]
    if rest == [b"default"] or (parameter == ROLE and rest == [b"none"]):
        return _set_back(parameter)
    if rest == [b"local"] and parameter == b"timezone":
        return _set_back(parameter)
    return _mark(SET, parameter, f"SET {_shown(parameter)}".rstrip())


def _reset(tokens: Sequence[Token]) -> tuple[Effect, ...]:
    if tokens == [b"all"]:
        return (Effect(Does.CLEAR, SET),)
    parameter, _ = _parameter(tokens)
    return _set_back(parameter)


def _set_back(parameter: bytes) -> tuple[Effect, ...]:
    if not parameter:
        return ()
    # Who one is in the session decides about the role, too.
    return _clear(SET, parameter, *((ROLE,) if parameter == AUTHORIZATION else ()))


def _parameter(tokens: Sequence[Token]) -> tuple[bytes, Sequence[Token]]:
    """The parameter's name, in small letters, and what stands behind it; b"" if it can't be read."""
    for words, spelled in _SPELLED.items():
        if tuple(tokens[: len(words)]) == words and tokens[len(words) : len(words) + 1] not in (
            [b"="],
            [b"to"],
        ):
            return spelled, tokens[len(words) :]
    parts = [name(token) for token in tokens[:1]]
    end = 1
    while tokens[end : end + 1] == [b"."] and end + 1 < len(tokens):
        parts.append(name(tokens[end + 1]))
        end += 2
    return b".".join(parts).lower() if parts and all(parts) else b"", tokens[end:]


# -- what has names ------------------------------------------------------------------------------------


def _listen(tokens: Sequence[Token]) -> Statement:
    return Statement("LISTEN", _mark(LISTEN, _name_at(tokens, 0), "LISTEN"))


def _unlisten(tokens: Sequence[Token]) -> Statement:
    return Statement("UNLISTEN", _gone(LISTEN, tokens, b"*"))


def _prepare(tokens: Sequence[Token]) -> Statement | None:
    if tokens[:1] == [b"transaction"] and tokens[1:2] == [STRING]:
        return Statement("END", (Effect(Does.END),))
    return Statement("PREPARE", _mark(PREPARE, _name_at(tokens, 0), "PREPARE"))


def _deallocate(tokens: Sequence[Token]) -> Statement:
    if tokens[:1] == [b"prepare"] and len(tokens) > 1:
        tokens = tokens[1:]
    return Statement("DEALLOCATE", _gone(PREPARE, tokens, b"all"))


def _declare(tokens: Sequence[Token]) -> Statement:
    head = tokens[: tokens.index(b"for")] if b"for" in tokens else tokens
    if list(head[-2:]) != [b"with", b"hold"]:
        return Statement("DECLARE")
    return Statement("DECLARE", _mark(CURSOR, _name_at(tokens, 0), "DECLARE CURSOR WITH HOLD"))


def _close(tokens: Sequence[Token]) -> Statement:
    return Statement("CLOSE", _gone(CURSOR, tokens, b"all"))


def _load(tokens: Sequence[Token]) -> Statement:
    return Statement("LOAD", _mark(LOAD, b"", "LOAD"))


def _discard(tokens: Sequence[Token]) -> Statement | None:
    if tokens == [b"all"]:
        kinds = [kind for kind in KINDS if kind != LOAD]
        everything = tuple(Effect(Does.CLEAR, kind) for kind in kinds)
        return Statement("DISCARD", everything + _clear(SET, AUTHORIZATION, ROLE))
    if tokens and tokens[0] in _TEMP:
        return Statement("DISCARD", (Effect(Does.CLEAR, TEMP),))
    return None


def _gone(kind: str, tokens: Sequence[Token], all_of_them: bytes) -> tuple[Effect, ...]:
    if list(tokens) == [all_of_them]:
        return (Effect(Does.CLEAR, kind),)
    named = _name_at(tokens, 0)
    return _clear(kind, named) if named else ()


def _name_at(tokens: Sequence[Token], index: int) -> bytes:
    return name(tokens[index]) if index < len(tokens) else b""


# -- temporary tables ----------------------------------------------------------------------------------


def _create(tokens: Sequence[Token]) -> Statement | None:
    what = next((i for i, token in enumerate(tokens[:6]) if token in _RELATIONS), None)
    if what is None:
        return None
    named = tokens[what + 1 :]
    if list(named[:3]) == [b"if", b"not", b"exists"]:
        named = named[3:]
    in_pg_temp, named = _in_pg_temp(named)
    temporary = in_pg_temp or not _TEMP.isdisjoint(tokens[:what])
    if not temporary or _drops_itself(tokens):
        return Statement("CREATE")
    phrase = f"CREATE TEMP {tokens[what].decode().upper()}"
    return Statement("CREATE", _mark(TEMP, _name_at(named, 0), phrase))


def _drops_itself(tokens: Sequence[Token]) -> bool:
    text = list(tokens)
    return any(text[i : i + 3] == [b"on", b"commit", b"drop"] for i in range(len(text) - 2))


def _select(tokens: Sequence[Token]) -> Statement:
    for i, token in enumerate(tokens):
        if token == b"into":
            kind = list(takewhile(_INTO.__contains__, tokens[i + 1 :]))
            in_pg_temp, named = _in_pg_temp(tokens[i + 1 + len(kind) :])
            if in_pg_temp or not _TEMP.isdisjoint(kind):
                return Statement("CREATE", _mark(TEMP, _name_at(named, 0), "SELECT INTO TEMP"))
    return Statement("CREATE")


def _in_pg_temp(named: Sequence[Token]) -> tuple[bool, Sequence[Token]]:
    """Whether this names something in the temporary schema, and what begins with the name alone."""
    if (_name_at(named, 0), *named[1:2]) == (b"pg_temp", b"."):
        return True, named[2:]
    return False, named


def _drop(tokens: Sequence[Token]) -> Statement | None:
    if not tokens or tokens[0] not in _RELATIONS:
        return None
    names = tokens[3:] if list(tokens[1:3]) == [b"if", b"exists"] else tokens[1:]
    if b"." in names:
        return Statement("DROP")  # of another schema, as far as is known
    return Statement("DROP", _clear(TEMP, *filter(None, map(name, names))))


# -- transactions --------------------------------------------------------------------------------------


def _savepoint(tokens: Sequence[Token]) -> Statement:
    return Statement("SAVEPOINT", (Effect(Does.SAVEPOINT, name=_name_at(tokens, 0)),))


def _release(tokens: Sequence[Token]) -> Statement:
    named = tokens[1:] if tokens[:1] == [b"savepoint"] and len(tokens) > 1 else tokens
    return Statement("RELEASE", (Effect(Does.RELEASE, name=_name_at(named, 0)),))


def _rollback(tokens: Sequence[Token]) -> Statement | None:
    if tokens[:1] == [b"prepared"]:
        return None
    if b"to" not in tokens:
        return Statement("END", (Effect(Does.END),))
    named = tokens[tokens.index(b"to") + 1 :]
    if named[:1] == [b"savepoint"] and len(named) > 1:
        named = named[1:]
    return Statement("END", (Effect(Does.REVERT, name=_name_at(named, 0)),))


def _commit(tokens: Sequence[Token]) -> Statement | None:
    return None if tokens[:1] == [b"prepared"] else Statement("END", (Effect(Does.END),))


_READERS: dict[Token, Callable[[Sequence[Token]], Statement | None]] = {
    b"listen": _listen,
    b"unlisten": _unlisten,
    b"prepare": _prepare,
    b"deallocate": _deallocate,
    b"declare": _declare,
    b"close": _close,
    b"load": _load,
    b"discard": _discard,
    b"create": _create,
    b"drop": _drop,
    b"savepoint": _savepoint,
    b"release": _release,
    b"rollback": _rollback,
    b"abort": _rollback,
    b"commit": _commit,
    b"end": _commit,
}
