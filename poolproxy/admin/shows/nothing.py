"""Commands of PgBouncer for what poolproxy does not have: the columns are there for tools, and no rows."""

from __future__ import annotations

from poolproxy.admin.column import Column, Type
from poolproxy.admin.command import Show


def _none(name: str, doc: str, /, **columns: Type) -> Show:
    described = tuple(Column(n, t, "As in PgBouncer.") for n, t in columns.items())
    return Show(name, described, doc, lambda view: [])


DNS_ZONES = _none(
    "DNS_ZONES",
    "DNS zones that are watched: no rows.",
    zonename=Type.TEXT,
    serial=Type.BIGINT,
    count=Type.INT,
)
MEM = _none(
    "MEM",
    "PgBouncer's own memory management, which poolproxy has no use for: no rows.",
    name=Type.TEXT,
    size=Type.INT,
    used=Type.INT,
    free=Type.INT,
    memtotal=Type.INT,
)
