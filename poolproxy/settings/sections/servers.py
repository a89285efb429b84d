"""How server connections are kept."""

# ruff: noqa: RUF009 - setting() makes an attrs field, which ruff cannot see

from __future__ import annotations

import attrs

from poolproxy.settings.enums import AbandonedWork
from poolproxy.settings.field import setting
from poolproxy.settings.values import BOOLEAN, TEXT, choice, seconds


@attrs.frozen(kw_only=True, slots=False)
class Servers:
    """How server connections are kept."""

    server_reset_query: str = setting(
        "DISCARD ALL",
        section="Server connections",
        parse=TEXT,
        doc="Sent when a client in session mode gives its server connection back, so that the "
        'next finds a clean one; "" sends nothing.',
    )
    server_reset_query_always: bool = setting(
        False,
        parse=BOOLEAN,
        doc="Send server_reset_query in transaction and statement mode, too.",
    )
    server_check_query: str = setting(
        "<empty>",
        parse=TEXT,
        doc='Sent before a server connection idle for server_check_delay is used; "<empty>" is an '
        'empty query, "" is no check.',
    )
    server_check_delay: float = setting(
        30.0,
        parse=seconds(),
        doc="Idle time after which a server connection is checked; 0 checks before every use.",
    )
    server_lifetime: float = setting(
        3600.0,
        parse=seconds(),
        doc="Age at which an unused server connection is closed; 0 closes after one use.",
    )
    server_idle_timeout: float = setting(
        600.0,
        parse=seconds(),
        doc="Idle time after which a server connection beyond min_pool_size is closed; 0 never.",
    )
    server_connect_timeout: float = setting(
        15.0,
        parse=seconds(),
        doc="Time for connecting to PostgreSQL and logging in; 0 is no limit.",
    )
    server_login_retry: float = setting(
        15.0,
        parse=seconds(),
        doc="Pause after a failed connection or log-in to PostgreSQL.",
    )
    server_fast_close: bool = setting(
        False,
        parse=BOOLEAN,
        doc="Where a client keeps its server connection (session mode): when RECONNECT, a reload, changed "
        "addresses of the host or a changed role of the server ask for another one, close it when its "
        "transaction is over, and disconnect the client. Otherwise it stays until the client leaves.",
    )
    dns_max_ttl: float = setting(
        15.0,
        parse=seconds(),
        doc="How long the addresses of a server's host name are used before it is looked up again, whatever "
        "its TTL; if they change, server connections to those that are gone are closed when free. 0 "
        "looks up for each new connection.",
    )
    dns_nxdomain_ttl: float = setting(
        15.0,
        parse=seconds(),
        doc="How long a host name that could not be looked up is not tried again.",
    )
    abandoned_work: AbandonedWork = setting(
        AbandonedWork.ROLLBACK,
        parse=choice(AbandonedWork),
        doc="What becomes of a server connection whose client has gone amid a query or transaction: the "
        "query is cancelled, the transaction rolled back and the connection used again (rollback), or "
        "it is closed (close), as in PgBouncer, which has no such setting.",
    )
    abandoned_work_timeout: float = setting(
        5.0,
        parse=seconds(),
        doc="Time for that cancelling and rolling back, after which the connection is closed all the "
        "same; 0 is no limit. A query whose client has said good-bye behind it has so long to end before it "
        "is cancelled. Not in PgBouncer.",
    )
    server_close_timeout: float = setting(
        10.0,
        parse=seconds(),
        doc="A closed server connection counts until PostgreSQL has closed its end, for this "
        "long at most. Not in PgBouncer.",
    )
