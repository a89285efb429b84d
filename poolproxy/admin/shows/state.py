"""SHOW STATE and SHOW VERSION."""

from __future__ import annotations

from collections.abc import Iterator

from poolproxy.admin.column import Column, Row, Type
from poolproxy.admin.command import Show
from poolproxy.admin.view import View


def _state(view: View) -> Iterator[Row]:
    holds = view.holds
    states = {
        "active": not (holds.paused or holds.suspended),
        "paused": holds.paused,
        "suspended": holds.suspended,
    }
    for key, value in states.items():
        yield key, "yes" if value else "no"


STATE = Show(
    "STATE",
    (
        Column("key", Type.TEXT, "active, paused or suspended."),
        Column("value", Type.TEXT, "yes or no."),
    ),
    "Whether everything is paused or suspended.",
    _state,
)
VERSION = Show(
    "VERSION",
    (Column("version", Type.TEXT, "The version of PgBouncer that it behaves like, and its own."),),
    "The version.",
    lambda view: [(view.version,)],
)
