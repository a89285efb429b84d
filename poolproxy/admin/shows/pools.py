"""SHOW POOLS."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.shows.databases import balance_of
from poolproxy.admin.view import CONSOLE, View
from poolproxy.metrics.schema import PoolMetrics

_MICROSECONDS = 1_000_000


@attrs.frozen
class Pool:
    """One pool: a database and the user that its servers log in as."""

    database: str = column(Type.TEXT, "The database, as clients call it.")
    user: str = column(Type.TEXT, "The user that the pool's servers log in as.")
    cl_active: int = column(Type.INT, "Clients that are linked with a server, or idle.")
    cl_waiting: int = column(Type.INT, "Clients that wait for a server.")
    cl_active_cancel_req: int = column(
        Type.INT, "Cancel requests that have been sent to a server, and are not done yet."
    )
    cl_waiting_cancel_req: int = column(
        Type.INT,
        "Cancel requests that can't be sent yet: the connection for it is being made, or one before is"
        " not done.",
    )
    sv_active: int = column(Type.INT, "Servers that are linked with a client.")
    sv_active_cancel: int = column(
        Type.INT,
        "Connections by which cancel requests are sent, also for what clients have left behind; no limit"
        " counts them.",
    )
    sv_being_canceled: int = column(
        Type.INT, "Servers that are free, but a cancel request for them is not done yet."
    )
    sv_idle: int = column(Type.INT, "Servers that the next client can have.")
    sv_used: int = column(
        Type.INT,
        "Always 0: servers idle for longer than server_check_delay are in sv_idle.",
        default=0,
    )
    sv_tested: int = column(Type.INT, "Servers on which a query of poolproxy's own runs.")
    sv_login: int = column(Type.INT, "Servers that are being logged in to.")
    maxwait: int = column(
        Type.INT, "How long the client that waits longest has waited, in seconds."
    )
    maxwait_us: int = column(Type.INT, "Its microseconds.")
    pool_mode: str = column(Type.TEXT, "The pool mode.")
    load_balance_hosts: str | None = column(
        Type.TEXT, "How servers are spread over the hosts; NULL with one host.", default=None
    )


def _rows(view: View) -> Iterator[Row]:
    for pool in sorted(view.standing, key=lambda pool: (pool.database, pool.user)):
        yield values_of(_pool(view, pool))


def _pool(view: View, pool: PoolMetrics) -> Pool:
    clients, servers = pool.clients, pool.servers
    whole, fraction = divmod(round(pool.maxwait * _MICROSECONDS), _MICROSECONDS)
    return Pool(
        database=pool.database,
        user=pool.user,
        cl_active=clients["active"] + clients["idle"],
        cl_waiting=clients["waiting"],
        cl_active_cancel_req=pool.cancels["active"],
        cl_waiting_cancel_req=pool.cancels["waiting"],
        sv_active=servers["active"],
        sv_active_cancel=pool.cancel_connections,
        sv_being_canceled=servers["being_canceled"],
        sv_idle=servers["idle"],
        sv_tested=servers["testing"],
        sv_login=servers["login"],
        maxwait=whole,
        maxwait_us=fraction,
        pool_mode=_mode(view, pool),
        load_balance_hosts=_balance(view, pool),
    )


def _mode(view: View, pool: PoolMetrics) -> str:
    if pool.database == CONSOLE:
        return "statement"
    settings = view.config.pool_of((pool.database, pool.user))
    mode = settings.pool_mode if settings is not None else view.config.settings.pool_mode
    return mode.value


def _balance(view: View, pool: PoolMetrics) -> str | None:
    settings = view.config.pool_of((pool.database, pool.user))
    return balance_of(settings) if settings is not None else None


POOLS = Show(
    "POOLS", columns_of(Pool), "The pools, with their clients and servers by state.", _rows
)
