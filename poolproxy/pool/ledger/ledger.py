"""The ledger: who may hold how many server connections, exactly, over all workers.

Pure: every event is a method that takes ``now`` and returns the messages to send, as pairs of
worker and message. A worker is named by a number that is never used again, so that nothing of a
dead worker can be mistaken for its successor's.

A permit counts against pool_size, max_db_connections and max_user_connections from the moment
it is granted until :meth:`Ledger.server_closed`, whoever held it and whatever became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from poolproxy.ipc.messages import (
    LoginWant,
    NoneIdle,
    NoServer,
    Permit,
    PoolKey,
    ServerFailed,
    ServerTaken,
    ServerUp,
    ServerYielded,
    Want,
    Welcome,
)
from poolproxy.pool.ledger import moving, news
from poolproxy.pool.ledger.limits import Blocker, PoolLimits
from poolproxy.pool.ledger.logins import late, tell_blocked
from poolproxy.pool.ledger.news import Sends
from poolproxy.pool.ledger.order import in_turn, rivals, urgency
from poolproxy.pool.ledger.reclaims import Reclaims
from poolproxy.pool.ledger.sharing import applicant_of, holders_of, holdings, plan
from poolproxy.pool.ledger.state import (
    NOBODY,
    UNUSED_PAUSE,
    Ask,
    Failure,
    Lease,
    LeaseState,
    PoolState,
    PoolStatistics,
    statistics,
)
from poolproxy.pool.ledger.tally import Tally

LimitsOf = Callable[[PoolKey], PoolLimits | None]

CANNOT_CONNECT_NOW = "57P03"  # the server is starting up: clients go on waiting for it
REASON_BYTES = 99  # as much of the cached error as PgBouncer repeats


class UnknownPermit(LookupError):
    """A worker spoke of a permit that it does not hold."""


class Ledger:
    """Grants permits, asks them back, and knows which pools fail.

    ``limits_of`` gives the limits of a pool, or None if the configuration has no such database;
    ``standing`` are the pools that min_pool_size fills although no client has come (those with a
    forced user).
    """

    def __init__(self, limits_of: LimitsOf, standing: Iterable[PoolKey] = ()) -> None:
        self._limits_of = limits_of
        self._pools: dict[PoolKey, PoolState] = {}
        self._leases: dict[int, Lease] = {}
        self._workers: set[int] = set()
        self._retired: set[int] = set()
        self._tally = Tally()
        self._reclaims = Reclaims()
        self._deadlines: dict[PoolKey, float] = {}
        self._restless: dict[PoolKey, PoolState] = {}
        self._last_permit = 0
        self._leaving = False
        self._stops: Callable[[str], bool] = lambda database: False
        self._standing = tuple(standing)
        for key in self._standing:
            self._pool(key)

    # -- workers and clients ----------------------------------------------------------------------

    def worker_up(self, worker: int, now: float) -> Sends:
        """A worker is ready."""
        self._workers.add(worker)
        return self._settle(list(self._pools.values()), now)

    def worker_retired(self, worker: int) -> None:
        """A worker is about to leave, when its clients have: it keeps no servers for others."""
        self._retired.add(worker)

    def worker_gone(self, worker: int, now: float) -> tuple[list[int], Sends]:
        """A worker has died. Returns the permits it held: the caller ends those servers, each
        with :meth:`server_closed` when PostgreSQL has closed its end.
        """
        self._workers.discard(worker)
        self._retired.discard(worker)
        orphans = [lease for lease in self._leases.values() if lease.worker == worker]
        for lease in orphans:
            self._pools[lease.pool].turn(lease, LeaseState.CLOSING, NOBODY)
        sends: Sends = []
        for pool in self._pools.values():
            pool.wants.pop(worker, None)
            pool.clients.pop(worker, None)
            pool.interested.discard(worker)
            pool.logins = {c: w for c, w in pool.logins.items() if w != worker}
            pool.blocked.discard(worker)
            sends += moving.forget_worker(pool, worker)
        self._reclaims.worker_gone(worker, self._pools.values())
        sends += self._settle(list(self._pools.values()), now)
        return [lease.permit for lease in orphans], sends

    def client_up(self, worker: int, key: PoolKey, now: float) -> Sends:
        """A client has logged in to the pool."""
        pool = self._pool(key)
        if pool is None:
            return []
        first = not pool.clients
        pool.clients[worker] = pool.clients.get(worker, 0) + 1
        sends = news.meet(pool, worker)
        # Whether a pool has clients decides about min_pool_size; how many, about nothing.
        return sends + self._settle([pool], now) if first else sends

    def client_gone(self, worker: int, key: PoolKey, now: float) -> Sends:
        """A client of the pool has left."""
        pool = self._pools.get(key)
        if pool is None or worker not in pool.clients:
            return []
        pool.clients[worker] -= 1
        if not pool.clients[worker]:
            del pool.clients[worker]
        return [] if pool.clients else self._settle([pool], now)

    def want(self, worker: int, want: Want, now: float) -> Sends:
        """A worker tells its need for servers of a pool, which replaces what it told before."""
        pool = self._pool(want.pool)
        if pool is None:
            return []
        sends = news.meet(pool, worker)
        if want.waiting and worker in pool.wants and not (want.login and pool.welcome):
            # Newer figures of a known need enable nothing that is not already due at the deadline, but for
            # servers that are now unequally spread.
            pool.hear(worker, want, now)
            return sends + (self._settle([pool], now) if moving.unequal(pool, now) else [])
        pool.wants.pop(worker, None)
        if want.login and pool.welcome:
            # The welcome may be all it needs: what else it wants it says again on receipt.
            if worker in self._workers and not any(isinstance(m, Welcome) for _, m in sends):
                sends.append((worker, Welcome(pool.key, pool.welcome)))
        elif want.waiting:
            pool.hear(worker, want, now)
        elif want.probe and not pool.in_use:
            sends += self._grant(pool, worker, now)
        return sends + self._settle([pool], now)

    def login_want(self, worker: int, want: LoginWant, now: float) -> Sends:
        """A client that logs in would like a server, or does no more."""
        pool = self._pool(want.pool)
        if pool is None:
            return [(worker, NoServer(want.client))]
        sends = news.meet(pool, worker)
        if want.wanted:
            pool.logins[want.client] = worker
        else:
            pool.logins.pop(want.client, None)
            pool.searches.pop(want.client, None)
        return sends + self._settle([pool], now)

    # -- servers ----------------------------------------------------------------------------------

    def server_up(self, worker: int, up: ServerUp, now: float) -> Sends:
        """A server connection has logged in: the pool does not fail, and others may follow."""
        lease, pool = self._find(worker, up.permit)
        pool.turn(lease, LeaseState.UP)
        lease.movable = up.movable
        pool.failure, pool.failures = None, 0
        weight = 0.25 if pool.connect_seconds else 1.0
        pool.connect_seconds += weight * (up.connect_seconds - pool.connect_seconds)
        sends: Sends = []
        if not pool.welcome and up.parameters:
            pool.welcome = up.parameters
            sends += news.welcome(pool)
            # It may be all that those who wait for it need; what else they want they say on receipt.
            pool.wants = {w: want for w, want in pool.wants.items() if not want.login}
        return sends + self._settle([pool], now)

    def server_failed(self, worker: int, failed: ServerFailed, now: float) -> Sends:
        """A server connection could not be made; its permit comes back by server_closed."""
        lease, pool = self._find(worker, failed.permit)
        pool.turn(lease, LeaseState.CLOSING)
        if not failed.reason:
            return self._settle([pool], now)
        # PgBouncer counts server_login_retry from the start of the attempt, not from its end.
        pool.failures += 1
        retry_at = lease.granted + pool.pause
        pool.failure = Failure(_cut(failed.reason), failed.sqlstate, retry_at)
        sends: Sends = []
        if pool.failing:
            kill = failed.from_server and failed.sqlstate != CANNOT_CONNECT_NOW
            sends = news.announce(pool, kill_waiting=kill)
        return sends + self._settle([pool], now)

    def server_closed(self, permit: int, now: float) -> Sends:
        """PostgreSQL has closed its end, or never had one, or was given up: the permit is free."""
        lease = self._leases.pop(permit, None)
        if lease is None:
            raise UnknownPermit(f"permit {permit} is not held by anyone")
        pool = self._pools[lease.pool]
        pool.remove(lease)
        self._tally.add(lease.pool, -1)
        self._reclaims.given_back((lease.worker, lease.pool), self._related([pool]))
        pool.calls.pop(lease.worker, None)  # as above, and it may have been closed instead of moved
        if lease.state is LeaseState.OPENING:
            pool.rest_until = now + UNUSED_PAUSE
        return self._settle([pool], now)

    # -- servers that move ------------------------------------------------------------------------

    def server_follows(self, permit: int, worker: int | None, now: float) -> Sends:
        """The server of a client that moves is ``worker``'s from now on. None: nobody has it any more; the
        caller ends it.
        """
        lease = self._leases.get(permit)
        if lease is None:
            return []
        pool = self._pools[lease.pool]
        if worker is None:
            pool.turn(lease, LeaseState.CLOSING, NOBODY)
        else:
            pool.turn(lease, lease.state, worker)
        return self._settle([pool], now)

    def server_yielded(self, worker: int, yielded: ServerYielded, now: float) -> Sends:
        """A worker has let go of a server. One of the messages is a ServersCome for the worker that gets it,
        which answers by :meth:`server_taken`. If there is none, nobody can have it: the caller ends it, as
        one that was not taken.
        """
        lease, pool = self._find(worker, yielded.server.permit)
        if lease.state is not LeaseState.UP:
            raise UnknownPermit(f"permit {lease.permit} of worker {worker} is not in use")
        if not yielded.client:
            moving.answered(pool, worker)
        pool.hear(worker, yielded.want, now)
        to, sends = moving.found(pool, yielded)
        client = yielded.client if to is not None else 0
        if to is None:
            to = moving.destination(pool, lease, self._heirs(pool, worker), now)
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
        lease, pool = self._find(worker, taken.permit)
        if taken.taken:
            pool.turn(lease, LeaseState.UP)
        else:
            pool.turn(lease, LeaseState.CLOSING, NOBODY)
        lease.since = pool.last_move = now
        pool.hear(worker, taken.want, now)
        return self._settle([pool], now)

    def none_idle(self, none: NoneIdle, now: float) -> Sends:
        """A worker has no idle server for another's client that logs in."""
        pool = self._pools.get(none.pool)
        return moving.search_on(pool, none.client) if pool is not None else []

    # -- configuration and time -------------------------------------------------------------------

    def configure(self, limits_of: LimitsOf, standing: Iterable[PoolKey], now: float) -> Sends:
        """New limits hold from now on. Pools of databases that are gone keep their old ones."""
        self._limits_of = limits_of
        self._standing = tuple(standing)
        sends: Sends = []
        for pool in self._pools.values():
            old, pool.limits = pool.limits, limits_of(pool.key) or pool.limits
            if old.target != pool.limits.target:
                sends += news.forget_server(pool)
        for key in self._standing:
            self._pool(key)
        return sends + self._settle(list(self._pools.values()), now)

    def hold(self, stops: Callable[[str], bool], now: float) -> Sends:
        """Databases for which ``stops`` says so are paused: their pools get no permits until it says no."""
        self._stops = stops
        return self._settle(list(self._pools.values()), now)

    def quiet(self, database: str) -> bool:
        """Whether no server connection of the database is left; "": of any."""
        return not any(database in ("", lease.pool.database) for lease in self._leases.values())

    def reconnect(self, database: str, now: float) -> Sends:
        """What was learned from the servers of the database ("": of all) holds no longer."""
        pools = [p for p in self._pools.values() if database in ("", p.key.database)]
        sends: Sends = []
        for pool in pools:
            sends += news.forget_server(pool)
        return sends + self._settle(pools, now)

    def leave(self) -> None:
        """The pooler is shutting down: no server is opened any more that no client waits for."""
        self._leaving = True

    def tick(self, now: float) -> Sends:
        """Do what has become due; see :meth:`next_deadline`."""
        due = [self._pools[key] for key, deadline in self._deadlines.items() if deadline <= now]
        return self._settle(due, now)

    def next_deadline(self) -> float | None:
        """When :meth:`tick` has to be called if nothing happens before."""
        return min(self._deadlines.values(), default=None)

    def why_wait(self, worker: int, key: PoolKey, now: float) -> Sends:
        """Tell a worker what keeps the pool's clients waiting."""
        pool = self._pools.get(key)
        if pool is None:
            return []
        return [(worker, news.wait_reason(pool, self._tally.blocker(pool, now), now))]

    def statistics(self) -> tuple[PoolStatistics, ...]:
        """A snapshot of every pool."""
        return tuple(statistics(pool) for pool in self._pools.values())

    @property
    def granted(self) -> int:
        """Permits that were ever granted."""
        return self._last_permit

    @property
    def held(self) -> int:
        """Permits that are held now: what was granted and has not come back."""
        return len(self._leases)

    def permits(self) -> list[int]:
        """The permits that are held now."""
        return list(self._leases)

    def holds(self, worker: int, permit: int) -> bool:
        """Whether ``worker`` holds this permit."""
        lease = self._leases.get(permit)
        return lease is not None and lease.worker == worker

    # -- granting ---------------------------------------------------------------------------------

    def _settle(self, pools: list[PoolState], now: float) -> Sends:
        """After a change in ``pools``: grant what can be granted, ask back what must be."""
        self._restless.update((pool.key, pool) for pool in pools)
        affected = self._related(pools)
        sends: Sends = []
        for pool in sorted(affected, key=urgency):
            sends += self._serve(pool, now)
        for pool in affected:
            recheck = self._contend(pool, now)
            sends += moving.messages(pool)
            sends += tell_blocked(pool, self._stuck(pool, now))
            deadline = self._deadline(pool, recheck, now)
            if deadline is None:
                self._deadlines.pop(pool.key, None)
            else:
                self._deadlines[pool.key] = deadline
            if bool(pool.announced) != bool(pool.failing):
                sends += news.announce(pool)
            if deadline is not None or pool.restless or self._tally.exceeded(pool):
                self._restless[pool.key] = pool
            else:
                self._restless.pop(pool.key, None)
            if pool.forgettable and deadline is None and pool.key not in self._standing:
                sends += news.forget_server(pool)
                del self._pools[pool.key]
                self._restless.pop(pool.key, None)
        return sends + self._reclaims.messages()

    def _related(self, pools: list[PoolState]) -> list[PoolState]:
        """``pools`` and those that share one of their limits, each once, but for those at rest: what changes
        elsewhere is nothing to them, and there may be thousands.
        """
        databases = {p.key.database for p in pools if p.limits.max_db_connections}
        users = {p.key.user for p in pools if p.limits.max_user_connections}
        found = {pool.key: pool for pool in pools}
        if databases or users:
            for key, pool in self._restless.items():
                if key.database in databases or key.user in users:
                    found[key] = pool
        return list(found.values())

    def _serve(self, pool: PoolState, now: float) -> Sends:
        """Start the pool's next connection attempt, if one is needed and allowed."""
        sends = self._serve_login(pool, now)
        applicants = in_turn(pool)
        if applicants:
            if self._tally.blocker(pool, now) is None:
                sends += self._grant(pool, applicants[0], now)
        elif pool.lacks_minimum and self._workers - self._retired and not self._leaving:
            sends += self._grant(pool, self._least_laden(pool), now)
        return sends

    def _serve_login(self, pool: PoolState, now: float) -> Sends:
        if not pool.logins:
            return []
        sends: Sends = []
        waits = self._is_hopeless(pool)
        for client, worker in late(pool, 0 if waits else self._tally.room(pool)):
            sends += [(worker, NoServer(client))] if waits else moving.search(pool, client, worker)
        if pool.logins and not pool.opening and now >= pool.rest_until:
            client, worker = next(iter(pool.logins.items()))
            del pool.logins[client]
            sends += self._grant(pool, worker, now, client)
        return sends

    def _is_hopeless(self, pool: PoolState) -> bool:
        """Whether clients that log in get no server: none where anybody waits."""
        waits = any(p.wants for p in self._related([pool]))
        return bool(pool.failure) or self._leaving or self._stops(pool.key.database) or waits

    def _grant(self, pool: PoolState, worker: int, now: float, client: int = 0) -> Sends:
        if pool.opening or self._retries_later(pool, now) or self._tally.blocker(pool, now):
            return []
        if self._stops(pool.key.database):
            return []
        self._last_permit += 1
        lease = Lease(self._last_permit, pool.key, worker, now, pool.keeps)
        pool.add(lease)
        self._leases[lease.permit] = lease
        self._tally.add(pool.key, 1)
        if worker in pool.promised:
            pool.promised.remove(worker)
        permit = Permit(lease.permit, pool.key, lease.keep, client)
        return [*news.meet(pool, worker), (worker, permit)]

    def _stuck(self, pool: PoolState, now: float) -> bool:
        """Whether a limit keeps clients waiting, and not only a connection attempt that is under way."""
        waits = pool.wants and not pool.satisfied
        return bool(waits and self._tally.blocker(pool, now))

    def _retries_later(self, pool: PoolState, now: float) -> bool:
        return now < pool.not_before

    def _heirs(self, pool: PoolState, worker: int) -> Collection[int]:
        """Who keeps a server of ``worker`` that nobody waits for: itself; if it is about to leave, one that
        stays, if any does.
        """
        if worker not in self._retired:
            return self._workers
        return [self._least_laden(pool)] if self._workers - self._retired else ()

    def _least_laden(self, pool: PoolState) -> int:
        """The worker to keep a server for which nobody waits: one with clients, if any has."""
        staying = self._workers - self._retired
        return min(staying, key=lambda w: (w not in pool.clients, pool.held(w), w))

    def _deadline(self, pool: PoolState, recheck: float | None, now: float) -> float | None:
        times = [] if recheck is None else [recheck]
        if pool.wants or pool.logins or pool.lacks_minimum or pool.forgettable:
            times.append(pool.not_before)
        if pool.reserve_at is not None:
            times.append(pool.reserve_at)
        return min((time for time in times if time > now), default=None)

    # -- asking back ------------------------------------------------------------------------------

    def _contend(self, pool: PoolState, now: float) -> float | None:
        """Ask holders to give back what the pool's waiters need; returns when to look again."""
        pool.promised = [worker for worker in pool.promised if worker in pool.wants]
        excess = self._excess(pool)
        if excess:
            self._shrink(pool, excess, now)
            recheck = moving.call(pool, now)
            return now + pool.slice if recheck is None else min(recheck, now + pool.slice)
        applicants = in_turn(pool)
        if self._stops(pool.key.database):
            applicants = []
        blockers = self._tally.blockers(pool, now) if applicants else []
        waits_for_retry = bool(applicants) and self._retries_later(pool, now)
        if not (blockers or waits_for_retry) or pool.satisfied:
            self._reclaims.withdraw(pool, list(pool.asks))
            pool.calls.clear()
            return None
        recheck = moving.call(pool, now)
        if not blockers or pool.opening or waits_for_retry:
            return recheck
        others = rivals(pool, blockers, self._pools.values())
        holders = [holding for rival in others for holding in holdings(rival, pool.key)]
        rechecks = [] if recheck is None else [recheck]
        if not holders:
            return recheck
        for worker in applicants:
            chosen = plan(pool, applicant_of(pool, worker), holders, now)
            if chosen.recheck is not None:
                rechecks.append(chosen.recheck)
            if chosen.holding is not None:
                holder = (chosen.holding.worker, chosen.holding.pool)
                self._reclaims.ask(pool, holder, Ask(chosen.count, worker), now)
                break
        return min(rechecks, default=None)

    def _excess(self, pool: PoolState) -> int:
        """How many servers of the pool are too many, since a limit was lowered. Of pools that share a limit
        the one with most servers shrinks first.
        """
        found = pool.excess
        for blocker in (Blocker.DATABASE, Blocker.USER):
            limit = getattr(pool.limits, blocker.value)
            if limit and self._tally.exceeded(pool):
                sharers = list(rivals(pool, [blocker], self._pools.values()))
                excess = sum(sharer.in_use for sharer in sharers) - limit
                if excess > found and pool is max(sharers, key=lambda sharer: sharer.in_use):
                    found = excess
        return min(found, pool.in_use)

    def _shrink(self, pool: PoolState, excess: int, now: float) -> None:
        """Ask the worker that holds most."""
        holders = [h for h in holders_of(pool) if (h, pool.key) not in pool.asks]
        if holders and now >= pool.last_ask + pool.slice:
            most = max(holders, key=pool.held)
            ask = Ask(min(excess, pool.held(most)), NOBODY)
            self._reclaims.ask(pool, (most, pool.key), ask, now)

    # -- look-ups ---------------------------------------------------------------------------------

    def _pool(self, key: PoolKey) -> PoolState | None:
        pool = self._pools.get(key)
        if pool is None:
            limits = self._limits_of(key)
            if limits is None:
                return None
            pool = self._pools[key] = PoolState(key, limits)
        return pool

    def _find(self, worker: int, permit: int) -> tuple[Lease, PoolState]:
        lease = self._leases.get(permit)
        if lease is None or lease.worker != worker:
            raise UnknownPermit(f"worker {worker} does not hold permit {permit}")
        return lease, self._pools[lease.pool]


def _cut(reason: str) -> str:
    return reason.encode()[:REASON_BYTES].decode(errors="ignore") or "connect failed"
