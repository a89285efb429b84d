"""SHOW LISTS."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.shows.databases import DATABASES
from poolproxy.admin.shows.users import USERS
from poolproxy.admin.view import View


@attrs.frozen
class Count:
    """One kind of thing and how many there are."""

    list: str = column(Type.TEXT, "What is counted.")
    items: int = column(Type.INT, "How many there are.")


def _rows(view: View) -> Iterator[Row]:
    assert DATABASES.rows is not None
    assert USERS.rows is not None
    counts = {
        "databases": sum(1 for _ in DATABASES.rows(view)),
        "users": sum(1 for _ in USERS.rows(view)),
        "peers": len(view.config.peers),
        "pools": len(view.standing),
        "peer_pools": len(view.config.peers),
        # PgBouncer's memory that waits for clients and servers; none is kept here.
        "free_clients": 0,
        "used_clients": sum(
            sum(clients.values()) for clients in (view.database_clients, view.consoles)
        ),
        "login_clients": sum(w.metrics.clients_logging_in for w in view.workers if w.metrics),
        "free_servers": 0,
        "used_servers": sum(pool.opening + pool.up + pool.closing for pool in view.ledger),
        "dns_names": len(view.names),
        "dns_zones": 0,
        "dns_queries": sum(name.running for name in view.names),
        "dns_pending": 0,
    }
    for name, number in counts.items():
        yield values_of(Count(list=name, items=number))


LISTS = Show("LISTS", columns_of(Count), "How many there are of what.", _rows)
