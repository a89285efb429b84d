"""The relayed connections of a worker, which may be late when that costs their clients next to nothing.

Each transaction of a relayed client costs the worker that has its connection two wake-ups, with little to do
at each (see ``pump``). Where the clients wait long for their servers anyway it is cheaper to pass their bytes
on in batches: all processes wake up less often, and find more to do when they do. So all pumps share an epoll
of their own, nested in the worker's, and this *lane* is either armed, and looked at as soon as there is
something, or *held*: then it is looked at once in a tick only, and other connections are served as ever.

Who waits long is measured, from the first bytes of a request to the first ones of its answer. That waiting
clients are many and answers few would tell the mean too, but nothing more: in a transaction of many
statements the first one waits for a server, and the others are answered at once. To delay these means that
the server does nothing meanwhile, and all others wait for it: with transactions of five statements and a pool
of 3 the throughput was a third. So the lane is armed while any answer has not ended with ReadyForQuery
outside of a transaction, but a client that thinks for long is not waited for; and while a good part of the
answers is quick. When it is held an answer seems to take a tick longer, which is quick all the same: a lane
does not keep itself held.

Nor is it held for the clients of a *lone* server, of a pool that has no other one. That and the
worker take turns, one rests while the other one works, so it costs little if a relaying worker wakes up. And
it would cost much if it did not: the kernel keeps both on one core while the others are busy, but if nobody
is woken by an answer the next one is idle, and the server is woken there. That takes as long as the whole
transaction (benchmarks/PROFILE.md). So their answers count as not waited for, each once: if they are few
among others' the lane is held all the same, and one of them does not arm it.

A tick costs such a process some 80 to 100 us, whatever it finds, as its code has left the caches meanwhile,
and each event 4 to 20 us more, by machine; so long ticks save much. Half of one goes by until an answer is
passed on, and a whole one until the request that follows at once is. A relayed client would have fewer turns
than others, by a quarter where a tick is a quarter of the wait. So in the queue of its pool its request
counts as made that much earlier (:func:`lateness`).

A trio task that sleeps between the ticks was not tried: its wake-up costs about as much as one that is saved.
Instead the engine counts the time (:attr:`Engine.held`), between visits to trio.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import cast

from poolproxy.ipc.messages import PoolKey
from poolproxy.relay.engine import BATCH, READ, SHORT, Engine, Peer

log = logging.getLogger(__name__)

# Seconds.
TICK, LONGEST_TICK = 0.002, 0.006
RESOLUTION = 0.001  # of epoll's timeouts, which end late rather than soon
LONG_WAIT = 2.5 * TICK
PART = 2.5  # ticks make up the wait
QUICK = 1.5  # ticks: an answer that the next look finds
NEXT = 2  # the same, if no look was between
LATE = 1.5  # ticks that a relayed client loses: half of one by the answer, one by the next request
WEIGHT = 8  # of a quick answer in the mean
THINKS = 0.05  # seconds in which the next statement of a transaction is waited for
MANY = 128  # answers, of which the mean is
BULK = 8192  # bytes: as much as PostgreSQL writes at a time


def mean_wait(mean: float, waited: float) -> float:
    """The mean for an answer more, in seconds. It begins with nothing, and no answer counts for more than
    what makes a tick the longest: so it takes MANY / 3 of them at least until the lane is held. A quick one
    counts for several: some 17 in a row arm the lane, and one in five keeps it so, such as those of
    another pool. That a single one does was tried: where a stall of the clients lets the queue run empty
    there is one, and the lane was armed for a sixth of the time.
    """
    if waited < QUICK * tick(mean):
        return mean * (1 - WEIGHT / MANY)
    return mean + (min(waited, PART * LONGEST_TICK) - mean) / MANY


def tick(wait: float) -> float:
    """Seconds between two looks at a held lane, whole milliseconds. ``wait``: as :func:`mean_wait`."""
    return min(max(TICK, round(wait / PART / RESOLUTION) * RESOLUTION), LONGEST_TICK)


def lateness(wait: float, since: float) -> float:
    """How much earlier a relayed client of a pool would have made the request that comes now, if nothing were
    late, in seconds. ``wait``: of the first in the queue, in seconds; ``since``: as :func:`may_be_late`, of
    those of that pool.

    In its own queue the client waits ``LATE`` ticks less than the first one, and what its worker measures is
    half a tick more than that, as it sees the answer so much later. Of that, in turn, a tick is a part. But
    ``LONG_WAIT`` is left to be waited for, or a lane that is armed would stay so, and nobody be late.
    """
    ticked = tick(wait * PART / (PART + LATE - 0.5))
    late = min(LATE * (ticked + RESOLUTION / 2), wait - LONG_WAIT)
    return late if late > 0 and since < 2 * ticked else 0.0


def may_be_late(events: int, since: float, wait: float, *, bulk: bool) -> bool:
    """Whether the batch after this one may wait for a tick. ``since``: seconds since there was one with
    something in it, before this; ``wait``: as :func:`mean_wait`, in seconds; ``bulk``: somebody gets or sends
    much, and each batch is only a part of it.

    What comes seldom can't be gathered; and behind a full batch there is more already. To go on only while
    two come in each tick was tried: a fifth of the context switches that are saved are back then. A tick in
    which nothing comes is cheaper than to arm the lane, wake up by way of trio, and hold it again.
    """
    often = 1 < events < BATCH or (events <= 1 and since < 2 * tick(wait))
    return often and wait >= LONG_WAIT and not bulk


class Lane(Engine):
    """The engine of a worker's pumps, watched by ``main``, the worker's; it has no turns of its own.

    ``now``: when the batch was begun. ``wait``, ``bulk``: as in :func:`may_be_late`; a pump sets ``bulk``
    when something that was full takes more. ``armed_until``: so long the rest of an answer, or the next
    statement of a transaction, is waited for. ``until``: when to look next, while it is held. ``lone``: the
    pools with one server.
    """

    def __init__(self, main: Engine) -> None:
        super().__init__()
        self._main = main
        self._fd = self._epoll.fileno()
        self.now = self._before = self.until = self.wait = 0.0
        self.bulk = False
        self.armed_until = 0.0
        self.lone: set[PoolKey] = set()
        self._heard = 0.0
        main.watch(self._fd, self)

    def answered(self, pool: PoolKey, asked_at: float) -> None:
        """A client of ``pool`` gets the first bytes of an answer to a request that was read at ``asked_at``.
        Where that was one look before it could not be seen sooner, and counts as quick even if that look was
        late.
        """
        if pool in self.lone:
            self.wait -= self.wait / MANY  # as if it had not waited
            return
        waited = self.now - asked_at
        if self._main.held is self and asked_at >= self._before and waited < NEXT * tick(self.wait):
            waited = 0.0
        self.wait = mean_wait(self.wait, waited)

    def got(self, size: int) -> None:
        """So many bytes were read at once, which is SHORT or more."""
        self.widen()
        if size >= BULK:
            self.bulk = True

    # -- what the engine calls ----------------------------------------------------------------------

    def readable(self) -> None:
        if self._batch() and self._main.hold(self):
            self._main.modify(self._fd, 0)

    def other_event(self, mask: int) -> None:
        self.readable()

    def crashed(self, error: Exception) -> None:
        # Without a lane they would all wait for ever.
        ends = [received.__self__ for received in self._receivers if received is not None]
        for end in (*ends, *self._watched.values()):
            cast(Peer, end).crashed(error)

    def look(self) -> None:
        """A tick is over. A mistake ends those that it serves, as one in any other callback does."""
        try:
            late = self._batch()
        except Exception as error:
            log.error(
                "relayed connections are closed because of an error in the pooler", exc_info=error
            )
            late = False
            self.crashed(error)
        if not late:
            self.release()

    def release(self) -> None:
        """Be looked at as soon as there is something, from now on."""
        self._main.held = None
        self._main.modify(self._fd, READ)

    def _batch(self) -> bool:
        """Handle what is ready; whether what comes next may wait for a tick."""
        now = monotonic()
        since, self._before, self.now = now - self._heard, self.now, now
        self.bulk = False
        if now > self._wide_until:
            self.size = SHORT
        events = self._epoll.poll(0, BATCH)
        if events:
            self._heard = now
            self._dispatch(events)
        # From now on: else, if all this took a tick, nobody else would ever be served.
        self.until = monotonic() + tick(self.wait)
        if now < self.armed_until:
            return False
        return may_be_late(len(events), since, self.wait, bulk=self.bulk)

    # -- what a pump calls --------------------------------------------------------------------------

    def read_now(self, fd: int) -> None:
        """As of any engine; suspended is the lane with ``main``."""
        if not self._main.is_suspended and fd >= 0:
            self.now = monotonic()
            super().read_now(fd)

    def close(self) -> None:
        """The same, before ``main`` is closed."""
        if self._main.held is self:
            self._main.held = None
        self._main.forget(self._fd)
        super().close()
