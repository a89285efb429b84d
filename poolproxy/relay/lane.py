"""The relayed connections of a worker, which may be late when that costs their clients next to nothing.

Each transaction of a relayed client costs the worker that has its connection two wake-ups, with little to do
at each (see ``pump``). Where the clients wait long for their servers anyway it is cheaper to pass their bytes
on in batches: all processes wake up less often, and find more to do when they do. So all pumps share an epoll
of their own, nested in the worker's, and this *lane* is either armed, and looked at as soon as there is
something, or *held*: then it is looked at every TICK only, and other connections are served as ever.

Who waits long is measured, from the first bytes of a request to the first ones of its answer. That waiting
clients are many and answers few would tell the mean too, but nothing more: in a transaction of many
statements the first one waits for a server, and the others are answered at once. To delay these means that
the server does nothing meanwhile, and all others wait for it: with transactions of five statements and a pool
of 3 the throughput was a third. So after a quick answer it takes some dozens of others until the lane is held
again. When it is held an answer seems to take up to two ticks longer, which is quick all the same: a lane
does not keep itself held.

Ticks of 1 and 4 ms were tried too. With 1 ms less is saved, and what 4 ms save more is not worth the delay. A
trio task that sleeps between the ticks was not tried: its wake-up costs about as much as one that is saved.
Instead the engine counts the time (:attr:`Engine.held`). It does so within a turn only: whatever else the
worker has to do finds the lane armed.
"""

from __future__ import annotations

from time import monotonic
from typing import cast

from poolproxy.relay.engine import BATCH, READ, SHORT, Engine, Peer

TICK = 0.002  # seconds; LINGER is the resolution
LONG_WAIT = 8 * TICK  # seconds; a request and its answer are late by half a tick each, as a mean
QUICK = 3 * TICK  # seconds
MANY = 64  # answers, of which the mean is; with a quick one in fifty the lane is armed mostly
BULK = 8192  # bytes: as much as PostgreSQL writes at a time


def mean_wait(mean: float, waited: float) -> float:
    """The mean for an answer more, of those since the last quick one. It begins with nothing, and no answer
    counts for more than twice LONG_WAIT, so in any case it takes MANY * ln(2) of them to be as long as that.
    """
    if waited < QUICK:
        return 0.0
    return mean + (min(waited, 2 * LONG_WAIT) - mean) / MANY


def may_be_late(events: int, since: float, wait: float, *, bulk: bool) -> bool:
    """Whether the batch after this one may wait for a tick. ``since``: seconds since the one before it;
    ``wait``: as :func:`mean_wait`, in seconds; ``bulk``: somebody gets or sends much, and each batch is only
    a part of it.

    What comes seldom can't be gathered; and behind a full batch there is more already. To go on only while
    two come in each tick was tried: a fifth of the context switches that are saved are back then.
    """
    often = 1 < events < BATCH or (events == 1 and since < 2 * TICK)
    return often and wait >= LONG_WAIT and not bulk


class Lane(Engine):
    """The engine of a worker's pumps, watched by ``main``, the worker's; it has no turns of its own.

    ``now``: when the batch was begun. ``wait``, ``bulk``: as in :func:`may_be_late`; a pump sets ``bulk``
    when something that was full takes more. ``until``: when to look next, while it is held.
    """

    def __init__(self, main: Engine) -> None:
        super().__init__()
        self._main = main
        self._fd = self._epoll.fileno()
        self.now = self.until = self.wait = 0.0
        self.bulk = False
        main.watch(self._fd, self)

    def answered(self, waited: float) -> None:
        """Somebody gets the first bytes of an answer, so many seconds after the request."""
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
        """A tick is over."""
        if not self._batch():
            self.release()

    def release(self) -> None:
        """Be looked at as soon as there is something, from now on."""
        self._main.held = None
        self._main.modify(self._fd, READ)

    def _batch(self) -> bool:
        """Handle what is ready; whether what comes next may wait for a tick."""
        now = monotonic()
        since, self.now, self.until = now - self.now, now, now + TICK
        self.bulk = False
        if now > self._wide_until:
            self.size = SHORT
        events = self._epoll.poll(0, BATCH)
        if events:
            self._dispatch(events)
        return may_be_late(len(events), since, self.wait, bulk=self.bulk)

    # -- what a pump calls --------------------------------------------------------------------------

    def read_now(self, fd: int) -> None:
        """As of any engine; suspended is the lane with ``main``."""
        if not self._main.is_suspended and fd >= 0:
            self.now = monotonic()
            super().read_now(fd)

    def close(self) -> None:
        """The same, before ``main`` is closed."""
        self._main.forget(self._fd)
        super().close()
