"""Cancel requests on their way from the worker that got them to the one that has the client. Pure.

A canceller is told nothing but the end of its connection, and that only when the cancel is done:
by then the server is free of it, so a client can be sure what its next query meets.
"""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages import Cancel, CancelDone, CancelKey, Message

# Each needs a socket in a worker and a connection to PostgreSQL. More at once is not somebody
# who cancels queries; the surplus is dropped without a word, as PgBouncer does on its timeout.
MAX_PENDING = 1000

Sends = list[tuple[int, Message]]


@attrs.frozen
class Pending:
    """Asked by ``worker`` under its own number ``request``, being done by worker ``doer``."""

    worker: int
    request: int
    doer: int
    deadline: float


class Cancels:
    """The cancels in flight. ``timeout``: seconds (cancel_wait_timeout), 0 is no limit."""

    def __init__(self, max_pending: int = MAX_PENDING) -> None:
        self._pending: dict[int, Pending] = {}
        self._max_pending = max_pending
        self._last = 0

    def __len__(self) -> int:
        return len(self._pending)

    def request(
        self,
        worker: int,
        request: int,
        key: CancelKey,
        *,
        doer: int | None,
        deadline: float,
    ) -> Sends:
        """``doer`` has the client with this key; None: nobody has."""
        if doer is None or len(self._pending) >= self._max_pending:
            return [(worker, CancelDone(request))]
        self._last += 1
        self._pending[self._last] = Pending(worker, request, doer, deadline)
        return [(doer, Cancel(self._last, key))]

    def done(self, doer: int, number: int) -> Sends:
        """The worker that was asked has finished; an unknown number has timed out before."""
        pending = self._pending.get(number)
        if pending is None or pending.doer != doer:
            return []
        del self._pending[number]
        return [(pending.worker, CancelDone(pending.request))]

    def expire(self, now: float) -> Sends:
        """Let the cancellers go whose cancel takes too long."""
        late = [number for number, pending in self._pending.items() if pending.deadline <= now]
        return [send for number in late for send in self.done(self._pending[number].doer, number)]

    def worker_gone(self, worker: int) -> Sends:
        """A worker is dead: what it asked for is moot, what it was to do is over."""
        sends: Sends = []
        for number, pending in list(self._pending.items()):
            if pending.worker == worker:
                del self._pending[number]
            elif pending.doer == worker:
                sends += self.done(worker, number)
        return sends
