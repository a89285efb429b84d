"""SHOW HELP: no rows; its text comes as a notice, as in PgBouncer. And what drivers ask when they connect."""

from __future__ import annotations

from poolproxy.admin.column import Column, Type
from poolproxy.admin.command import Show

HELP = Show("HELP", (), "This list.", lambda view: [])

_VALUES = {
    "client_encoding": "UTF-8",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "datestyle": "ISO",
    "timezone": "GMT",
}


def _pretence(name: str, value: str) -> Show:
    columns = (Column(name, Type.TEXT, "Always the same."),)
    doc = "There for drivers that ask when they connect."
    return Show(name.upper(), columns, doc, lambda view: [(value,)], hidden=True)


PRETENCES = tuple(_pretence(name, value) for name, value in _VALUES.items())
