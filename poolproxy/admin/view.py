"""What the acceptor knows, as the SHOW commands read it: a snapshot, with the latest reports of workers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import attrs

from poolproxy.admin.averages import Averages
from poolproxy.metrics.merge import printable, summed
from poolproxy.metrics.schema import PoolMetrics, WorkerMetrics
from poolproxy.pool.holds import Holds
from poolproxy.pool.hosts import HostStatistics
from poolproxy.pool.ledger import PoolStatistics
from poolproxy.pool.names import NameStatistics
from poolproxy.settings.config import Config

CONSOLE = "pgbouncer"  # the database of all consoles, and of their pool


@attrs.frozen(kw_only=True)
class WorkerFacts:
    """One worker process. ``silent``, ``age``: seconds. ``metrics``: None before its first report."""

    worker: int
    pid: int
    state: str
    clients: int
    queued: int
    silent: float
    age: float
    metrics: WorkerMetrics | None


@attrs.frozen
class PeerFacts:
    """Cancel requests to another instance: on their way, and waiting for that."""

    peer: int
    active: int
    waiting: int


@attrs.frozen(kw_only=True)
class View:
    """Can be read in another thread. ``rows``: what each worker has counted, and the consoles' own pool;
    ``live``: the pools that there are in workers now, by database and user.

    ``userlist``: users of auth_file.

    ``database_clients`` and ``user_clients``: logged-in clients. ``consoles``: theirs, by user.
    ``now``: monotonic seconds.
    """

    config: Config
    rows: tuple[PoolMetrics, ...]
    live: frozenset[tuple[str, str]]
    averages: Averages
    ledger: tuple[PoolStatistics, ...]
    workers: tuple[WorkerFacts, ...]
    holds: Holds
    userlist: frozenset[str]
    database_clients: Mapping[str, int]
    user_clients: Mapping[str, int]
    hosts: tuple[HostStatistics, ...]
    names: tuple[NameStatistics, ...]
    peers: tuple[PeerFacts, ...]
    clients: int
    consoles: Mapping[str, int]
    version: str
    now: float

    @cached_property
    def pools(self) -> tuple[PoolMetrics, ...]:
        """What was counted of each pool; adding thousands of them up takes a part of a second."""
        return summed(self.rows)

    @cached_property
    def standing(self) -> tuple[PoolMetrics, ...]:
        """Those of ``pools`` that were not given up (autodb_idle_timeout, pool_idle_timeout)."""
        forever = () if self.config.settings.pool_idle_timeout else self.config.databases
        live = {(printable(database), printable(user)) for database, user in self.live}
        return tuple(
            pool
            for pool in self.pools
            if pool.database == CONSOLE
            or pool.database in forever
            or (pool.database, pool.user) in live
        )

    def connections(self, *, database: str = "", user: str = "") -> int:
        """The permits of a database or of a pool user: server connections as PostgreSQL sees them."""
        return sum(
            pool.opening + pool.up + pool.closing
            for pool in self.ledger
            if (pool.pool.database if database else pool.pool.user) == (database or user)
        )
