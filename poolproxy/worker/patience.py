"""Silent connections must not keep others out.

A client that has not proven who it is yet costs a descriptor and counts for max_client_conn. Beyond
``max_logins`` of them those that have kept us waiting are closed, the first to come first; not at once, as
clients may well come in storms, and never because we are slow to read.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import attrs
import trio

from poolproxy.errors import PoolerError
from poolproxy.settings.schema import Settings
from poolproxy.worker.worker import Worker

GRACE = 2.0  # seconds that anybody may take

TOO_MANY = PoolerError(
    "too many clients are logging in (max_logins)",
    sqlstate="53300",
    hint="This client was the slowest of them. If clients are as slow as that, raise max_logins.",
    reason="max_logins",
)


@attrs.define
class Waiting:
    """A log-in: since when we wait (monotonic seconds), and how to end it. ``excused``: it is not the
    client that takes the time.
    """

    sock: socket.socket
    scope: trio.CancelScope
    since: float = attrs.field(factory=monotonic)
    excused: bool = False

    def anew(self) -> None:
        """The client has answered and is asked again; a log-in has few questions."""
        self.since = monotonic()

    def is_silent(self, now: float) -> bool:
        """Whether the client has kept us waiting for GRACE, and nothing of it is there to be read."""
        if self.excused or now - self.since < GRACE:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)


@contextmanager
def unproven(worker: Worker, client: int, sock: socket.socket) -> Iterator[Waiting]:
    """For as long as nobody knows who the client is; raises PoolerError if it is one too many."""
    with trio.CancelScope() as scope:
        waiting = worker.logins[client] = Waiting(sock, scope)
        try:
            yield waiting
        finally:
            del worker.logins[client]
    if scope.cancelled_caught:
        raise TOO_MANY


def most_logins(settings: Settings) -> int:
    """How many may be unproven in one worker."""
    if settings.max_logins:
        return settings.max_logins
    workers = settings.workers or len(os.sched_getaffinity(0))
    return max(1, settings.max_client_conn // (2 * workers))


def enforce(worker: Worker, now: float) -> None:
    """Called with every tick."""
    excess = len(worker.logins) - most_logins(worker.config.settings)
    if excess <= 0:
        return
    for client in sorted(worker.logins):  # their numbers are in the order in which they came
        waiting = worker.logins[client]
        if waiting.is_silent(now):
            waiting.scope.cancel()
            excess -= 1
            if not excess:
                return
