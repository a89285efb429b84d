"""All that is listened on, for clients and for metrics, and how a reload changes it.

New doors are opened before old ones are closed, and who stands in the queue of an old one is let in before
that, so that no client sees a refusal.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import attrs
import trio

from poolproxy.acceptor.accepting import Arrival, sweep
from poolproxy.acceptor.http import listen
from poolproxy.acceptor.listeners import Listener, open_listeners, reopen_listeners
from poolproxy.acceptor.system import Account, become, find_account
from poolproxy.acceptor.systemd import METRICS, Inherited
from poolproxy.settings.schema import Settings

log = logging.getLogger("poolproxy.acceptor")

# What decides which listeners there are and how they are.
LISTENING = (
    "listen_addr",
    "listen_port",
    "listen_backlog",
    "unix_socket_dir",
    "unix_socket_mode",
    "unix_socket_group",
)

CLIENTS = "clients"

Accept = Callable[[Listener], Awaitable[None]]
Serve = Callable[..., Awaitable[None]]


@attrs.define(eq=False)
class Opening:
    """Doors that are open but not used yet. None: as they are."""

    listeners: list[Listener] | None = None
    metrics: list[socket.socket] | None = None

    def close(self, present: Sequence[Listener]) -> None:
        """Undo it."""
        for listener in self.listeners or ():
            if listener not in present:
                listener.close()
        for sock in self.metrics or ():
            sock.close()


class Doors:
    """Owns the listening sockets. ``accept`` runs for each of those of clients until it is cancelled,
    ``serve`` is :func:`serve_http` but for its sockets and its end; ``take`` gets what is left in a queue.
    ``inherited``: CLIENTS, METRICS or both, where the sockets are not ours to change.
    """

    def __init__(self, listeners: list[Listener], metrics: list[socket.socket]) -> None:
        self.listeners = listeners
        self.metrics = metrics
        self._served: list[socket.socket] = []  # owned by serve_http
        self.inherited: frozenset[str] = frozenset()
        self._accepting: dict[Listener, trio.CancelScope] = {}
        self._serving = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._accept: Accept
        self._serve: Serve
        self._take: Callable[[list[Arrival]], None]

    async def open(
        self,
        nursery: trio.Nursery,
        *,
        accept: Accept,
        serve: Serve,
        take: Callable[[list[Arrival]], None],
    ) -> None:
        """Let clients and scrapers in."""
        self._nursery, self._accept, self._serve, self._take = nursery, accept, serve, take
        for listener in self.listeners:
            self._start(listener)
        await self._serve_metrics(self.metrics)

    def _start(self, listener: Listener) -> None:
        if self._nursery is not None:
            self._accepting[listener] = scope = trio.CancelScope()
            self._nursery.start_soon(self._run, listener, scope)
            log.info("listening on %s", listener.name)

    async def _run(self, listener: Listener, scope: trio.CancelScope) -> None:
        with scope:
            await self._accept(listener)

    async def _serve_metrics(self, sockets: list[socket.socket]) -> None:
        self.metrics = sockets
        if sockets and self._nursery is not None:
            self.metrics, self._served = [], sockets
            self._serving = over = trio.Event()
            await self._nursery.start(partial(self._serve, sockets, stop=over.wait))

    # -- reload -----------------------------------------------------------------------------------

    def prepare(self, old: Settings, new: Settings) -> Opening:
        """Open what ``new`` asks for beside what there is. Raises ConfigError; then nothing has changed."""
        opening = Opening()
        try:
            if METRICS not in self.inherited and new.metrics_listen != old.metrics_listen:
                address = new.metrics_listen
                present = self.metrics or self._served
                opening.metrics = listen(address.host, address.port, present) if address else []
            changed = any(getattr(old, name) != getattr(new, name) for name in LISTENING)
            if changed and CLIENTS not in self.inherited:
                opening.listeners = reopen_listeners(new, self.listeners)
        except BaseException:
            opening.close(self.listeners)
            raise
        return opening

    async def commit(self, opening: Opening) -> None:
        """Use what was prepared, and close what is not wanted any more."""
        if opening.listeners is not None:
            before, self.listeners = self.listeners, opening.listeners
            for listener in self.listeners:
                if listener not in before:
                    self._start(listener)
            for listener in before:
                if listener not in self.listeners:
                    self._close(listener)
        if opening.metrics is not None:
            self._serving.set()
            self._served = []
            for sock in self.metrics:
                sock.close()
            await self._serve_metrics(opening.metrics)

    # -- the end ----------------------------------------------------------------------------------

    def close_to_clients(self) -> None:
        """Let in who waits, then listen no more. There must be workers yet."""
        while self.listeners:
            self._close(self.listeners.pop())

    def _close(self, listener: Listener) -> None:
        scope = self._accepting.pop(listener, None)
        if scope is not None:
            scope.cancel()
            while arrivals := sweep(listener)[0]:
                self._take(arrivals)
            log.info("no longer listening on %s", listener.name)
        listener.close()

    def close(self) -> None:
        """Close all at once."""
        for listener in self.listeners:
            listener.close()
        self.listeners = []
        for sock in self.metrics:
            sock.close()


def open_doors(settings: Settings, inherited: Inherited) -> Doors:
    """Open all that the settings name, or use what systemd has passed; then give up root.

    Raises ConfigError for what the system refuses.
    """
    account = find_account(settings.user) if settings.user else None
    doors = Doors(inherited.clients or open_listeners(settings), inherited.metrics)
    kinds = {CLIENTS: inherited.clients, METRICS: inherited.metrics}
    doors.inherited = frozenset(kind for kind, sockets in kinds.items() if sockets)
    warn_of_ignored(settings, doors.inherited)
    try:
        address = settings.metrics_listen
        if address is not None and METRICS not in doors.inherited:
            doors.metrics = listen(address.host, address.port)
        if account is not None:
            _give_up_root(account, doors.listeners)
    except BaseException:
        doors.close()
        raise
    return doors


def warn_of_ignored(settings: Settings, inherited: frozenset[str]) -> None:
    """Name the settings of listening that say something, and don't count: systemd has passed sockets."""
    defaults = Settings()
    for kind, names in ((CLIENTS, LISTENING), (METRICS, ("metrics_listen",))):
        for name in names if kind in inherited else ():
            if getattr(settings, name) != getattr(defaults, name):
                log.warning("%s: where to listen is up to systemd, which has passed sockets", name)


def _give_up_root(account: Account, listeners: Sequence[Listener]) -> None:
    for listener in listeners:
        if listener.path and os.geteuid() == 0:
            # Its owner may remove it from a folder such as /tmp when we end.
            os.chown(listener.path, account.uid, -1)
    become(account)
