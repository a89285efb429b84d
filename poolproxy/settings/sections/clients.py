"""How long clients and queries may take."""

from __future__ import annotations

import attrs

from poolproxy.settings.enums import Reload
from poolproxy.settings.field import setting
from poolproxy.settings.values import TEXT, seconds


@attrs.frozen(kw_only=True, slots=False)
class Clients:
    """How long clients and queries may take."""

    query_wait_timeout: float = setting(
        120.0,
        section="Timeouts of clients and queries",
        parse=seconds(),
        doc="How long a client waits for a server connection before it is disconnected; 0 is no "
        "limit.",
    )
    login_notify_message: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc='Notice that each client gets at its log-in; "" is none.',
    )
    query_wait_notify: float = setting(
        5.0,
        parse=seconds(),
        doc="After waiting this long for a server connection a client gets a notice with its place in "
        "the queue and the reason; 0 sends none.",
    )
    query_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="Time for one query, after which it is cancelled and its client disconnected; 0 is no "
        "limit.",
    )
    transaction_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="Time for one transaction; 0 is no limit.",
    )
    idle_transaction_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="How long a client may be idle inside a transaction; 0 is no limit.",
    )
    client_idle_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="How long a client may be idle outside of a transaction; 0 is no limit.",
    )
    client_login_timeout: float = setting(
        60.0,
        parse=seconds(),
        reload=Reload.NEW,
        doc="Time for a client to log in; 0 is no limit.",
    )
    cancel_wait_timeout: float = setting(
        10.0,
        parse=seconds(),
        doc="How long a cancel request waits for its connection to PostgreSQL; 0 is no limit.",
    )
