"""Looks host names up, once for all workers, and again when their time is over.

By the C library's getaddrinfo in a thread, so that /etc/hosts, search domains and whatever else the machine
has count. It tells no TTL: dns_max_ttl stands in its place, as in PgBouncer, which ignores TTLs as well.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import trio

from poolproxy.acceptor.workers import Worker, Workers
from poolproxy.ipc.messages import Resolve
from poolproxy.pool.names import Answer, Names, NameStatistics
from poolproxy.settings.config import Config

log = logging.getLogger("poolproxy.acceptor")

Lookup: TypeAlias = Callable[[str], Awaitable[tuple[str, ...]]]

# The addresses of one name that are tried; the rest would not be reached within any time-out.
MOST_ADDRESSES = 64
# The name server can't be reached or has trouble: that says nothing of the name.
PASSING = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM, socket.EAI_MEMORY})


async def look_up(name: str) -> tuple[str, ...]:
    """The addresses of ``name``, best first; raises OSError."""
    found = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(where[0]) for *_, where in found))


class Resolver:
    """The names of the configuration's hosts. ``nursery`` runs the look-ups."""

    def __init__(
        self, config: Config, workers: Workers, nursery: trio.Nursery, lookup: Lookup = look_up
    ) -> None:
        settings = config.settings
        self._names = Names(settings.dns_max_ttl, settings.dns_nxdomain_ttl)
        self._workers = workers
        self._nursery = nursery
        self._lookup = lookup
        self._wake = trio.Event()

    def configure(self, config: Config, names: Iterable[str]) -> None:
        """Take new times over, and forget all but these ``names``."""
        settings = config.settings
        self._names.configure(names, settings.dns_max_ttl, settings.dns_nxdomain_ttl)
        self._wake.set()

    def ask(self, worker: Worker, message: Resolve) -> None:
        """A worker wants to connect to a name."""
        sends = self._names.ask(message.name, worker.number, time.monotonic())
        if sends is None:
            self._nursery.start_soon(self._run, message.name)
        else:
            self._workers.send(sends)

    def doubt(self, name: str) -> None:
        """No address of the name answers: it may have others by now."""
        self._names.doubt(name)
        self._wake.set()

    async def keep_fresh(self) -> None:
        """Look names up again when it is time. Runs for ever."""
        while True:
            self._wake = trio.Event()
            wait = self._names.next_deadline() - time.monotonic()
            with trio.move_on_after(max(0.0, wait)):
                await self._wake.wait()
            for name in self._names.due(time.monotonic()):
                self._nursery.start_soon(self._run, name)

    def statistics(self) -> tuple[NameStatistics, ...]:
        """A row for each name, as SHOW DNS_HOSTS has them."""
        return self._names.statistics(time.monotonic())

    async def _run(self, name: str) -> None:
        try:
            answer = Answer((await self._lookup(name))[:MOST_ADDRESSES])
        except OSError as error:
            passing = isinstance(error, socket.gaierror) and error.errno in PASSING
            answer = Answer(error=error.strerror or str(error), passing=passing)
        except UnicodeError as error:
            answer = Answer(error=str(error))  # no host name at all to the idna codec
        if not answer.addresses and not answer.error:
            answer = Answer(error="it has no address")
        if answer.error:
            log.warning("can't resolve host %s: %s", name, answer.error)
        everyone = [worker.number for worker in self._workers]
        sends, gone = self._names.answered(name, answer, time.monotonic(), everyone)
        if gone:
            now = ", ".join(answer.addresses)
            log.info("host %s has moved from %s to %s", name, ", ".join(sorted(gone)), now)
        self._workers.send(sends)
        self._wake.set()
