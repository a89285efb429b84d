"""Cancel requests on their way from the worker that got them to the one that has the client, or to the peer
that has it. Pure.

A canceller is told nothing but the end of its connection, and that only when the cancel is done:
by then the server is free of it, so a client can be sure what its next query meets.
"""

from __future__ import annotations

from collections import Counter, deque

import attrs

from poolproxy.admin.view import PeerFacts
from poolproxy.ipc.messages import Cancel, CancelDone, CancelKey, Message, PassOn
from poolproxy.settings.hosts import Host

# Each needs a socket in a worker and a connection to PostgreSQL. More at once is not somebody
# who cancels queries; the surplus is dropped without a word, as PgBouncer does on its timeout.
MAX_PENDING = 1000

Sends = list[tuple[int, Message]]


@attrs.frozen
class Pending:
    """Asked by ``worker`` under its own number ``request``, being done by worker ``doer``; None: the client
    is on its way between two workers, and nobody is asked before it has arrived.

    ``peer``: it is on its way to this instance, 0 if to a client of ours.
    """

    worker: int
    request: int
    key: CancelKey
    doer: int | None
    deadline: float
    peer: int = 0


@attrs.frozen
class Peer:
    """Another instance: its id, where it is, and how many requests may be on their way to it at one time
    (0: any number).
    """

    id: int
    host: Host
    limit: int


class Cancels:
    """The cancels in flight. A deadline is ``math.inf`` where cancel_wait_timeout is 0."""

    def __init__(self, max_pending: int = MAX_PENDING) -> None:
        self._pending: dict[int, Pending] = {}
        self._max_pending = max_pending
        self._last = 0
        self._active: Counter[int] = Counter()
        self._queues: dict[int, deque[tuple[int, PassOn]]] = {}

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
        number = self._add(Pending(worker, request, key, doer, deadline))
        return [] if doer is None else [(doer, Cancel(number, key))]

    def pass_on(
        self, worker: int, request: int, key: CancelKey, peer: Peer, deadline: float
    ) -> Sends:
        """The client is the peer's. The worker that has asked passes the request on itself, in its turn."""
        if len(self._pending) >= self._max_pending:
            return [(worker, CancelDone(request))]
        number = self._add(Pending(worker, request, key, worker, deadline, peer.id))
        message = PassOn(number, peer.host.name, peer.host.port, key)
        if peer.limit and self._active[peer.id] >= peer.limit:
            self._queues.setdefault(peer.id, deque()).append((number, message))
            return []
        self._active[peer.id] += 1
        return [(worker, message)]

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
        return [(pending.worker, CancelDone(pending.request)), *self._end(number)]

    def expire(self, now: float) -> Sends:
        """Let the cancellers go whose cancel takes too long."""
        late = [number for number, pending in self._pending.items() if pending.deadline <= now]
        return [send for number in late for send in self._expired(number)]

    def worker_gone(self, worker: int) -> Sends:
        """A worker is dead: what it asked for is moot, what it was to do is over."""
        sends: Sends = []
        for number, pending in list(self._pending.items()):
            if pending.worker == worker:
                sends += self._end(number)
            elif pending.doer == worker:
                sends += self.done(worker, number)
        return [send for send in sends if send[0] != worker]

    def peers(self) -> tuple[PeerFacts, ...]:
        """A row for each peer that anything is on its way to."""
        peers = sorted({peer for peer, active in self._active.items() if active})
        queues = self._queues
        return tuple(PeerFacts(p, self._active[p], len(queues.get(p, ()))) for p in peers)

    def _add(self, pending: Pending) -> int:
        self._last += 1
        self._pending[self._last] = pending
        return self._last

    def _expired(self, number: int) -> Sends:
        pending = self._pending.get(number)
        return [] if pending is None else self.done(pending.doer, number)

    def _end(self, number: int) -> Sends:
        """Forget the request; the next one for its peer may go on its way."""
        peer = self._pending.pop(number).peer
        if not peer:
            return []
        queue = self._queues.get(peer, deque())
        waiting = [entry for entry in queue if entry[0] == number]
        if waiting:
            queue.remove(waiting[0])
            return []
        self._active[peer] -= 1
        if not queue:
            self._queues.pop(peer, None)
            return []
        following, message = queue.popleft()
        self._active[peer] += 1
        return [(self._pending[following].worker, message)]
