"""Hosts the ledger: feeds it what workers say, sends what it decides, keeps its time, and keeps the
duplicates of all server connections.
"""

from __future__ import annotations

import logging
import math
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio

from poolproxy.acceptor.ending import Duplicate, end
from poolproxy.acceptor.limits import has_choice, hosts_of, limits_of, standing_pools
from poolproxy.acceptor.workers import Worker, Workers
from poolproxy.ipc.channel import close_fds
from poolproxy.ipc.messages import (
    Gather,
    HostSeen,
    LoginWant,
    Message,
    NoneIdle,
    NoServer,
    Permit,
    PoolKey,
    ServerClosed,
    ServerFailed,
    ServerOpening,
    ServersCome,
    ServerTaken,
    ServerUp,
    ServerYielded,
    Want,
    WhyWait,
)
from poolproxy.metrics.registry import BOUNDS
from poolproxy.metrics.schema import LedgerMetrics, ProxyMetrics
from poolproxy.pool.holds import Holds
from poolproxy.pool.hosts import Hosts, HostStatistics, Role
from poolproxy.pool.ledger import Connections, Ledger, PoolStatistics, Sends, UnknownPermit
from poolproxy.settings.config import Config
from poolproxy.settings.hosts import Host

log = logging.getLogger("poolproxy.acceptor")


class LedgerHost:
    """The ledger, what is known of the hosts, and the descriptors that back it up. ``nursery`` runs the
    endings of orphans; moves are counted in ``counts``; ``doubt`` is told host names whose addresses can't
    be reached.
    """

    def __init__(
        self,
        config: Config,
        workers: Workers,
        nursery: trio.Nursery,
        counts: ProxyMetrics,
        doubt: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._config = config
        self._closed: frozenset[str] = frozenset()
        self._ledger = Ledger(limits_of(config), standing_pools(config))
        self._hosts = Hosts()
        self._workers = workers
        self._nursery = nursery
        self._doubt = doubt
        self._counts = counts
        self._duplicates: dict[int, Duplicate] = {}
        # By permit: since when it is on its way, and who has sent it.
        self._moving: dict[int, tuple[float, int]] = {}
        self._wake = trio.Event()
        self._freed = trio.Event()
        self._wakes_at = math.inf
        self._ending = 0
        self.timed_out = 0

    # -- what happens to workers and their clients ------------------------------------------------

    def worker_up(self, worker: Worker) -> None:
        self._send(self._ledger.worker_up(worker.number, time.monotonic()))

    def worker_retired(self, worker: Worker) -> None:
        """The worker is about to leave: no server is opened there that no client waits for."""
        self._ledger.worker_retired(worker.number)

    def worker_gone(self, worker: Worker) -> None:
        """Take the dead worker's permits over and end their servers. The process must be gone: while
        it lives it could still use its connections.
        """
        permits, sends = self._ledger.worker_gone(worker.number, time.monotonic())
        self._send(sends)
        if permits:
            log.info("ending %d server connections of %s", len(permits), worker)
        for permit in permits:
            if self._moving.pop(permit, None) is not None:
                self._counts.server_moves["lost"] += 1
            self._give_up(permit)

    def client_up(self, worker: Worker, pool: PoolKey) -> None:
        self._send(self._ledger.client_up(worker.number, pool, time.monotonic()))

    def client_moved(self, source: int | None, target: int, pool: PoolKey | None) -> None:
        """A client is another worker's now."""
        assert pool is not None  # it has logged in
        now = time.monotonic()
        self._send(self._ledger.client_up(target, pool, now))
        if source is not None:
            self._send(self._ledger.client_gone(source, pool, now))

    def gather(self, busy: Mapping[int, float] | None, connections: Connections) -> None:
        """As the ledger's."""
        moves = self._config.settings.client_moves
        sends = self._ledger.gather(busy, time.monotonic(), connections, client_moves=moves)
        for worker, message in sends:
            if isinstance(message, Gather) and message.here:
                log.debug("clients of %s are gathered on worker %d", message.pool, worker)
        self._send(sends)

    def holds(self, worker: Worker, permit: int) -> bool:
        """Whether a server in use there has this permit."""
        return self._ledger.holds(worker.number, permit)

    def server_follows(self, permit: int, worker: int | None) -> None:
        """The server of a client that moves is this worker's from now on; None: that is dead."""
        if permit:
            self._send(self._ledger.server_follows(permit, worker, time.monotonic()))
            if worker is None:
                self._give_up(permit)

    def clients_gone(self, worker: Worker, pools: list[PoolKey]) -> None:
        for pool in pools:
            self._send(self._ledger.client_gone(worker.number, pool, time.monotonic()))

    def close(self) -> None:
        """Close the duplicates that are left when the process ends."""
        while self._duplicates:
            self._duplicates.popitem()[1].close()

    def leave(self) -> None:
        """Open no server any more that no client waits for."""
        self._ledger.leave()

    def hold(self, holds: Holds) -> None:
        """What is paused from now on gets no server connections."""
        self._send(self._ledger.hold(holds.copy().stops, time.monotonic()))
        self._freed.set()
        self._freed = trio.Event()

    async def until_quiet(self, database: str, wanted: Callable[[], bool]) -> None:
        """Wait until no server connection of the database ("": of any) is left, or it is not wanted."""
        while wanted() and not self._ledger.quiet(database):
            await self._freed.wait()

    def pools_unused(self, pools: Sequence[PoolKey]) -> None:
        """No worker has these pools any more."""
        if pools:
            self._send(self._ledger.unused(pools, time.monotonic()))

    def reconnect(self, database: str) -> None:
        """Forget what was learned from the servers of the database, "" means of all."""
        self._send(self._ledger.reconnect(database, time.monotonic()))

    def configure(self, config: Config) -> None:
        """Apply the limits of a new configuration."""
        self._config = config
        self._hosts.configure(hosts_of(config))
        standing = [key for key in standing_pools(config) if key.database not in self._closed]
        limits = limits_of(config, self._closed)
        self._send(self._ledger.configure(limits, standing, time.monotonic()))

    def close_databases(self, names: Iterable[str]) -> None:
        """Keep no servers of these databases open that no client needs; and of others as before."""
        self._closed = frozenset(names)
        self.configure(self._config)

    # -- what workers say of their servers --------------------------------------------------------

    def want(self, worker: Worker, message: Want) -> None:
        self._send(self._ledger.want(worker.number, message, time.monotonic()))

    def why_wait(self, worker: Worker, message: WhyWait) -> None:
        self._send(self._ledger.why_wait(worker.number, message.pool, time.monotonic()))

    def login_want(self, worker: Worker, message: LoginWant) -> None:
        self._send(self._ledger.login_want(worker.number, message, time.monotonic()))

    def server_opening(self, worker: Worker, message: ServerOpening, fds: list[int]) -> None:
        permit = message.permit
        if not self._ledger.holds(worker.number, permit):
            close_fds(fds)
            raise UnknownPermit(f"worker {worker.number} does not hold permit {permit}")
        # A host may have several addresses: the attempt at the one before has failed.
        before = self._duplicates.pop(permit, None)
        if before is not None:
            before.close()
        self._duplicates[permit] = Duplicate(permit, fds[0], message.host, message.port)

    def server_up(self, worker: Worker, message: ServerUp) -> None:
        self._send(self._ledger.server_up(worker.number, message, time.monotonic()))
        duplicate = self._duplicates.get(message.permit)
        if duplicate is not None:
            duplicate.key = message.key

    def server_failed(self, worker: Worker, message: ServerFailed) -> None:
        self._send(self._ledger.server_failed(worker.number, message, time.monotonic()))

    def host_seen(self, message: HostSeen) -> None:
        """A worker has tried a host, or learned what it is."""
        pool = self._config.pool_of((message.pool.database, message.pool.user))
        host, now = Host(message.host, message.port), time.monotonic()
        if message.failure:
            self._doubt(host.name)
        if pool is None or host not in pool.hosts or not has_choice(pool):
            return  # there is nothing to choose, or a reload has changed the hosts meanwhile
        if message.failure:
            pause = self._config.settings.server_login_retry
            self._hosts.failed(host, message.failure, pause, now)
            return
        self._hosts.reached(host, Role(message.role) if message.role else None, now)
        if message.serves:
            self._hosts.serves(pool.hosts, host, pool.load_balance_hosts)

    def server_closed(self, worker: Worker, message: ServerClosed) -> None:
        if not self._ledger.holds(worker.number, message.permit):
            raise UnknownPermit(f"worker {worker.number} does not hold permit {message.permit}")
        duplicate = self._duplicates.pop(message.permit, None)
        if duplicate is not None:
            duplicate.close()
        self._free(message.permit, clean=message.clean)

    # -- servers that move ------------------------------------------------------------------------

    def server_yielded(self, worker: Worker, message: ServerYielded) -> None:
        """A worker has closed its descriptor of a server: send another one to the worker that gets it."""
        now = time.monotonic()
        sends = self._ledger.server_yielded(worker.number, message, now)
        permit = message.server.permit
        goes = any(isinstance(send, ServersCome) for _, send in sends)
        if goes:
            self._moving[permit] = now, worker.number
        self._send(sends)
        if not goes:
            self._give_up(permit)

    def server_taken(self, worker: Worker, message: ServerTaken) -> None:
        """A server has come to its new worker, or was refused."""
        now = time.monotonic()
        sends = self._ledger.server_taken(worker.number, message, now)
        since, sender = self._moving.pop(message.permit, (now, 0))
        if message.taken:
            counts = self._counts
            counts.server_moves["taken" if sender != worker.number else "returned"] += 1
            counts.server_move_time += now - since
            counts.server_move_hist[bisect_left(BOUNDS, now - since)] += 1
        else:
            self._counts.server_moves["refused"] += 1
            self._give_up(message.permit)
        self._send(sends)

    def none_idle(self, message: NoneIdle) -> None:
        self._send(self._ledger.none_idle(message, time.monotonic()))

    def _give_up(self, permit: int) -> None:
        """Nobody has this server any more."""
        self._ending += 1
        self._nursery.start_soon(self._end, permit)

    # -- time -------------------------------------------------------------------------------------

    async def keep_time(self) -> None:
        """Call the ledger when something becomes due. Runs for ever."""
        while True:
            self._wake = trio.Event()
            self._wakes_at = self._deadline()
            with trio.move_on_after(max(0.0, self._wakes_at - time.monotonic())):
                await self._wake.wait()
            self._send(self._ledger.tick(time.monotonic()))

    def _deadline(self) -> float:
        deadline = self._ledger.next_deadline()
        return math.inf if deadline is None else deadline

    @property
    def endings(self) -> int:
        """Server connections of dead workers that have not ended yet."""
        return self._ending

    async def _end(self, permit: int) -> None:
        duplicate = self._duplicates.pop(permit, None)
        try:
            # Without a duplicate the worker died before it connected.
            timeout = self._config.settings.server_close_timeout
            clean = duplicate is None or await end(duplicate, timeout)
        finally:
            self._ending -= 1
        self._free(permit, clean=clean)
        self._workers.notify()

    def _free(self, permit: int, *, clean: bool) -> None:
        if not clean:
            self.timed_out += 1
            log.warning(
                "PostgreSQL did not close a server connection within server_close_timeout (%g s): "
                "until it does, it may see one connection more than the limits allow",
                self._config.settings.server_close_timeout,
            )
        self._send(self._ledger.server_closed(permit, time.monotonic()))
        self._freed.set()
        self._freed = trio.Event()

    def _send(self, sends: Sends) -> None:
        for number, message in sends:
            if isinstance(message, ServersCome):
                self._send_servers(number, message)
            else:
                self._workers.send([(number, self._with_hosts(message))])
        if self._deadline() < self._wakes_at:
            self._wake.set()

    def _send_servers(self, number: int, message: ServersCome) -> None:
        worker = self._workers.get(number)
        if worker is None:
            return  # it has just died, and its permits with it
        (server,) = message.servers
        try:
            fd = os.dup(self._duplicates[server.permit].fd)
        except OSError as error:
            log.error("%s is lost on its way: %s", server.name, error)
            self.server_taken(worker, ServerTaken(server.permit, taken=False, want=None))
            if message.client:
                worker.channel.post(NoServer(message.client))
        else:
            worker.channel.post(message, [fd])

    def _with_hosts(self, message: Message) -> Message:
        """A permit tells where to use it, if there is a choice."""
        if not isinstance(message, Permit):
            return message
        pool = self._config.pool_of((message.pool.database, message.pool.user))
        if pool is None or not has_choice(pool):
            return message
        wanted = pool.target_session_attrs
        hosts = self._hosts.order(pool.hosts, pool.load_balance_hosts, wanted, time.monotonic())
        return attrs.evolve(message, hosts=hosts)

    def hosts(self) -> tuple[HostStatistics, ...]:
        """A row for each host of databases that have a choice of them."""
        return self._hosts.statistics(time.monotonic())

    # -- metrics ----------------------------------------------------------------------------------

    @property
    def granted(self) -> int:
        return self._ledger.granted

    @property
    def returned(self) -> int:
        return self._ledger.granted - self._ledger.held

    def statistics(self) -> tuple[PoolStatistics, ...]:
        """A snapshot of every pool."""
        return self._ledger.statistics()

    @property
    def held(self) -> int:
        return self._ledger.held

    def failing(self, database: str) -> str:
        """Why log-ins to the database's server fail; "" if they don't, or if it has a connected server."""
        rows = [row for row in self._ledger.statistics() if row.pool.database == database]
        reasons = [row.failing for row in rows if row.failing]
        return reasons[0] if reasons and not any(row.up for row in rows) else ""

    def metrics(self) -> list[LedgerMetrics]:
        """A row for each pool."""
        return [
            LedgerMetrics(
                row.pool.database,
                row.pool.user,
                permits=(held := row.opening + row.up + row.moving + row.closing),
                pool_size=row.limits.pool_size,
                reserve_used=max(0, held - row.limits.pool_size) if row.limits.pool_size else 0,
                waiting=row.waiting,
            )
            for row in self._ledger.statistics()
        ]
