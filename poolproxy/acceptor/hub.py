"""What the acceptor knows and how it answers: every message of a worker ends here.

The hub decides nothing itself: clients, cancels and the ledger are pure objects; it brings
messages to them and what they say to the workers. Nothing here waits but :meth:`Hub.room`.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import attrs
import trio

from poolproxy.acceptor.accepting import Arrival
from poolproxy.acceptor.balancer import batches, spread
from poolproxy.acceptor.cancels import Cancels, Peer
from poolproxy.acceptor.client_moves import ClientMoves
from poolproxy.acceptor.clients import Client, Clients
from poolproxy.acceptor.console import Desk
from poolproxy.acceptor.host import LedgerHost, hosts_of
from poolproxy.acceptor.reports import Reports
from poolproxy.acceptor.resolver import Lookup, Resolver, look_up
from poolproxy.acceptor.workers import State, Worker, Workers
from poolproxy.errors import Mistake
from poolproxy.ipc.channel import close_fds
from poolproxy.ipc.codec import IpcError, schema
from poolproxy.ipc.messages import (
    Accepted,
    Admit,
    Bye,
    CancelDone,
    CancelKey,
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
    Handoff,
    HostSeen,
    Inspected,
    Leave,
    Load,
    Login,
    LoginWant,
    Message,
    NoneIdle,
    Ready,
    Resolve,
    Retire,
    ServerClosed,
    ServerFailed,
    ServerOpening,
    ServerTaken,
    ServerUp,
    ServerYielded,
    Snapshot,
    Want,
    WhyWait,
)
from poolproxy.pool.holds import Holds
from poolproxy.pool.ledger import UnknownPermit
from poolproxy.settings.files import LoadedConfig
from poolproxy.settings.hosts import Host
from poolproxy.settings.write import to_toml
from poolproxy.wire.peering import passed_on, peer_of, restored

log = logging.getLogger("poolproxy.acceptor")

# While all workers' queues are full there is no event to wait for: look again after this long.
FULL_PAUSE = 0.05
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
        # First the ledger: a worker may want servers of a new database at once.
        self.host.configure(loaded.config)
        self.resolver.configure(loaded.config, {host.name for host in hosts_of(loaded.config)})
        self.workers.broadcast(self.configure_message())

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

    # -- clients that come ------------------------------------------------------------------------

    async def room(self) -> None:
        """Wait until there is a worker that a client can be given to."""
        while self.holds.suspended or not self.workers.taking():
            with trio.move_on_after(FULL_PAUSE):
                await self.workers.changed.wait()

    def take(self, arrivals: Sequence[Arrival]) -> None:
        """Hand accepted sockets to workers; those over max_client_conn with the order to refuse."""
        loads = {
            worker.number: self.clients.load(worker.number) for worker in self.workers.taking()
        }
        if not loads:
            close_fds(arrival.fd for arrival in arrivals)
            return
        free = self.loaded.config.settings.max_client_conn - self.clients.count
        flagged = [(arrival, order >= free) for order, arrival in enumerate(arrivals)]
        self.reports.proxy.refused += sum(refused for _, refused in flagged)
        for number, given in spread(flagged, loads).items():
            for batch in batches(given):
                self._hand_over(number, batch)

    def _hand_over(self, number: int, batch: Sequence[tuple[Arrival, bool]]) -> None:
        worker = self.workers.get(number)
        assert worker is not None  # spread() was given live workers only, and nothing has waited
        accepted = []
        for arrival, refused in batch:
            client = self.clients.next_id()
            self.clients.add(client, number, refused=refused)
            listener = arrival.listener
            accepted.append(
                Accepted(
                    id=client,
                    peer=arrival.peer,
                    port=arrival.port,
                    local=listener.host,
                    local_port=listener.port,
                    accepted_at=arrival.at,
                    refused=refused,
                )
            )
        worker.channel.post(Handoff(tuple(accepted)), [arrival.fd for arrival, _ in batch])

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
            case Login(client, database, user):
                bound = self.loaded.config.client(database, user)
                limit = self.clients.admit(worker.number, client, (database, user), bound)
                worker.channel.post(Admit(client, limit))
            case ClientUp(client, key, pool, user):
                if self.clients.logged_in(worker.number, client, key, pool, user):
                    self.host.client_up(worker, pool)
            case ClientsGone(clients):
                self.desk.clients_gone(clients)
                self.host.clients_gone(worker, self.clients.gone(worker.number, clients))
            case CancelRequest():
                self._cancel(worker, message)
            case CancelMissed(request):
                self.moves.cancel_missed(worker, request)
            case ClientMove():
                self.moves.begin(worker, message, fds)
            case ClientArrived():
                self.moves.arrived(worker, message)
            case Load():
                self.moves.rebalancer.told(worker.number, message)
            case CancelDone(request):
                self.workers.send(self.cancels.done(worker.number, request))
            case Snapshot(request, data):
                self.reports.snapshot(worker, request, data)
            case ConsoleUp(client, key, _):
                self.clients.console(worker.number, client, key)
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

    def _cancel(self, worker: Worker, message: CancelRequest) -> None:
        timeout = self.loaded.config.settings.cancel_wait_timeout
        deadline = time.monotonic() + timeout if timeout else math.inf
        client = self._keeper(message.key)
        if client is not None and client.console:
            self.desk.cancel(client.id)
        secret = passed_on(message.key.secret)
        if client is None and secret and (peer := self._peer(message.key)) is not None:
            key = attrs.evolve(message.key, secret=secret)
            sends = self.cancels.pass_on(worker.number, message.request, key, peer, deadline)
            self.workers.send(sends)
            return
        moving = client is not None and client.moving
        doer = client.worker if client is not None and not (moving or client.console) else None
        key = client.key if client is not None and client.key is not None else message.key
        sends = self.cancels.request(
            worker.number,
            message.request,
            key,
            doer=doer,
            deadline=deadline,
            moving=moving,
        )
        self.workers.send(sends)

    def _keeper(self, key: CancelKey) -> Client | None:
        """The client with this key, which may have come by way of other instances."""
        client = self.clients.with_key(key)
        if client is None and peer_of(key.pid, key.secret) == self.loaded.config.settings.peer_id:
            client = self.clients.with_key(attrs.evolve(key, secret=restored(key.secret)))
        return client

    def _peer(self, key: CancelKey) -> Peer | None:
        """The other instance that has the client with this key, if there is one."""
        config = self.loaded.config
        peer_id = peer_of(key.pid, key.secret)
        entry = config.peers.get(str(peer_id))
        if not config.settings.peer_id or peer_id == config.settings.peer_id or entry is None:
            return None
        limit = entry.pool_size
        limit = config.settings.default_pool_size if limit is None else limit
        return Peer(peer_id, Host(entry.host or "", entry.port), limit)

    def worker_of(self, client: int) -> Worker | None:
        """The worker that has this client."""
        number = self.clients.worker_of(client)
        return None if number is None else self.workers.get(number)

    def expire(self) -> None:
        """Drop cancels that take too long; to be called about once a second."""
        self.workers.send(self.cancels.expire(time.monotonic()))
