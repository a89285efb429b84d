"""Commands of PgBouncer for what poolproxy does not have: the columns are there for tools, and no rows."""

from __future__ import annotations

from poolproxy.admin.column import Column, Type
from poolproxy.admin.command import Show


def _none(name: str, doc: str, /, **columns: Type) -> Show:
    described = tuple(Column(n, t, "As in PgBouncer.") for n, t in columns.items())
    return Show(name, described, doc, lambda view: [])


PEERS = _none(
    "PEERS",
    "The other instances. None are known here yet: no rows.",
    peer_id=Type.INT,
    host=Type.TEXT,
    port=Type.INT,
    pool_size=Type.INT,
)
PEER_POOLS = _none(
    "PEER_POOLS",
    "Cancel requests under way to other instances: no rows.",
    peer_id=Type.INT,
    cl_active_cancel_req=Type.INT,
    cl_waiting_cancel_req=Type.INT,
    sv_active_cancel=Type.INT,
    sv_login=Type.INT,
)
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
