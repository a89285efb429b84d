"""What PAUSE, SUSPEND, KILL and DISABLE mean together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolproxy.pool.holds import Holds, Refused


def test_pause_and_resume_of_everything() -> None:
    """It stops every database; a second one, and a resume of nothing, are errors."""
    holds = Holds()
    with pytest.raises(Refused, match="pooler is not paused/suspended"):
        holds.resume("")
    holds.pause("")
    assert holds.stops("any")
    with pytest.raises(Refused, match="already suspended/paused"):
        holds.pause("")
    holds.resume("")
    assert holds == Holds()


def test_pause_of_one_database_is_undone_for_itself() -> None:
    """A RESUME without a database does not touch it, as in PgBouncer."""
    holds = Holds()
    holds.pause("shop")
    holds.pause("shop")
    assert holds.stops("shop")
    assert not holds.stops("other")
    with pytest.raises(Refused, match="not paused/suspended"):
        holds.resume("")
    with pytest.raises(Refused, match="database other is not paused"):
        holds.resume("other")
    with pytest.raises(Refused, match="cannot suspend with paused databases"):
        holds.suspend()
    holds.resume("shop")
    assert holds == Holds()


def test_both_pauses_are_independent() -> None:
    """What was paused by itself stays so when everything is resumed."""
    holds = Holds()
    holds.pause("shop")
    holds.pause("")
    holds.resume("")
    assert holds.stops("shop")


def test_kill_leaves_its_databases_paused() -> None:
    """Of one database: its own RESUME ends it. Of all: either one."""
    holds = Holds()
    holds.kill({"shop"}, everything=False)
    with pytest.raises(Refused):
        holds.resume("")
    holds.resume("shop")
    holds.pause("mine")
    holds.kill({"shop", "other"}, everything=True)
    holds.resume("other")
    holds.resume("")
    assert holds.databases == {"mine"}


@pytest.mark.parametrize("act", [Holds.suspend, lambda h: h.kill({"a"}, everything=True)])
def test_nothing_else_while_all_is_paused(act: Callable[[Holds], None]) -> None:
    """SUSPEND and KILL want a running pooler."""
    holds = Holds()
    holds.pause("")
    with pytest.raises(Refused, match="already suspended/paused"):
        act(holds)


def test_disabling() -> None:
    """It is independent of pauses, and a copy shares nothing."""
    holds = Holds()
    holds.disable("shop")
    copy = holds.copy()
    holds.enable("shop")
    holds.enable("shop")
    assert copy.disabled == {"shop"}
    assert not holds.disabled
