"""The worker's state, and the relay's host.

:class:`Worker` owns the pools, the clients and the messages to the acceptor. It waits for nothing:
whatever takes time runs as a task in ``nursery`` (log-ins, connecting, cancelling).
"""

from __future__ import annotations

import logging
import os
import socket
from bisect import bisect_left
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

import attrs
import trio

from poolproxy.auth.scram import ScramKeys, stored_key
from poolproxy.auth.secrets import Secret, parse_secret
from poolproxy.errors import PoolerError
from poolproxy.ipc.channel import Channel
from poolproxy.ipc.codec import schema
from poolproxy.ipc.messages import (
    CancelKey,
    ClientsGone,
    Configure,
    Gather,
    Hold,
    HostSeen,
    Load,
    PoolKey,
    Ready,
    ServerClosed,
    ServerUp,
)
from poolproxy.metrics.registry import BOUNDS
from poolproxy.metrics.schema import WorkerMetrics
from poolproxy.metrics.snapshot import Reported
from poolproxy.pool.draining import Draining
from poolproxy.pool.hosts import Role
from poolproxy.pool.pool import PAUSED, WorkerPool
from poolproxy.relay.client import Client
from poolproxy.relay.closing import Closing
from poolproxy.relay.context import Context, Pool
from poolproxy.relay.engine import Engine
from poolproxy.relay.lane import Lane
from poolproxy.relay.pump import Pump
from poolproxy.relay.server import Server
from poolproxy.settings.access import parse_auth_files
from poolproxy.settings.config import Config, PoolSettings
from poolproxy.settings.hosts import Host
from poolproxy.settings.toml import take_over
from poolproxy.tls.contexts import contexts
from poolproxy.wire import is_compiled
from poolproxy.wire.parameters import Tracker, Values
from poolproxy.worker import server_moves
from poolproxy.worker.cancel import CANCEL_EVERY, Canceller
from poolproxy.worker.departing import Departing
from poolproxy.worker.first_use import first_use
from poolproxy.worker.labels import close_label, disconnect_label
from poolproxy.worker.tls import Handshakes

if TYPE_CHECKING:
    from poolproxy.worker.console import Console
    from poolproxy.worker.hosts import Asked
    from poolproxy.worker.lookup import Found
    from poolproxy.worker.patience import Waiting
    from poolproxy.worker.session import Claim

log = logging.getLogger(__name__)

HERE = -1  # as the number of a worker: this one
# A backend that is busy is asked to stop before its connection ends; it gets this long to hear.
CANCEL_PATIENCE = 2.0  # seconds
REMEMBERED_VALUES = 1024  # sets of parameters that clients share
REMEMBERED_KEYS = 16_384  # SCRAM keys, 64 bytes each
REMEMBERED_PASSWORDS = 4096


class Worker:
    """One worker process. ``slot`` is its number; ``leaving``: "", a mode of Leave, or "orphan"."""

    def __init__(self, channel: Channel, slot: int, configure: Configure) -> None:
        # Long, as it is the list of all that a worker has, one thing in a line.
        self.channel = channel
        self.metrics = WorkerMetrics(slot)
        self.reported = Reported()
        self.load_told = Load(0.0, 0.0)
        self.engine = Engine(quiet=lambda: not self.hurried)
        self.engine.yield_to(channel.fileno())
        self.lane = Lane(self.engine)
        self.hurried = 0  # tasks that a client or the ledger waits for
        self.pools: dict[PoolKey, Pool] = {}
        self.clients: dict[int, Client] = {}
        self.keys: dict[CancelKey, Client] = {}
        self.scram_keys: dict[bytes, ScramKeys] = {}  # by the stored key of the secret they fit
        self.passwords: dict[PoolKey, str] = {}  # what clients have logged in with by pam or ldap
        self.found: dict[tuple[str, str], Found] = {}  # by database and user
        self.printed: dict[tuple[str, ...], tuple[str, float]] = {}
        self.logins: dict[int, Waiting] = {}
        self.closings: dict[Closing, PoolKey] = {}
        self.logging_in = 0
        self.leaving = ""
        self.departing = Departing()
        self.pumps: dict[int, Pump] = {}  # by the ids of clients that another worker serves
        self.homes: dict[PoolKey, Gather] = {}  # of pools whose clients are gathered
        self.left = trio.Event()
        self.cancels: dict[int, trio.Event] = {}
        self.handshakes = Handshakes()
        self.canceller = Canceller(
            self.start, lambda: self.config.settings.cancel_wait_timeout, self.handshakes
        )
        self.goodbyes: set[Closing] = set()  # clients that were told to go and have not closed yet
        self.drains: dict[str, Draining] = {}  # by database, "" for all
        # Clients that hear why when they ask next, or fall silent.
        self.parting: set[Client] = set()
        self.may_leave: Callable[[Client], None] = lambda client: None
        self.admissions: dict[int, Callable[[str], None]] = {}
        self.welcomed: dict[PoolKey, trio.Event] = {}
        self._gone: list[int] = []
        self.departures = trio.Event()
        self._values: dict[Values, Values] = {}
        self.claims: dict[int, Claim] = {}
        self.consoles: dict[int, Console] = {}
        self.held = Hold(0, paused=False, suspended=False, databases=(), disabled=())
        # When RECONNECT of a database ("": of all) was read, for pools that are made later.
        self.reconnected: dict[str, float] = {}
        self.inspections: dict[int, Iterator[tuple[str | None, ...]]] = {}
        self.refusals: dict[PoolKey, PoolerError] = {}
        self.resolving: dict[str, Asked] = {}
        self.places: dict[str, tuple[str, ...]] = {}  # where names lead, as was told last
        self.old_servers: set[Host] = set()  # they know no protocol newer than 3.0
        self.silent_servers: set[Host] = set()  # they gave no answer to a newer one
        self.nursery: trio.Nursery | None = None
        self.context: Context
        self.configure(configure)

    # -- configuration ----------------------------------------------------------------------------

    def configure(self, configure: Configure) -> None:
        """Take a configuration over; connections that exist see its limits at once."""
        self.config = self._load(configure)
        self.old_servers.clear()
        self.silent_servers.clear()
        context = self._context()
        if hasattr(self, "context"):  # connections hold on to the object, so its fields change
            for field in attrs.fields(Context):
                setattr(self.context, field.name, getattr(context, field.name))
        else:
            self.context = context
        config = self.config
        self.idle_limits = bool(
            config.settings.client_idle_timeout
            or any(user.client_idle_timeout for user in config.users.values())
        )

    def ready(self) -> Ready:
        """The message that this worker runs its present configuration."""
        return Ready(os.getpid(), self.generation, schema(), is_compiled())

    def _load(self, configure: Configure) -> Config:
        # The acceptor has validated the same texts, so a ConfigError here is a bug and ends us.
        config = take_over(configure.text, configure.path)
        files = {file.setting: file.text for file in configure.files}
        self.contexts = contexts(config.settings, files)
        sources = {name: getattr(config.settings, name, "") for name in ("auth_file", *files)}
        self.files, _ = parse_auth_files(configure.auth_file, files, sources)
        self.secrets: dict[str, Secret] = {
            name: parse_secret(text) for name, text in self.files.secrets.items()
        }
        self.found.clear()  # another query, or another command, may have another answer
        self.printed.clear()
        self.mock_key = configure.mock_key
        self.generation = configure.generation
        return config

    def _context(self) -> Context:
        settings = self.config.settings
        # A connection's values fit the tracker that made them, so it stays until a restart.
        known = hasattr(self, "context")
        tracker = self.context.tracker if known else Tracker(settings.track_extra_parameters)
        return Context(
            engine=self.engine,
            host=self,
            tracker=tracker,
            max_packet_size=settings.max_packet_size,
        )

    def secret(self, user: str) -> Secret | None:
        """What the user's password is checked against: the users table goes before auth_file."""
        entry = self.config.users.get(user)
        if entry is not None and entry.password is not None:
            return parse_secret(entry.password)
        return self.secrets.get(user)

    def looked_up(self, settings: PoolSettings) -> Found | None:
        """What auth_query has last said of a pool's user, however long ago."""
        lookup = self.config.lookup(settings.database)
        return self.found.get((lookup.database, settings.user)) if lookup is not None else None

    def keep_keys(self, keys: ScramKeys) -> None:
        """A client has logged in by SCRAM: this is what log-ins to a server with the same secret take."""
        if len(self.scram_keys) >= REMEMBERED_KEYS:
            del self.scram_keys[next(iter(self.scram_keys))]
        self.scram_keys[stored_key(keys.client_key)] = keys

    def keep_password(self, database: str, user: str, password: str) -> None:
        """A client has logged in by pam or ldap; PostgreSQL, asking the same service, takes the same."""
        if len(self.passwords) >= REMEMBERED_PASSWORDS:
            del self.passwords[next(iter(self.passwords))]
        self.passwords[PoolKey(database, user)] = password

    # -- pools ------------------------------------------------------------------------------------

    def pool(self, settings: PoolSettings) -> Pool:
        """The pool with these settings, made when it is first asked for."""
        key = PoolKey(settings.database, settings.user)
        pool = self.pools.get(key)
        if pool is None:
            pool = WorkerPool(key, settings, self.config.settings)
            self.apply_orders(pool)
            pool.outdated = max(self.reconnected.get(name, 0.0) for name in ("", key.database))
            self.pools[key] = pool
        return pool

    def home_of(self, key: PoolKey) -> int:
        """The worker at which the pool's clients are to be; HERE also if it has no home."""
        order = self.homes.get(key)
        return HERE if order is None or order.here else order.home

    def apply_orders(self, pool: Pool) -> None:
        """What DRAIN and the pool's home, of which the worker has been told, mean for the pool."""
        order = self.homes.get(pool.key)
        pool.lone = order is not None and order.lone
        drained = {"", pool.key.database} & self.drains.keys()
        pool.set_draining(bool(drained) or self.home_of(pool.key) != HERE)

    def welcome_event(self, key: PoolKey) -> trio.Event:
        """Set when the pool's welcome is known or its servers turn out to refuse us."""
        return self.welcomed.setdefault(key, trio.Event())

    def login_error(self, pool: Pool) -> PoolerError | None:
        """Why log-ins that wait for the pool's welcome must fail now, if PostgreSQL has said so."""
        return None if pool.welcome else self.refusals.get(pool.key)

    def wake_logins(self, key: PoolKey) -> None:
        event = self.welcomed.pop(key, None)
        if event is not None:
            event.set()

    # -- clients ----------------------------------------------------------------------------------

    def client_up(self, client: Client, early: bytes) -> None:
        """The client has logged in; the relay owns its socket from now on, and the ``early`` bytes."""
        self.let_in(client)
        client.pool.stats.client_login_count += 1
        client.begin(early)

    def let_in(self, client: Client) -> None:
        """The client is one of this worker's."""
        self.clients[client.id] = client
        self.keys[client.key] = client
        client.pool.clients += 1

    def let_out(self, client: Client) -> None:
        """It is no more."""
        del self.clients[client.id]
        del self.keys[client.key]
        client.pool.clients -= 1
        self.parting.discard(client)

    def shared_values(self, values: Values) -> Values:
        """An equal tuple that other clients have already: most clients ask for the same."""
        if len(self._values) >= REMEMBERED_VALUES:
            self._values.clear()
        return self._values.setdefault(values, values)

    def client_fails(self, client: Client, message: str) -> None:
        if self.config.settings.log_pooler_errors:
            log.warning("%s pooler error: %s", client.name, message)

    def client_closed(self, client: Client, reason: str, *, error: bool) -> None:
        self.let_out(client)
        self.socket_gone(client.id)
        settings = self.config.settings
        counts = client.pool.stats.client_disconnects
        label = "error" if error else disconnect_label(reason)
        counts[label] = counts.get(label, 0) + 1
        if settings.log_disconnections:
            age = monotonic() - client.connected_at
            log.info("%s closing because: %s (age=%ds)", client.name, reason, age)

    def socket_gone(self, id: int) -> None:
        """An accepted socket is closed; told to the acceptor with the next batch."""
        self._gone.append(id)
        self.departures.set()

    def report_gone(self) -> None:
        """Tell the acceptor which clients have gone since the last call."""
        if self._gone:
            gone, self._gone = self._gone, []
            for start in range(0, len(gone), 4096):
                self.channel.post(ClientsGone(tuple(gone[start : start + 4096])))
        # Somebody at the console is no reason to stay while everybody else is sent away.
        consoles = self.consoles and "" not in self.drains
        leaving = self.departing.clients or self.goodbyes or self.pumps
        here = self.clients or consoles or self.logging_in or leaving
        if self.leaving in ("clients", "retire") and not here:
            self.left.set()

    def between_transactions(self, client: Client) -> None:
        self.may_leave(client)

    # -- servers ----------------------------------------------------------------------------------

    def stops(self, pool: Pool) -> bool:
        """Whether the pool is paused."""
        return self.held.paused or pool.key.database in self.held.databases

    def want(self, pool: Pool, *, probe: bool = False) -> None:
        want = pool.want(probe)
        if want is not None:
            self.channel.post(want)

    def server_up(self, server: Server, up: ServerUp, claim: Claim | None = None) -> None:
        """A server has logged in: it serves the first waiter, then the acceptor hears of it. With a
        ``claim`` it is for a client that logs in.

        In this order, so that the want that the ledger sees next counts this server's client as
        served, and no further server is opened for it.
        """
        pool = server.pool
        pool.opening -= 1
        pool.servers.add(server)
        server.watch()
        pool.stats.connect_time += up.connect_seconds
        pool.stats.connect_hist[bisect_left(BOUNDS, up.connect_seconds)] += 1
        pool.welcomed(pool.welcome or up.parameters)
        self.wake_logins(pool.key)
        if self.stops(pool):
            server.doomed = PAUSED
        if claim is not None and server.doomed:
            claim.refuse()
            claim = None
        with server_moves.keeping(self, pool):
            first_use(server, claim)
            want = pool.refreshed_want()
            if want is not None:
                self.channel.post(want)
            self.channel.post(up)

    def end_server(self, server: Server, reason: str, *, busy: bool, ended: bool) -> None:
        settings = self.config.settings
        counts = server.pool.stats.server_closes
        counts[close_label(reason)] = counts.get(close_label(reason), 0) + 1
        if settings.log_disconnections:
            age = monotonic() - server.connected_at
            log.info("%s closing because: %s (age=%ds)", server.name, reason, age)
        closing = self.close_server_socket(server.sock, server.permit, server.pool)
        if ended:
            closing.end(clean=True)
        elif busy:
            self.start(self._cancel_then_shutdown, server, closing)
        else:
            closing.shutdown()

    def close_server_socket(self, sock: socket.socket, permit: int, pool: Pool) -> Closing:
        """Read the socket to its end; then the permit goes back."""
        timeout = self.config.settings.server_close_timeout

        def on_end(clean: bool) -> None:
            del self.closings[closing]
            if not clean:
                log.warning(
                    "a server connection did not end within server_close_timeout (%gs);"
                    " its permit is used again all the same",
                    timeout,
                )
            self.channel.post(ServerClosed(permit, clean))

        closing = Closing(self.engine, sock, monotonic() + timeout, on_end)
        self.closings[closing] = pool.key
        return closing

    async def _cancel_then_shutdown(self, server: Server, closing: Closing) -> None:
        try:
            await self.canceller.send(server, CANCEL_PATIENCE)
        finally:
            closing.shutdown()
        while not closing.ended:
            await trio.sleep(CANCEL_EVERY)
            await self.canceller.send(server, CANCEL_PATIENCE)

    def server_turned(self, server: Server, role: Role) -> None:
        """A server has turned out to be this now: tell the acceptor, which orders the hosts by it."""
        host = server.host
        self.channel.post(HostSeen(server.pool.key, host.name, host.port, "", role.value, False))

    def hand_over(self, server: Server) -> None:
        server_moves.hand_over(self, server)

    # -- cancel requests --------------------------------------------------------------------------

    def cancel_abandoned(self, server: Server, runs: Callable[[], bool]) -> None:
        self.start(self.canceller.repeat, server, runs)

    def start(self, task: Callable[..., object], *args: object) -> None:
        """Run a task for as long as it takes."""
        assert self.nursery is not None
        self.nursery.start_soon(task, *args)  # type: ignore[arg-type]
