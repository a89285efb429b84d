"""What the operator has stopped: PAUSE, SUSPEND, DISABLE, and the pauses that KILL leaves. Pure.

The rules and error texts are PgBouncer's. One thing goes by PgBouncer's documentation and not by its code: a
KILL without a database is undone by a RESUME without one, too.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs


class Refused(Exception):
    """The command does not fit what holds now; the text is for the operator."""


@attrs.define
class Holds:
    """``paused``: everything is. ``killed``: the databases that a KILL of all has paused."""

    paused: bool = False
    suspended: bool = False
    databases: set[str] = attrs.Factory(set)
    disabled: set[str] = attrs.Factory(set)
    killed: set[str] = attrs.Factory(set)

    def stops(self, database: str) -> bool:
        """Whether the database may have no servers now."""
        return self.paused or database in self.databases

    def copy(self) -> Holds:
        """One that shares nothing with this one."""
        return attrs.evolve(
            self,
            databases=set(self.databases),
            disabled=set(self.disabled),
            killed=set(self.killed),
        )

    def pause(self, database: str) -> None:
        """Without a database: everything."""
        if database:
            self.databases.add(database)
            return
        self._demand_running()
        self.paused = True

    def suspend(self) -> None:
        self._demand_running()
        if self.databases:
            raise Refused("cannot suspend with paused databases")
        self.suspended = True

    def resume(self, database: str) -> None:
        """Without a database: everything but databases that were paused each by itself."""
        if database:
            if database not in self.databases:
                raise Refused(f"database {database} is not paused")
            self.databases.discard(database)
            self.killed.discard(database)
            return
        if not (self.paused or self.suspended or self.killed):
            raise Refused("pooler is not paused/suspended")
        self.paused = self.suspended = False
        self.databases -= self.killed
        self.killed.clear()

    def kill(self, databases: Iterable[str], *, everything: bool) -> None:
        """These databases stay paused behind a KILL."""
        self._demand_running()
        self.databases.update(databases)
        if everything:
            self.killed.update(databases)

    def disable(self, database: str) -> None:
        self.disabled.add(database)

    def enable(self, database: str) -> None:
        self.disabled.discard(database)

    def _demand_running(self) -> None:
        if self.paused or self.suspended:
            raise Refused("already suspended/paused")
