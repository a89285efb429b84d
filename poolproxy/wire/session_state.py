"""What clients have left behind in a server's session.

Theory of operation. PostgreSQL's command tags raise a suspicion: SET, LISTEN, PREPARE and others can change
what outlives the transaction. A tag says little (SET LOCAL answers SET, too), so the words of the statement
decide (``wire.effects``), which are found in what the client has said since nothing was owed
(``wire.said``). Statements of a group can't be told apart by their tags, and after an error some have
none. So with every tag all of the group count that leave something; one that clears something counts
only if it is the last of its group and all have been answered. What can't be read is taken to have left
something.

What stands at the end of a transaction counts: a ROLLBACK takes back all but prepared statements and loaded
libraries, ROLLBACK TO what came after its savepoint. Savepoints are followed from the first suspicion
on: one that is not known then is older, and what it goes back to is what was there before.

While there is nothing (``marked`` is false) only tags in ``watched`` need be told here.

Not seen: what set_config, DO blocks and functions do, and advisory locks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, TypeAlias

from poolproxy.wire.codes import IDLE
from poolproxy.wire.effects import (
    AUTHORIZATION,
    CURSOR,
    FEARED,
    GROUPS,
    KINDS,
    LASTING,
    LISTEN,
    LOAD,
    PREPARE,
    ROLE,
    SET,
    TEMP,
    Does,
    Effect,
    statement,
)
from poolproxy.wire.said import Unreadable, texts
from poolproxy.wire.sql_words import statements

if TYPE_CHECKING:
    from poolproxy.wire.statements import Names

# (kind, name) and how the statement is called; the name is b"" if it is not known.
Dirt: TypeAlias = dict[tuple[str, bytes], str]
_Found: TypeAlias = dict[str, list[tuple[Effect, ...]]]

# Always told: what leaves something, and what takes back parameters that were given at start-up.
FIRST = frozenset(tag for tag, group in GROUPS.items() if group in FEARED) - {
    *(b"SAVEPOINT", b"RELEASE", b"ROLLBACK", b"COMMIT", b"PREPARE TRANSACTION", b"SELECT")
} | {b"RESET", b"DISCARD ALL"}
ALL = frozenset(GROUPS)

# Things of a session that are kept apart; with more their names are forgotten.
MOST_NAMES = 64
MOST_SAVEPOINTS = 64

_CLEANERS = {CURSOR: "CLOSE ALL", LISTEN: "UNLISTEN *", TEMP: "DISCARD TEMP"}
_RESET = ("SET SESSION AUTHORIZATION DEFAULT", "RESET ROLE", "RESET ALL")


class SessionState:
    """The state of one server connection.

    ``tracked``: names of parameters, in small letters, that need no watching. ``marked``: something is
    there, or may come back by a ROLLBACK. ``was_reset``: RESET has taken back parameters, also such as
    the pooler has set. ``untold``: kinds that have come since they were last asked for, each with the
    statement.
    """

    __slots__ = (
        "_answered",
        "_before",
        "_errors",
        "_found",
        "_now",
        "_said",
        "_savepoints",
        "marked",
        "tracked",
        "untold",
        "was_reset",
        "watched",
    )

    def __init__(self, tracked: Container[bytes] = ()) -> None:
        self.tracked = tracked
        self.untold: dict[str, str] = {}
        self._said: bytes | None = None
        self._found: _Found = {}
        self._answered: Counter[str] = Counter()
        self.forget()

    def forget(self) -> None:
        """Nothing is there any more, or nobody cares."""
        self.marked = False
        self.was_reset = False
        self.watched = FIRST
        self._now: Dirt = {}
        self._before: Dirt = {}
        self._savepoints: list[tuple[bytes, Dirt]] = []
        self._errors = 0

    @property
    def dirt(self) -> Mapping[tuple[str, bytes], str]:
        """What is there."""
        return self._now

    def take_over(self, dirt: Mapping[tuple[str, bytes], str], *, was_reset: bool) -> None:
        """Begin, between two transactions, with what another process has found out about the server."""
        self._now = dict(dirt)
        self._before = dict(dirt)
        self.was_reset = was_reset
        self.marked = bool(dirt) or was_reset
        self.watched = ALL if self.marked else FIRST

    # -- what comes from the server ----------------------------------------------------------------

    def answered(self, tag: bytes, said: bytes | None, errors: int, names: Names | None) -> None:
        """A command has ended with this tag, which goes without its numbers.

        ``said``: all that the client has said since nothing was owed, see ``wire.said``; ``names``: its
        prepared statements. ``errors`` counts ErrorResponses.
        """
        group = GROUPS[tag]
        if tag == b"SELECT" and not _may_create(said, names):
            return
        if said is not self._said:
            self._said = said
            self._found = self._read(said, names)
            self._answered.clear()
        self._answered[group] += 1
        if self.marked:
            self._errors = errors
        found = self._found.get(group, [])
        if group == "END":
            self._end(tag, found)
        else:
            for effect in self._effects(group, found):
                self._apply(effect)
        if (self._now or self.was_reset) and not self.marked:
            self.marked = True
            self._errors = errors
            self.watched = ALL

    def ready(self, status: int, errors: int) -> None:
        """ReadyForQuery with this status."""
        if status != IDLE:
            return
        if errors != self._errors:
            self._back_to(self._before)  # by the error, if nothing had ended the transaction before
        self._settle()
        self.marked = bool(self._now) or self.was_reset
        self.watched = ALL if self.marked else FIRST
        self._errors = errors

    def _read(self, said: bytes | None, names: Names | None) -> _Found:
        """What the statements in ``said`` do, by their groups; nothing if it can't be read."""
        found: _Found = {}
        try:
            for text in texts(said, names):
                for tokens in statements(text):
                    read = statement(tokens, self.tracked)
                    if read is not None:
                        found.setdefault(read.group, []).append(read.effects)
        except Unreadable:
            return {}
        return found

    def _effects(self, group: str, found: list[tuple[Effect, ...]]) -> list[Effect]:
        answered = self._answered[group]
        feared = FEARED.get(group)
        marks = [e for effects in found for e in effects if e.does is Does.MARK]
        if len(found) > 1 and self._names_matter(group):
            # Some may be there or not, and DEALLOCATE of one that is not would be an error.
            marks = [FEARED["PREPARE"]]
        if answered == len(found):
            return marks + [e for e in found[-1] if e.does is not Does.MARK]
        if answered > len(found) or (feared is not None and feared.does is not Does.MARK):
            return marks + ([feared] if feared is not None else [])
        return marks

    def _names_matter(self, group: str) -> bool:
        present = any(kind == PREPARE for kind, _ in self._now)
        return group == "PREPARE" or (group in ("DEALLOCATE", "DISCARD") and present)

    def _apply(self, effect: Effect) -> None:
        if effect.does is Does.MARK:
            self._mark(effect)
        elif effect.does is Does.CLEAR:
            self._clear(effect)
        elif effect.does is Does.SAVEPOINT:
            self._savepoints.append((effect.name, dict(self._now)))
            if len(self._savepoints) > MOST_SAVEPOINTS:
                self._blur()
        elif effect.does is Does.RELEASE:
            found = self._savepoint(effect.name)
            if found is not None:
                del self._savepoints[max(found, 0) :]

    def _mark(self, effect: Effect) -> None:
        name = effect.name
        if len(self._now) >= MOST_NAMES and (effect.kind, name) not in self._now:
            name = b""
        self._now[effect.kind, name] = effect.phrase
        self.untold[effect.kind] = effect.phrase

    def _clear(self, effect: Effect) -> None:
        self.was_reset = self.was_reset or effect.kind == SET
        if effect.name:
            self._now.pop((effect.kind, effect.name), None)
            return
        for kind, name in list(self._now):
            # RESET ALL leaves the user and the role as they are.
            if kind == effect.kind and (kind, name) not in _WHO:
                del self._now[kind, name]

    # -- transactions ------------------------------------------------------------------------------

    def _end(self, tag: bytes, found: list[tuple[Effect, ...]]) -> None:
        if tag != b"ROLLBACK":
            self._settle()
            return
        reverts = [e for effects in found for e in effects if e.does is Does.REVERT]
        if found and not reverts and self._answered["END"] <= len(found):
            self._back_to(self._before)
            self._settle()
        elif len(found) == len(reverts) == self._answered["END"] == 1:
            self._revert(reverts[0].name)
        else:
            self._keep_all()

    def _revert(self, name: bytes) -> None:
        found = self._savepoint(name)
        if found is None:
            self._keep_all()
        elif found < 0:
            self._back_to(self._before)
            self._savepoints.clear()
        else:
            self._back_to(self._savepoints[found][1])
            del self._savepoints[found + 1 :]

    def _savepoint(self, name: bytes) -> int | None:
        """Its place in the list; -1: older than the first suspicion; None: it can't be told."""
        names = [known for known, _ in self._savepoints]
        if not name or b"" in names:
            self._blur()
            return None
        return len(names) - 1 - names[::-1].index(name) if name in names else -1

    def _keep_all(self) -> None:
        """It is not known how far back a ROLLBACK has gone: what any state had may be there."""
        self._blur()
        for then in (self._before, self._savepoints[0][1]):
            back = {key: phrase for key, phrase in then.items() if key[0] not in LASTING}
            self._now = back | self._now

    def _blur(self) -> None:
        """Savepoints can't be told from each other any more."""
        states: Dirt = {}
        for _, then in self._savepoints:
            states |= then
        self._savepoints = [(b"", states)]

    def _back_to(self, then: Dirt) -> None:
        lasting = {key: phrase for key, phrase in self._now.items() if key[0] in LASTING}
        self._now = {k: phrase for k, phrase in then.items() if k[0] not in LASTING} | lasting

    def _settle(self) -> None:
        self._before = dict(self._now)
        self._savepoints.clear()

    # -- what is to be done ------------------------------------------------------------------------

    @property
    def kept(self) -> str:
        """The first kind of what was there when the last transaction ended; "" if there was nothing."""
        return next((kind for kind, _ in self._before), "")

    @property
    def resets(self) -> bool:
        """Whether :meth:`cleaning` will reset all parameters."""
        return any(kind == SET for kind, _ in self._now)

    def cleaning(self, *, dirt: bool = True, parameters: bool = False) -> str | None:
        """The SQL that takes away all ``dirt``, or all ``parameters``; None if there is none for it."""
        now = self._now if dirt else {}
        kinds = {kind for kind, _ in now}
        if LOAD in kinds:
            return None
        parts = list(_RESET) if SET in kinds or parameters else []
        parts += [sql for kind, sql in _CLEANERS.items() if kind in kinds]
        names = [name for kind, name in now if kind == PREPARE]
        if names and all(name.isascii() and name for name in names):
            parts += ['DEALLOCATE "' + n.decode().replace('"', '""') + '"' for n in names]
        elif names:
            parts.append("DEALLOCATE ALL")
        return "; ".join(parts)


def _may_create(said: bytes | None, names: Names | None) -> bool:
    """Whether a SELECT may have made a temporary table: it seldom has, so this is a quick look."""
    if said is None:
        return True
    try:
        return any(b"temp" in text.lower() for text in texts(said, names))
    except Unreadable:
        return b"temp" in said.lower()


_WHO = {(SET, AUTHORIZATION), (SET, ROLE)}
assert set(_CLEANERS) | {SET, PREPARE, LOAD} == set(KINDS)
