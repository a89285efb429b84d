"""Metric labels for reasons that are for the log: a small set."""

from __future__ import annotations

from poolproxy.pool.pool import PAUSED
from poolproxy.relay.abandoned import NOT_SETTLED
from poolproxy.relay.server import MOVED
from poolproxy.relay.session import UNSUITABLE, UNUSED
from poolproxy.relay.turned import OTHER_ROLE, READ_ONLY
from poolproxy.worker.cancel import MAY_ARRIVE

CLOSE_LABELS = {
    "server conn crashed?": "lost",
    "server lifetime over": "lifetime",
    "server idle timeout": "idle_timeout",
    "client disconnect while server was not ready": "client_left",
    "worker retired": "retired",
    "given to another worker or pool": "given_back",
    "database configuration changed": "config_changed",
    "unknown pkt": "violation",
    "idle server got dirty": "dirty",
    MOVED: "host_moved",
    READ_ONLY: "read_only",
    OTHER_ROLE: "role_changed",
    "unsafe to reuse": "unsafe",
    "test query failed": "test_failed",
    PAUSED: "paused",
    UNUSED: "unused",
    UNSUITABLE: "other_parameters",
    "reset query failed": "reset_failed",
    NOT_SETTLED: "not_settled",
    MAY_ARRIVE: "cancel_unconfirmed",
}


def disconnect_label(reason: str) -> str:
    """The metric label for a reason that is for the log."""
    return {
        "client close request": "terminated",
        "client unexpected eof": "eof",
    }.get(reason, "other")


def close_label(reason: str) -> str:
    """The metric label for why a server connection was closed."""
    return CLOSE_LABELS.get(reason, "other")
