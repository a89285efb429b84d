"""One epoll of our own, nested in trio's.

A trio task for each client costs about 25 us of CPU per transaction more than a plain callback
(measured); so all logged-in connections share one epoll, and trio waits for that one descriptor.

Trio itself costs 15-20 us for each wake-up. Under load the next event is usually less than a
millisecond away, so after a batch the engine lingers: it waits up to LINGER in its own epoll
instead of going back through trio, for at most TURN in all, or HELD_TURN. It does so only while ``quiet``
says that no trio task is in a hurry (no log-in in progress), and not past the arrival of something that
:meth:`Engine.yield_to` was told of: else each log-in would begin up to LINGER late.

What the callbacks of a batch send in answer is written when all of them have run (:attr:`Engine.post`). Each
write wakes a process up, which then competes for the processor and the caches with the rest of the batch; and
to a peer of several connections, such as pgbench, there is more to do at each wake-up.

epoll reports descriptors, and a number may be used again as soon as it is closed: an event later in
the same batch would then reach the wrong connection. Descriptors are therefore closed only after
the batch (:meth:`Engine.close_later`).

What is watched may want to be left alone for a while, as the lane of relayed connections does (``lane``). It
is *held* until a time, and the others are served meanwhile. Turns are longer then, and follow each other.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable, Iterator
from os import read, write
from time import monotonic
from types import MethodType
from typing import Protocol, TypeAlias, cast

import trio

log = logging.getLogger(__name__)

LINGER = 0.001  # seconds; the resolution of epoll_wait
TURN = 0.005  # seconds between two visits to trio's scheduler
# The same while something is held. That is most of what there is to do then, and costs less than a visit.
# With 30 ms a little more would be saved, but log-ins and cancels, which wait for several visits, took 0.1 s
# longer.
HELD_TURN = 0.015
VISITS = 3  # of trio to its tasks between two of these, see Engine.run
BATCH = 128  # events taken at once
CHUNK = 65_536  # bytes read at once
# The same while there is little to read: of a longer object Python asks libc for memory, and gives most of it
# back. That takes twice as many instructions as all the rest of reading.
SHORT = 479
WIDE = 1.0  # seconds to read CHUNK when there was as much as SHORT

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR


class Reader(Protocol):
    """What the engine reads for; an exception ends this connection only. b"" is the end."""

    def received(self, data: bytes) -> None: ...
    def other_event(self, mask: int) -> None: ...
    def crashed(self, error: Exception) -> None: ...


class Watched(Protocol):
    """What reads for itself."""

    def readable(self) -> None: ...
    def other_event(self, mask: int) -> None: ...
    def crashed(self, error: Exception) -> None: ...


class Held(Protocol):
    """What is left alone until a time, by ``monotonic``: ``release`` ends that, and so may ``look``."""

    until: float

    def look(self) -> None: ...
    def release(self) -> None: ...


class Peer(Protocol):
    """What is written to: by the descriptor ``quick``, or, if that is -1, only by ``unsent``."""

    fd: int
    quick: int

    def unsent(self, data: bytes) -> None: ...
    def crashed(self, error: Exception) -> None: ...


Posted: TypeAlias = tuple[int, bytes, Peer]


class _Yield:
    """Ends the engine's turn when its descriptor is readable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def readable(self) -> None:
        self._engine.yielding = True

    def other_event(self, mask: int) -> None:
        self._engine.yielding = True

    def crashed(self, error: Exception) -> None:
        raise error


class Engine:
    """Owns the epoll, and the descriptors of the sockets from :meth:`close_later` on.

    ``post`` takes a peer's ``quick``, bytes for it and the peer, to be written at the end of the batch, or
    at once outside of one. Whoever writes to a peer in another way, closes it or gives it away calls
    :meth:`flush` before. ``posted``: what was posted and is not written yet, at most what a batch has read.
    ``size``: how many bytes to ask for. ``held`` is what is left alone, also between turns.
    """

    def __init__(self, quiet: Callable[[], bool] = lambda: True) -> None:
        self._epoll = select.epoll()
        # By descriptor, as these are small numbers: a dict takes 200 instructions for what a list does in 20.
        self._receivers: list[MethodType | None] = []
        self._reading = 0
        self._watched: dict[int, Watched] = {}
        self._to_close: list[socket.socket] = []
        self._in_batch = False
        self.posted: list[Posted] = []
        self.post: Callable[[Posted], None] = self._post_now
        self._quiet = quiet
        self.size = SHORT
        self._wide_until = 0.0
        self._resumed: trio.Event | None = None
        self.rounds = 0
        self.yielding = False
        self.held: Held | None = None

    def __len__(self) -> int:
        return self._reading + len(self._watched)

    def read_for(self, fd: int, reader: Reader) -> None:
        """Read from ``fd``, which must be non-blocking and no TLS socket."""
        self._epoll.register(fd, READ)
        self._make_room(fd)
        self._receivers[fd] = cast(MethodType, reader.received)
        self._reading += 1

    def read_now(self, fd: int) -> None:
        """Read what is there, not with the next batch, unless suspended. Not to be called in one."""
        if self._resumed is None and 0 <= fd < len(self._receivers):
            self._dispatch([(fd, READ)])

    def watch(self, fd: int, watched: Watched, mask: int = READ) -> None:
        self._epoll.register(fd, mask)
        self._make_room(fd)
        self._watched[fd] = watched

    def yield_to(self, fd: int) -> None:
        """A trio task reads ``fd``: when there is something for it, end the turn."""
        self.watch(fd, _Yield(self))

    def modify(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        if fd < 0 or fd >= len(self._receivers):
            return
        if self._receivers[fd] is not None:
            self._receivers[fd] = None
            self._reading -= 1
        elif self._watched.pop(fd, None) is None:
            return
        self._epoll.unregister(fd)

    def _make_room(self, fd: int) -> None:
        self._receivers += [None] * (fd + 1 - len(self._receivers))

    def close_later(self, sock: socket.socket) -> None:
        """Stop watching now, close when the batch is through; at once if none is being handled."""
        self.forget(sock.fileno())
        if self._in_batch:
            self._to_close.append(sock)
        else:
            sock.close()

    def widen(self) -> None:
        """There may be more to read than was asked for: whoever gets as much as SHORT says so, unless these
        are whole messages.
        """
        self.size = CHUNK
        self._wide_until = monotonic() + WIDE

    async def run(self) -> None:
        """Serve until cancelled; the one task that runs the callbacks."""
        fd = self._epoll.fileno()
        while True:
            if self.held is None:
                await trio.lowlevel.wait_readable(fd)
            else:
                # The turn goes on when all who have waited for this have had theirs, and those whom they have
                # started: a log-in says only in its own task that it is in a hurry.
                for _ in range(VISITS):
                    await trio.lowlevel.checkpoint()
            if self._resumed is None:
                self.turn()
                continue
            if self.held is not None:
                self.held.release()
            await self._resumed.wait()

    @property
    def is_suspended(self) -> bool:
        """Whether no event is handled now."""
        return self._resumed is not None

    def suspend(self) -> None:
        """Handle no event any more until :meth:`resume`."""
        self._resumed = self._resumed or trio.Event()

    def resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def turn(self) -> None:
        """Handle what is ready, and what becomes ready within the time of one turn."""
        now = monotonic()
        end = now + TURN
        if now > self._wide_until:
            self.size = SHORT
        self.yielding = False
        if self.held is not None:
            self._serve_beside(now + HELD_TURN)
        poll = self._epoll.poll
        events = poll(0, BATCH) if self.held is None else []
        while events:
            self._dispatch(events)
            self.rounds += 1
            if self.held is not None:
                self._serve_beside(now + HELD_TURN)
            if self.held is not None or self.yielding or monotonic() > end:
                return
            events = poll(LINGER if self._quiet() else 0, BATCH)

    def hold(self, one: Held) -> bool:
        """Leave ``one`` alone; False if a trio task is in a hurry. Only in a batch, by what is watched."""
        if not self._quiet():
            return False
        self.held = one
        return True

    def _serve_beside(self, end: float) -> None:
        """Go on until nothing is held any more, or the turn is at its ``end``, but for one wait."""
        while self.held is not None:
            now = monotonic()
            if not self._quiet():
                self.held.release()
            elif self.yielding or now >= end:
                return
            elif now >= self.held.until:
                self.held.look()
                self.rounds += 1
            elif events := self._epoll.poll(self.held.until - now, BATCH):
                self._dispatch(events)
                self.rounds += 1

    def _dispatch(self, events: list[tuple[int, int]]) -> None:
        # The usual event, data from a connection, is dealt with right here: a call of a method that reads
        # costs more, and so do a socket's own methods, whose arguments take a tuple. The bound method is what
        # is kept, as an attribute of now a client and now a server would be looked up anew each time.
        receivers, size = self._receivers, self.size
        self._in_batch = True
        self.post = self.posted.append
        for fd, mask in events:
            received = receivers[fd]
            if received is None or mask != READ:
                self._dispatch_other(fd, mask)
                continue
            try:
                data = read(fd, size)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            try:
                received(data)
            except Exception as error:
                self._end_crashed(fd, cast(Reader, received.__self__), error)
        self.flush()
        self.post = self._post_now
        self._in_batch = False
        while self._to_close:
            self._to_close.pop().close()

    def flush(self) -> None:
        """Write what was posted; an error ends the peer only."""
        while self.posted:
            posted = iter(self.posted.copy())
            self.posted.clear()
            for fd, data, peer in posted:
                sent = 0
                if fd >= 0:  # to find out by an error costs 2 us
                    try:
                        sent = write(fd, data)
                    except OSError:
                        pass  # it takes nothing now, or is broken
                if sent != len(data):
                    self._keep(peer, data[sent:])
                    self._flush_rest(posted)

    def _flush_rest(self, posted: Iterator[Posted]) -> None:
        """The same from where a peer had to keep something: more may be meant for that one."""
        for _, data, peer in posted:
            sent = 0
            if peer.quick >= 0:
                try:
                    sent = write(peer.quick, data)
                except OSError:
                    pass
            if sent != len(data):
                self._keep(peer, data[sent:])

    def _keep(self, peer: Peer, data: bytes) -> None:
        try:
            peer.unsent(data)
        except Exception as error:
            self._end_crashed(peer.fd, peer, error)

    def _post_now(self, entry: Posted) -> None:
        self.posted.append(entry)
        self.flush()

    def _dispatch_other(self, fd: int, mask: int) -> None:
        received = self._receivers[fd]
        one = self._watched.get(fd) if received is None else cast(Reader, received.__self__)
        if one is None:
            return  # ended earlier in this batch
        try:
            if mask == READ:
                self._watched[fd].readable()
            else:
                one.other_event(mask)
        except Exception as error:
            self._end_crashed(fd, one, error)

    def _end_crashed(self, fd: int, one: Reader | Watched | Peer, error: Exception) -> None:
        log.error("a connection is closed because of an error in the pooler", exc_info=error)
        try:
            one.crashed(error)
        except Exception:
            # Its state is beyond repair; without its descriptor it can do no harm.
            log.exception("a connection could not be closed in order")
            self.forget(fd)

    def close(self) -> None:
        """Close the epoll and what waits for its close; the owner has ended all connections before."""
        while self._to_close:
            self._to_close.pop().close()
        self._epoll.close()
