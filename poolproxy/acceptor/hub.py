"""What the acceptor knows and how it answers: every message of a worker ends here.

The hub decides nothing itself: clients, cancels and the ledger are pure objects; it brings
messages to them and what they say to the workers. Nothing here waits.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import trio

from poolproxy.acceptor.cancelling import Cancelling
from poolproxy.acceptor.cancels import Cancels
from poolproxy.acceptor.client_moves import ClientMoves
from poolproxy.acceptor.clients import Clients
from poolproxy.acceptor.console import Desk
from poolproxy.acceptor.entrance import Entrance
from poolproxy.acceptor.host import LedgerHost
from poolproxy.acceptor.limits import hosts_of
from poolproxy.acceptor.reports import Reports
from poolproxy.acceptor.resolver import Lookup, Resolver, look_up
from poolproxy.acceptor.workers import State, Worker, Workers
from poolproxy.errors import Mistake
from poolproxy.ipc.channel import close_fds
from poolproxy.ipc.codec import IpcError, schema
from poolproxy.ipc.messages import (
    Admit,
    Bye,
    CancelDone,
    CancelMissed,
    CancelRequest,
    ClientArrived,
    ClientMove,
    ClientsGone,
    ClientUp,
    ConfigFile,
    Configure,
    ConsoleCommand,
    ConsoleNext,
    ConsoleUp,
    Done,
    Drain,
    FindRoom,
    HostSeen,
    Inspected,
    Leave,
    Load,
    Login,
    LoginWant,
    Message,
    NoneIdle,
    Ready,
    RelayEnds,
    Resolve,
    Retire,
    ServerClosed,
    ServerFailed,
    ServerOpening,
    ServerTaken,
    ServerUp,
    ServerYielded,
    Snapshot,
    Unrelay,
    Want,
    WhyWait,
)
from poolproxy.pool.holds import Holds
from poolproxy.pool.ledger import UnknownPermit
from poolproxy.settings.files import LoadedConfig
from poolproxy.settings.write import to_toml

log = logging.getLogger("poolproxy.acceptor")

MOCK_KEY_BYTES = 32
# The part of the time for draining over which clients are sent away; the rest is for transactions that
# last. By then the last of them has been told.
SPREAD = 0.75


# See :class:`poolproxy.acceptor.reload.Reloader`, which it is as soon as there is one.
Reload: TypeAlias = Callable[[Mapping[str, str] | None], Awaitable[Sequence[Mistake]]]


async def cannot_reload(overrides: Mapping[str, str] | None = None) -> Sequence[Mistake]:
    return [Mistake("reload", "poolproxy is still starting")]


class Hub:
    """The acceptor's state. ``leaving``: "", "drain" (clients are sent away between their transactions) or a
    mode of Leave. ``draining``: what workers were told of databases whose clients are sent away.

    ``reload`` reads the configuration again, with these settings on top of it: the mistakes in it, none if
    it is in use now.
    """

    def __init__(
        self, loaded: LoadedConfig, nursery: trio.Nursery, lookup: Lookup = look_up
    ) -> None:
        self.loaded = loaded
        self.generation = 1
        self.leaving = ""
        self.workers = Workers()
        self.clients = Clients()
        self.cancels = Cancels()
        self.cancelling = Cancelling(self, nursery)
        self.entrance = Entrance(self, nursery)
        self.moves = ClientMoves(self)
        self.resolver = Resolver(loaded.config, self.workers, nursery, lookup)
        self.reports = Reports()
        self.host = LedgerHost(
            loaded.config, self.workers, nursery, self.reports.proxy, self.resolver.doubt
        )
        self.holds = Holds()
        self.desk = Desk(self, nursery)
        self.draining: dict[str, Drain] = {}
        self.reload: Reload = cannot_reload
        self._dismissal: tuple[Message, ...] = ()
        self._mock_key = secrets.token_bytes(MOCK_KEY_BYTES)

    # -- configuration and leaving ----------------------------------------------------------------

    def configure_message(self) -> Configure:
        """The configuration in use, for a worker."""
        loaded = self.loaded
        files = tuple(ConfigFile(name, text) for name, text in loaded.files.items())
        return Configure(
            generation=self.generation,
            path=str(loaded.path),
            text=to_toml(loaded.config),
            auth_file=loaded.auth_text,
            mock_key=self._mock_key,
            files=files,
        )

    def configure(self, loaded: LoadedConfig) -> None:
        """Put a new configuration, free of mistakes, into use."""
        self.loaded = loaded
        self.generation += 1
        # First the workers: what the ledger grants now is not for the hosts of before. All that they want
        # is heard later.
        self.workers.broadcast(self.configure_message())
        self.host.configure(loaded.config)
        self.resolver.configure(loaded.config, {host.name for host in hosts_of(loaded.config)})

    def leave(self, mode: str) -> None:
        """Begin to leave; the workers are told by :meth:`dismiss`, when nobody is let in any more."""
        # As PgBouncer: who is suspended has nothing to wait for.
        self.leaving = mode = "now" if self.holds.suspended else mode
        self.host.leave()
        if mode == "now":
            self.dismiss()
        self.workers.notify()

    def dismiss(self, seconds: float = 0.0) -> None:
        """Tell all workers to leave; when draining, within so many seconds."""
        if self.leaving == "drain":
            self._dismissal = (Leave("retire"), Drain("", time.monotonic() + SPREAD * seconds))
        else:
            self._dismissal = (Leave(self.leaving),)
        for worker in self.workers:
            self._send_away(worker)

    def _send_away(self, worker: Worker) -> None:
        worker.state = State.LEAVING
        for message in self._dismissal:
            worker.channel.post(message)

    def retire(self, worker: Worker) -> None:
        """This worker is one too many, or its successor is ready: it gets no new clients, gives its own away
        and leaves with the last.
        """
        if worker.state is State.LEAVING:
            return
        log.info("%s retires: its clients move to the others", worker)
        worker.state = State.LEAVING
        self.moves.rebalancer.worker_gone(worker.number)
        self.host.worker_retired(worker)
        worker.channel.post(Retire(self.loaded.config.settings.worker_retire_timeout))
        self.workers.notify()

    # -- one database -----------------------------------------------------------------------------

    def drain(self, database: str, seconds: float) -> None:
        """Let no more clients into a database, and send its clients away between their transactions, in at
        most so many seconds. It stays closed until :meth:`end_drain`.
        """
        now = time.monotonic()
        drain = Drain(database, now + SPREAD * seconds, now + seconds)
        self.draining[database] = drain
        log.info("draining database %s", database)
        self.host.close_databases(self.draining)
        self.workers.broadcast(drain)

    def end_drain(self, database: str) -> None:
        """Let clients into the database again."""
        if self.draining.pop(database, None) is not None:
            log.info("database %s is open again", database)
            self.host.close_databases(self.draining)
            self.workers.broadcast(Drain(database, 0.0))

    def clients_of(self, database: str) -> int:
        """How many clients the database has that have logged in: 0 when it is drained."""
        return self.clients.count_in(database)

    # -- workers ----------------------------------------------------------------------------------

    def recycle(self, worker: Worker) -> bool:
        """Replace a worker: another one starts in its slot; then its clients move and it leaves. False if it
        is not in full service, or has a predecessor that has not left yet.
        """
        others = [other for other in self.workers if other is not worker]
        if worker.state is not State.READY or any(w.slot == worker.slot for w in others):
            return False
        worker.over.set()
        self.reports.proxy.worker_replacements += 1
        return True

    def worker_gone(self, worker: Worker) -> None:
        """A worker is dead; its process must have ended."""
        self.workers.remove(worker)
        self.entrance.worker_gone(worker)
        lost = self.moves.worker_gone(worker)
        if lost and not self._dismissal:
            log.warning("%s took %d clients with it", worker, lost)
        self.reports.worker_gone(worker)
        self.desk.worker_gone(worker)
        self.workers.send(self.cancels.worker_gone(worker.number))
        self.host.worker_gone(worker)

    def handle(self, worker: Worker, message: Message, fds: list[int]) -> None:
        """Answer one message. Raises IpcError for one that no worker sends."""
        worker.heard = time.monotonic()
        try:
            self._dispatch(worker, message, fds)
        except UnknownPermit as error:
            log.error("%s: %s", worker, error)

    def _dispatch(self, worker: Worker, message: Message, fds: list[int]) -> None:
        # Long, as there are many kinds: to see at one glance who answers which is worth more here than parts
        # that would each have to say that a kind is not theirs.
        match message:
            case Want():
                self.host.want(worker, message)
            case WhyWait():
                self.host.why_wait(worker, message)
            case LoginWant():
                self.host.login_want(worker, message)
            case ServerOpening():
                self.host.server_opening(worker, message, fds)
            case ServerUp():
                self.host.server_up(worker, message)
            case ServerFailed():
                self.host.server_failed(worker, message)
            case ServerClosed():
                self.host.server_closed(worker, message)
            case HostSeen():
                self.host.host_seen(message)
            case Resolve():
                self.resolver.ask(worker, message)
            case ServerYielded():
                self.host.server_yielded(worker, message)
            case ServerTaken():
                self.host.server_taken(worker, message)
            case NoneIdle():
                self.host.none_idle(message)
            case FindRoom():
                self.entrance.find_room(worker, message)
            case Login():
                self._login(worker, message)
            case ClientUp():
                self._client_up(worker, message)
            case ClientsGone(clients):
                self._clients_gone(worker, clients)
            case CancelRequest():
                self.cancelling.request(worker, message)
            case CancelMissed(request):
                self.moves.cancel_missed(worker, request)
            case ClientMove():
                self.moves.begin(worker, message, fds)
            case RelayEnds():
                self.moves.relay_ends(message)
            case Unrelay():
                self.moves.unrelay(worker, message)
            case ClientArrived():
                self.moves.arrived(worker, message)
            case Load():
                self.moves.rebalancer.told(worker.number, message)
            case CancelDone(request):
                self.workers.send(self.cancels.done(worker.number, request))
            case Snapshot(request, data):
                self.host.pools_unused(self.reports.snapshot(worker, request, data))
            case ConsoleUp(client, key, user):
                self.clients.console(worker.number, client, key, user)
            case ConsoleCommand():
                self.desk.command(worker, message)
            case ConsoleNext():
                self.desk.next(worker, message)
            case Inspected() | Done():
                self.desk.answered(worker, message)
            case Ready():
                self._ready(worker, message)
            case Bye(reason):
                worker.farewell = reason
            case _:
                close_fds(fds)
                raise IpcError(f"{type(message).__name__} is not for the acceptor")

    def _login(self, worker: Worker, message: Login) -> None:
        name = message.database, message.user
        bound = self.loaded.config.client(*name)
        limit = self.clients.admit(worker.number, message.client, name, bound)
        worker.channel.post(Admit(message.client, limit))

    def _client_up(self, worker: Worker, message: ClientUp) -> None:
        client, key, pool, user = message.client, message.key, message.pool, message.user
        if self.clients.logged_in(worker.number, client, key, pool, user):
            self.host.client_up(worker, pool)

    def _clients_gone(self, worker: Worker, clients: Sequence[int]) -> None:
        self.desk.clients_gone(clients)
        self.host.clients_gone(worker, self.clients.gone(worker.number, clients))

    def _ready(self, worker: Worker, message: Ready) -> None:
        if worker.ready.is_set():
            return  # it has loaded a newer configuration
        if message.schema != schema():
            raise IpcError(
                "it runs another version of poolproxy than the acceptor: "
                "the package was changed on disk; restart poolproxy"
            )
        worker.ready.set()
        self.reports.proxy.build["compiled"] = "yes" if message.compiled else "no"
        if worker.state is State.STARTING:
            worker.state = State.READY
        self.host.worker_up(worker)
        for drain in self.draining.values():
            worker.channel.post(drain)
        if self._dismissal:
            self._send_away(worker)
        self.workers.notify()

    def worker_of(self, client: int) -> Worker | None:
        """The worker that has this client."""
        number = self.clients.worker_of(client)
        return None if number is None else self.workers.get(number)
