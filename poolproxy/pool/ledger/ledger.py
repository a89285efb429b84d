"""The ledger: who may hold how many server connections, exactly, over all workers.

Pure: every event is a method that takes ``now`` and returns the messages to send, as pairs of
worker and message. A worker is named by a number that is never used again, so that nothing of a
dead worker can be mistaken for its successor's.

A permit counts against pool_size, max_db_connections and max_user_connections from the moment
it is granted until :meth:`Ledger.server_closed`, whoever held it and whatever became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from poolproxy.ipc.messages import (
    LoginWant,
    NoneIdle,
    NoServer,
    PoolKey,
    ServerFailed,
    ServerTaken,
    ServerUp,
    ServerYielded,
    Want,
    Welcome,
)
from poolproxy.pool.ledger import moving, news
from poolproxy.pool.ledger.books import Books, LimitsOf, UnknownPermit
from poolproxy.pool.ledger.coming import Connections
from poolproxy.pool.ledger.gathering import Gathering
from poolproxy.pool.ledger.news import Sends
from poolproxy.pool.ledger.settling import Settling
from poolproxy.pool.ledger.state import (
    NOBODY,
    UNUSED_PAUSE,
    Failure,
    LeaseState,
    PoolStatistics,
    statistics,
)

CANNOT_CONNECT_NOW = "57P03"  # the server is starting up: clients go on waiting for it
REASON_BYTES = 99  # as much of the cached error as PgBouncer repeats


class Ledger:
    """Grants permits, asks them back, and knows which pools fail.

    ``limits_of`` gives the limits of a pool, or None if the configuration has no such database;
    ``standing`` are the pools that min_pool_size fills although no client has come (those with a
    forced user).
    """

    def __init__(self, limits_of: LimitsOf, standing: Iterable[PoolKey] = ()) -> None:
        self._books = Books(limits_of, standing)
        self._settling = Settling(self._books)
        self._gathering = Gathering(self._books)
        for key in self._books.standing:
            self._books.pool(key)

    # -- workers and clients ----------------------------------------------------------------------

    def worker_up(self, worker: int, now: float) -> Sends:
        """A worker is ready."""
        self._books.workers.add(worker)
        return self._settling.settle(list(self._books.pools.values()), now)

    def worker_retired(self, worker: int) -> None:
        """A worker is about to leave, when its clients have: it keeps no servers for others."""
        self._books.retired.add(worker)

    def worker_gone(self, worker: int, now: float) -> tuple[list[int], Sends]:
        """A worker has died. Returns the permits it held: the caller ends those servers, each
        with :meth:`server_closed` when PostgreSQL has closed its end.
        """
        self._books.workers.discard(worker)
        self._books.retired.discard(worker)
        self._gathering.worker_gone(worker)
        orphans = [lease for lease in self._books.leases.values() if lease.worker == worker]
        for lease in orphans:
            self._books.pools[lease.pool].turn(lease, LeaseState.CLOSING, NOBODY)
        sends: Sends = []
        for pool in self._books.pools.values():
            pool.unwant(worker, now)
            pool.waited_at.pop(worker, None)
            pool.clients.pop(worker, None)
            pool.interested.discard(worker)
            pool.logins = {c: w for c, w in pool.logins.items() if w != worker}
            pool.blocked.discard(worker)
            sends += moving.forget_worker(pool, worker)
        self._settling.reclaims.worker_gone(worker, self._books.pools.values())
        sends += self._settling.settle(list(self._books.pools.values()), now)
        return [lease.permit for lease in orphans], sends

    def client_up(self, worker: int, key: PoolKey, now: float) -> Sends:
        """A client has logged in to the pool."""
        pool = self._books.pool(key)
        if pool is None:
            return []
        first = not pool.clients
        pool.clients[worker] = pool.clients.get(worker, 0) + 1
        sends = news.meet(pool, worker)
        # Whether a pool has clients decides about min_pool_size; how many, about nothing.
        return sends + self._settling.settle([pool], now) if first else sends

    def client_gone(self, worker: int, key: PoolKey, now: float) -> Sends:
        """A client of the pool has left."""
        pool = self._books.pools.get(key)
        if pool is None or worker not in pool.clients:
            return []
        pool.clients[worker] -= 1
        if pool.clients[worker]:
            return []
        del pool.clients[worker]  # and others may have what is there
        return self._settling.settle([pool], now)

    def want(self, worker: int, want: Want, now: float) -> Sends:
        """A worker tells its need for servers of a pool, which replaces what it told before."""
        pool = self._books.pool(want.pool)
        if pool is None:
            return []
        sends = news.meet(pool, worker)
        if want.waiting and worker in pool.wants and not (want.login and pool.welcome):
            # Newer figures of a known need enable nothing that is not already due at the deadline, but for
            # servers that are now unequally spread.
            pool.hear(worker, want, now)
            return sends + (self._settling.settle([pool], now) if moving.unequal(pool, now) else [])
        pool.unwant(worker, now)
        if want.login and pool.welcome:
            # The welcome may be all it needs: what else it wants it says again on receipt.
            if worker in self._books.workers and not any(isinstance(m, Welcome) for _, m in sends):
                sends.append((worker, Welcome(pool.key, pool.welcome)))
        elif want.waiting:
            pool.hear(worker, want, now)
        elif want.probe and not pool.in_use:
            sends += self._settling.grant(pool, worker, now)
        return sends + self._settling.settle([pool], now)

    def login_want(self, worker: int, want: LoginWant, now: float) -> Sends:
        """A client that logs in would like a server, or does no more."""
        pool = self._books.pool(want.pool)
        if pool is None:
            return [(worker, NoServer(want.client))]
        sends = news.meet(pool, worker)
        if want.wanted:
            pool.logins[want.client] = worker
        else:
            pool.logins.pop(want.client, None)
            pool.searches.pop(want.client, None)
        return sends + self._settling.settle([pool], now)

    # -- servers ----------------------------------------------------------------------------------

    def server_up(self, worker: int, up: ServerUp, now: float) -> Sends:
        """A server connection has logged in: the pool does not fail, and others may follow."""
        lease, pool = self._books.find(worker, up.permit)
        pool.turn(lease, LeaseState.UP)
        lease.movable = up.movable
        pool.fixed = not any(one.movable for one in pool.leases.values())
        pool.failure, pool.failures = None, 0
        weight = 0.25 if pool.connect_seconds else 1.0
        pool.connect_seconds += weight * (up.connect_seconds - pool.connect_seconds)
        sends: Sends = []
        if not (pool.welcome or lease.outdated) and up.parameters:
            pool.welcome = up.parameters
            sends += news.welcome(pool)
            # It may be all that those who wait for it need; what else they want they say on receipt.
            pool.wants = {w: want for w, want in pool.wants.items() if not want.login}
        return sends + self._settling.settle([pool], now)

    def server_failed(self, worker: int, failed: ServerFailed, now: float) -> Sends:
        """A server connection could not be made; its permit comes back by server_closed."""
        lease, pool = self._books.find(worker, failed.permit)
        pool.turn(lease, LeaseState.CLOSING)
        if not failed.reason or lease.outdated:
            return self._settling.settle([pool], now)
        # PgBouncer counts server_login_retry from the start of the attempt, not from its end.
        pool.failures += 1
        retry_at = lease.granted + pool.pause
        pool.failure = Failure(_cut(failed.reason), failed.sqlstate, retry_at)
        sends: Sends = []
        if pool.failing:
            kill = failed.from_server and failed.sqlstate != CANNOT_CONNECT_NOW
            sends = news.announce(pool, kill_waiting=kill)
        return sends + self._settling.settle([pool], now)

    def server_closed(self, permit: int, now: float) -> Sends:
        """PostgreSQL has closed its end, or never had one, or was given up: the permit is free."""
        lease = self._books.leases.pop(permit, None)
        if lease is None:
            raise UnknownPermit(f"permit {permit} is not held by anyone")
        pool = self._books.pools[lease.pool]
        pool.remove(lease)
        self._books.tally.add(lease.pool, -1)
        self._settling.reclaims.given_back((lease.worker, lease.pool), self._books.related([pool]))
        pool.calls.pop(lease.worker, None)  # as above, and it may have been closed instead of moved
        if lease.state is LeaseState.OPENING:
            pool.rest_until = now + UNUSED_PAUSE
        return self._settling.settle([pool], now)

    # -- servers that move ------------------------------------------------------------------------

    def server_follows(self, permit: int, worker: int | None, now: float) -> Sends:
        """The server of a client that moves is ``worker``'s from now on. None: nobody has it any more; the
        caller ends it.
        """
        lease = self._books.leases.get(permit)
        if lease is None:
            return []
        pool = self._books.pools[lease.pool]
        if worker is None:
            pool.turn(lease, LeaseState.CLOSING, NOBODY)
        else:
            pool.turn(lease, lease.state, worker)
        return self._settling.settle([pool], now)

    def server_yielded(self, worker: int, yielded: ServerYielded, now: float) -> Sends:
        """A worker has let go of a server. One of the messages is a ServersCome for the worker that gets it,
        which answers by :meth:`server_taken`. If there is none, nobody can have it: the caller ends it, as
        one that was not taken.
        """
        lease, pool = self._books.find(worker, yielded.server.permit)
        if lease.state is not LeaseState.UP:
            raise UnknownPermit(f"permit {lease.permit} of worker {worker} is not in use")
        if not yielded.client:
            moving.answered(pool, worker)
        pool.hear(worker, yielded.want, now)
        to, sends = moving.found(pool, yielded)
        client = yielded.client if to is not None else 0
        if to is None:
            to = moving.destination(pool, lease, self._books.heirs(pool, worker), now)
        if to is None:
            pool.turn(lease, LeaseState.CLOSING, NOBODY)
        else:
            sends += news.meet(pool, to)
            sends += moving.send(pool, lease, to, yielded.server, now, client)
        # Everything else has time until it has arrived: while a server moves it serves nobody.
        return sends

    def server_taken(self, worker: int, taken: ServerTaken, now: float) -> Sends:
        """A server has come to a worker. If that has not taken it the caller ends it, with
        :meth:`server_closed` when PostgreSQL has closed its end.
        """
        lease, pool = self._books.find(worker, taken.permit)
        if taken.taken:
            pool.turn(lease, LeaseState.UP)
            self._books.moved[pool.key] += 1
        else:
            pool.turn(lease, LeaseState.CLOSING, NOBODY)
        lease.since = pool.last_move = now
        pool.hear(worker, taken.want, now)
        return self._settling.settle([pool], now)

    def none_idle(self, none: NoneIdle, now: float) -> Sends:
        """A worker has no idle server for another's client that logs in."""
        pool = self._books.pools.get(none.pool)
        return moving.search_on(pool, none.client) if pool is not None else []

    # -- clients that are gathered ----------------------------------------------------------------

    def gather(
        self,
        busy: Mapping[int, float] | None,
        now: float,
        connections: Connections,
        *,
        client_moves: bool = True,
    ) -> Sends:
        """Think about the homes of pools, see ``pool.ledger.gathering``; to be called a few times a second.
        ``busy``: how much of a core each worker uses; None: clients are to stay. Without ``client_moves``
        those that come are relayed. ``connections``: of the pool's clients, by worker.
        """
        if busy is None:
            return self._gathering.give_up(now)
        return self._gathering.plan(now, busy, connections, client_moves=client_moves)

    # -- configuration and time -------------------------------------------------------------------

    def configure(self, limits_of: LimitsOf, standing: Iterable[PoolKey], now: float) -> Sends:
        """New limits hold from now on. Pools of databases that are gone keep their old ones."""
        self._books.limits_of = limits_of
        self._books.standing = tuple(standing)
        sends: Sends = []
        for pool in self._books.pools.values():
            old, pool.limits = pool.limits, limits_of(pool.key) or pool.limits
            if old.target != pool.limits.target:
                sends += news.forget_server(pool)
        for key in self._books.standing:
            self._books.pool(key)
        return sends + self._settling.settle(list(self._books.pools.values()), now)

    def hold(self, stops: Callable[[str], bool], now: float) -> Sends:
        """Databases for which ``stops`` says so are paused: their pools get no permits until it says no."""
        self._books.stops = stops
        return self._settling.settle(list(self._books.pools.values()), now)

    def quiet(self, database: str) -> bool:
        """Whether no server connection of the database is left; "": of any."""
        return not any(
            database in ("", lease.pool.database) for lease in self._books.leases.values()
        )

    def reconnect(self, database: str, now: float) -> Sends:
        """What was learned from the servers of the database ("": of all) holds no longer."""
        pools = [p for p in self._books.pools.values() if database in ("", p.key.database)]
        sends: Sends = []
        for pool in pools:
            sends += news.forget_server(pool)
        return sends + self._settling.settle(pools, now)

    def unused(self, keys: Iterable[PoolKey], now: float) -> Sends:
        """No worker has these pools any more: nothing of them is remembered, but for what is in use again."""
        pools = [p for p in map(self._books.pools.get, keys) if p is not None and not p.used]
        sends: Sends = []
        for pool in pools:
            sends += news.forget_server(pool)
        return sends + self._settling.settle(pools, now)

    def leave(self) -> None:
        """The pooler is shutting down: no server is opened any more that no client waits for."""
        self._books.leaving = True

    def tick(self, now: float) -> Sends:
        """Do what has become due; see :meth:`next_deadline`."""
        due = [
            self._books.pools[key]
            for key, deadline in self._settling.deadlines.items()
            if deadline <= now
        ]
        return self._settling.settle(due, now)

    def next_deadline(self) -> float | None:
        """When :meth:`tick` has to be called if nothing happens before."""
        return min(self._settling.deadlines.values(), default=None)

    def why_wait(self, worker: int, key: PoolKey, now: float) -> Sends:
        """Tell a worker what keeps the pool's clients waiting."""
        pool = self._books.pools.get(key)
        if pool is None:
            return []
        return [(worker, news.wait_reason(pool, self._books.tally.blocker(pool, now), now))]

    def statistics(self) -> tuple[PoolStatistics, ...]:
        """A snapshot of every pool."""
        return tuple(statistics(pool) for pool in self._books.pools.values())

    @property
    def granted(self) -> int:
        """Permits that were ever granted."""
        return self._books.granted

    @property
    def held(self) -> int:
        """Permits that are held now: what was granted and has not come back."""
        return len(self._books.leases)

    def permits(self) -> list[int]:
        """The permits that are held now."""
        return list(self._books.leases)

    def holds(self, worker: int, permit: int) -> bool:
        """Whether ``worker`` holds this permit."""
        lease = self._books.leases.get(permit)
        return lease is not None and lease.worker == worker


def _cut(reason: str) -> str:
    return reason.encode()[:REASON_BYTES].decode(errors="ignore") or "connect failed"
