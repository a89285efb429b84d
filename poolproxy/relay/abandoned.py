"""What a client leaves behind that goes away amid a query or a transaction.

A new server connection costs milliseconds and a process, so the one that it had is put in order: what runs
is cancelled, the rest of the answers read and dropped, the transaction rolled back; then the server
goes the way of any that is free. A client that says good-bye behind whole requests wants these to be done, as
PostgreSQL does them: they get ``abandoned_work_timeout`` for that before they are cancelled, unless they
answer with more than anybody would have kept.

This is done only where the state of the conversation is certain. Where it is not (the client left within a
message, a COPY has swallowed a Sync), or when it takes longer than ``abandoned_work_timeout``, the server is
closed.

A batch of the extended protocol without its Sync is not committed yet, and a Sync of ours would commit
it. So ours comes behind a ROLLBACK, and behind a CopyFail in case that the batch is copying; outside of
a COPY, PostgreSQL ignores that.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import attrs

from poolproxy.relay.task import Task
from poolproxy.wire.backend import UNSYNCED, Backend
from poolproxy.wire.build import SYNC_MESSAGE, message
from poolproxy.wire.codes import (
    BIND,
    COPY_DONE,
    COPY_FAIL,
    EXECUTE,
    FUNCTION_CALL,
    IN_FAILED_TRANSACTION,
    IN_TRANSACTION,
    PARSE,
    QUERY,
    SYNC,
)
from poolproxy.wire.said import joined

if TYPE_CHECKING:
    from poolproxy.relay.server import Server

CLIENT_LEFT = "client disconnect while server was not ready"
NOT_SETTLED = "abandoned work could not be ended"

# Bytes of answers after which a query is cancelled whose client has said good-bye. PostgreSQL itself ends it
# when it can't send them any more.
MOST_UNREAD = 1 << 20

ROLLBACK = "ROLLBACK"
_COPY_FAIL = message(COPY_FAIL, b"the client has gone\0")
_ROLLBACK_AND_SYNC = (
    _COPY_FAIL
    + message(PARSE, b"\0ROLLBACK\0\0\0")
    + message(BIND, bytes(8))
    + message(EXECUTE, bytes(5))
    + SYNC_MESSAGE
)
_ROLLBACK_TYPES = (COPY_FAIL, PARSE, BIND, EXECUTE, SYNC)
_ANSWERED_BY_READY = frozenset((QUERY, SYNC, FUNCTION_CALL))
_IN_BLOCK = (IN_TRANSACTION, IN_FAILED_TRANSACTION)


def abandon(server: Server, *, certain: bool, terminated: bool) -> None:
    """The client of ``server`` is gone, which is not at rest; ``certain``: it left between messages.
    ``terminated``: by a Terminate.
    """
    pool, back = server.pool, server.back
    # At rest, but with bytes unsent: these are no request, so nothing would tell when they are read.
    certain = certain and not back.tainted and not back.at_rest
    if not (certain and pool.settles) or server.doomed:
        _count(server, "closed")
        server.end(CLIENT_LEFT)
        return
    server.resume()

    def then(errors: int) -> None:
        if errors:
            server.end(NOT_SETTLED)
            return
        _count(server, "reused")
        server.release(monotonic())

    server.task = task = Abandoned(
        [], then, monotonic(), limit=pool.settle_timeout, failure=NOT_SETTLED, patient=terminated
    )
    task.begin(server)


@attrs.define
class Abandoned(Task):
    """``draining``: answers to the client's requests are still to come. ``patient``: they shall be done, not
    cancelled; ``unread`` bytes of them have come.
    """

    draining: bool = True
    patient: bool = False
    unread: int = 0

    def begin(self, server: Server) -> None:
        """Send what makes the server end what it does."""
        back = server.back
        runs = bool(back.owed)
        if not self._end_copy(server):
            return
        if _unsynced(back):
            self.patient = False  # without its Sync nothing is to be kept
            back.said = joined(back.said if back.owed else b"", _ROLLBACK_AND_SYNC)
            back.owe(_ROLLBACK_TYPES)
            server.write(_ROLLBACK_AND_SYNC)
        if runs and not self.patient:
            self._cancel(server)
        elif not (back.owed or server.cancels):
            self.go_on(server)

    def _cancel(self, server: Server) -> None:
        self.patient = False
        server.context.host.cancel_abandoned(server, lambda: self._runs(server))

    def hear(self, data: bytes) -> None:
        self.unread += len(data)

    def late(self, server: Server, now: float) -> None:
        if not self.patient:
            super().late(server, now)
            return
        self.since = now
        self._cancel(server)

    def _runs(self, server: Server) -> bool:
        return server.task is self and self.draining and bool(server.back.owed)

    def _end_copy(self, server: Server) -> bool:
        """Fail a COPY FROM STDIN, which no cancel reaches; False if the server had to be closed."""
        back = server.back
        if not (back.copy_in and back.client_copies) or _unsynced(back):
            return True
        if len(back.owed) > 1:
            server.end(NOT_SETTLED)  # what came behind the COPY was read as part of it
            return False
        back.owe((COPY_FAIL,))
        server.write(_COPY_FAIL)
        return True

    def answered(self, server: Server, *, at_rest: bool) -> None:
        back = server.back
        if not self.draining:
            super().answered(server, at_rest=at_rest)
        elif back.tainted:
            server.end(NOT_SETTLED)
        elif self.patient and self.unread > MOST_UNREAD and back.owed:
            self._cancel(server)
        elif self._end_copy(server) and not (back.owed or back.left or back.head or server.cancels):
            self.go_on(server)

    def go_on(self, server: Server) -> None:
        """Nothing runs any more, and no cancel is on its way."""
        back = server.back
        if self.draining:
            self.draining = False
            back.client_copies = False  # the COPY has failed, and the rest of its data won't come
            if back.status in _IN_BLOCK:
                self.queries.append(ROLLBACK)
            elif not back.at_rest:
                server.end(NOT_SETTLED)
                return
        super().go_on(server)

    def ended(self, server: Server) -> None:
        _count(server, "closed")


def _unsynced(back: Backend) -> bool:
    """Whether a batch has begun whose Sync has not been sent."""
    for code in reversed(back.owed):
        if code != COPY_DONE:
            return code not in _ANSWERED_BY_READY
    return back.status == UNSYNCED or back.skipping


def _count(server: Server, outcome: str) -> None:
    counts = server.pool.stats.abandoned
    counts[outcome] = counts.get(outcome, 0) + 1
