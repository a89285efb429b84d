"""The commands are PgBouncer's, and what is derived of them follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolproxy.admin.reference import reference
from poolproxy.admin.registry import ORDERS, SHOWS, help_text
from tests.admin import pgbouncer

PAGE = Path(__file__).parents[2] / "docs" / "console.md"


@pytest.mark.parametrize("name", pgbouncer.COLUMNS)
def test_columns_are_pgbouncers(name: str) -> None:
    """Each SHOW of PgBouncer has its columns, in its order and of its types."""
    assert [(c.name, c.type.value) for c in SHOWS[name].columns] == pgbouncer.columns(name)


def test_only_fds_needs_more_than_stats_users_have() -> None:
    """stats_users may give every SHOW but SHOW FDS."""
    assert [show.name for show in SHOWS.values() if show.admin_only] == ["FDS"]


def test_help_lists_every_command() -> None:
    """Nothing is forgotten, and what is there for drivers only is not shown."""
    words = help_text().replace("|", " ").split()
    for show in SHOWS.values():
        assert (show.name in words) is not show.hidden
    assert set(" ".join(ORDERS).split()) <= set(words)


def test_the_page_is_generated() -> None:
    """docs/console.md is what the classes say; write it with ``python -m poolproxy.admin.reference``."""
    assert PAGE.read_text() == reference()
