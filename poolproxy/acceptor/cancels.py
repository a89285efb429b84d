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
    """Asked by ``worker`` under its own number ``request``, being done by worker ``doer``; None: the client
    is on its way between two workers, and nobody is asked before it has arrived.
    """

    worker: int
    request: int
    key: CancelKey
    doer: int | None
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
        moving: bool = False,
    ) -> Sends:
        """``doer`` has the client with this key; None: nobody has, or not yet, as it is ``moving``."""
        if (doer is None and not moving) or len(self._pending) >= self._max_pending:
            return [(worker, CancelDone(request))]
        self._last += 1
        self._pending[self._last] = Pending(worker, request, key, doer, deadline)
        return [] if doer is None else [(doer, Cancel(self._last, key))]

    def missed(self, doer: int, number: int) -> CancelKey | None:
        """The client had left ``doer`` when the cancel came there. Returns its key: the caller says by
        :meth:`found` where it is, now or when it has arrived.
        """
        pending = self._pending.get(number)
        if pending is None or pending.doer != doer:
            return None
        self._pending[number] = attrs.evolve(pending, doer=None)
        return pending.key

    def found(self, key: CancelKey, doer: int | None) -> Sends:
        """The client with this key has settled at ``doer``, or is gone: what was held back goes there."""
        sends: Sends = []
        for number, pending in list(self._pending.items()):
            if pending.doer is not None or pending.key != key:
                continue
            if doer is None:
                sends += self.done(None, number)
            else:
                self._pending[number] = attrs.evolve(pending, doer=doer)
                sends.append((doer, Cancel(number, key)))
        return sends

    def done(self, doer: int | None, number: int) -> Sends:
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
