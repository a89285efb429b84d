"""A worker's share of one pool: which client gets which server, sans-I/O.

Clients wait in order of arrival, a relayed one by when its request would have come if nothing were late, and
nobody overtakes: an idle server and a waiting client never exist side by side, because a released server goes
to the first waiter at once. Idle servers are a stack (the most recently used one is the warmest), or a queue
with server_round_robin.

A :class:`WorkerPool` decides and keeps the lists; the relay carries its decisions out. Times are
seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from poolproxy.ipc.messages import Parameter, PoolKey, Want
from poolproxy.metrics.registry import BOUNDS
from poolproxy.metrics.schema import PoolMetrics
from poolproxy.settings.config import PoolSettings
from poolproxy.settings.enums import AbandonedWork, PoolMode
from poolproxy.settings.schema import Settings
from poolproxy.wire.statements import Statements

_WAIT_SINCE = attrgetter("wait_since")


class Waiter(Protocol):
    """A client; ``wait_since`` is when it began to need a server."""

    wait_since: float


class Member(Protocol):
    """A logged-in server connection."""

    idle_since: float
    expires_at: float
    doomed: str
    keep: bool


C = TypeVar("C", bound=Waiter)
S = TypeVar("S", bound=Member)

NEVER = float("inf")

LIFETIME_OVER = "server lifetime over"
PAUSED = "pause mode"
GIVEN_BACK = "given to another worker or pool"
IDLE_TIMEOUT = "server idle timeout"


class WorkerPool(Generic[C, S]):
    """One pool as one worker sees it.

    The relay reads ``idle``, and appends clients to ``waiting`` when there is none. ``clients``: how
    many have logged in. ``opening``: permits on their way to a server. ``reclaim``: permits that the
    ledger wants back. ``called``: servers that it wants for clients of other workers, who wait since
    ``called_since``. ``failing``: the cached log-in error while servers can't be had, else "".
    ``want_stands``: the ledger knows that clients wait here. ``logins_waiting``: by client id, since
    when a log-in waits for the pool's welcome. ``demands``: the same of those that need a new server, see
    ``worker.replication``. ``aside``: idle servers that suit few clients, see ``relay.session``.
    ``blocked``: it is a limit that keeps the waiting clients waiting, as the ledger says of session pools.
    ``singles``: times of transactions of one statement, and ``waits``: times of waits, both not yet part of
    ``stats`` (see :meth:`count`). ``brisk``: nothing but the server itself can stand in the way of its next
    use. ``logged_states``: pairs of an application and a kind of session state. ``draining``: its clients are
    to be sent away, see ``worker.draining``, or to another worker, see ``worker.gathering``. ``outdated``:
    servers that were opened before that are to be replaced. ``unwanted``: the configuration has it no more.
    ``lone``: it has a home, and one server in all.
    """

    __slots__ = (
        "_plain",
        "aside",
        "blocked",
        "brisk",
        "called",
        "called_since",
        "check_delay",
        "check_query",
        "clients",
        "demands",
        "draining",
        "engaged_at",
        "failing",
        "idle",
        "key",
        "last_expiry",
        "logged_states",
        "logins_waiting",
        "lone",
        "max_prepared",
        "opening",
        "outdated",
        "reclaim",
        "relayed_at",
        "reset_always",
        "reset_query",
        "round_robin",
        "servers",
        "session_mode",
        "settings",
        "settle_timeout",
        "settles",
        "shared",
        "singles",
        "statement_mode",
        "statements",
        "stats",
        "unused_since",
        "unwanted",
        "waiting",
        "waits",
        "want_sent",
        "want_stands",
        "welcome",
    )

    def __init__(self, key: PoolKey, settings: PoolSettings, proxy: Settings) -> None:
        self.key = key
        self.stats = PoolMetrics(key.database, key.user)
        self.singles: list[float] = []
        self.waits: list[float] = []
        self.idle: deque[S] = deque()
        self.aside: deque[S] = deque()
        self.blocked = False
        self.draining = False
        self.lone = False
        self.servers: set[S] = set()
        self.waiting: deque[C] = deque()
        self.logins_waiting: dict[int, float] = {}
        self.demands: dict[int, float] = {}
        self.clients = 0
        self.opening = 0
        self.outdated = 0.0
        self.unused_since = 0.0
        # When the last request came, by the process that has relayed it.
        self.relayed_at: dict[int, float] = {}
        self.engaged_at = 0.0
        self.reclaim = 0
        self.called = 0
        self.called_since = 0.0
        self.failing = ""
        self.welcome: tuple[Parameter, ...] = ()
        self.want_sent: Want | None = None
        self.want_stands = False
        self.last_expiry = 0.0
        self.logged_states: set[tuple[str, str]] = set()
        self.shared = Statements()
        self.statements: Statements | None = None
        self.configure(settings, proxy)

    def configure(self, settings: PoolSettings, proxy: Settings) -> None:
        """Take new settings; servers that no longer fit them are doomed by the caller.

        ``check_query``: None for no check; "" is PgBouncer's <empty>, an empty query. ``statements``: the
        prepared statements that its clients share, None if they don't. ``settles``: what a client has left
        behind is ended, in ``settle_timeout`` seconds, instead of the server.
        """
        self.settings = settings
        self.unwanted = False
        self.round_robin = proxy.server_round_robin
        check = proxy.server_check_query
        self.check_query = {"": None, "<empty>": ""}.get(check, check)
        self.check_delay = proxy.server_check_delay if self.check_query is not None else NEVER
        self.reset_query = proxy.server_reset_query
        self.reset_always = proxy.server_reset_query_always
        self.settles = proxy.abandoned_work is AbandonedWork.ROLLBACK
        self.settle_timeout = proxy.abandoned_work_timeout or NEVER
        self.max_prepared = proxy.max_prepared_statements
        shares = self.max_prepared > 0 and settings.pool_mode is not PoolMode.SESSION
        # Kept while they are not shared: its counts never fall.
        self.statements = self.shared if shares else None
        self.session_mode = settings.pool_mode is PoolMode.SESSION
        self.statement_mode = settings.pool_mode is PoolMode.STATEMENT
        self._set_brisk()

    def _set_brisk(self) -> None:
        self._plain = not (
            self.session_mode
            or self.reset_always
            or self.round_robin
            or self.reclaim
            or self.check_delay <= 0
            or self.draining
        )
        self.brisk = self._plain and not self.called

    def set_draining(self, draining: bool) -> None:
        """Its clients are to be sent away, or are not any more."""
        self.draining = draining
        self._set_brisk()

    def reclaims(self, count: int) -> None:
        """The ledger wants so many permits back, now; those of idle servers are the caller's part."""
        self.reclaim = count
        self._set_brisk()

    def call(self, count: int, since: float) -> None:
        """The ledger wants so many servers for other workers; those of idle ones are the caller's part."""
        self.called = count
        self.called_since = since
        self._set_brisk()

    @property
    def yields(self) -> bool:
        """Whether a server that is free now is for a client of another worker."""
        waiting = self.waiting
        return self.called > 0 and (not waiting or waiting[0].wait_since > self.called_since)

    @property
    def goes_on(self) -> bool:
        """Whether a server that is free now is as good for our next client as if the pool were ``brisk``:
        only a call stands against that, which does not concern it yet.
        """
        return self._plain and not self.yields

    def welcomed(self, welcome: tuple[Parameter, ...]) -> None:
        """The welcome is known: log-ins that have waited for it go on, and need no server yet."""
        self.welcome = welcome
        if welcome:
            self.logins_waiting.clear()

    def longest_wait(self, now: float) -> float:
        """Since how many seconds the first client in the queue waits, 0 if nobody does."""
        return now - self.waiting[0].wait_since if self.waiting else 0.0

    def enter(self, client: C, late: float) -> None:
        """Queue a client that has come ``late`` by so many seconds: before those who came meanwhile."""
        client.wait_since -= late
        place = bisect_right(self.waiting, client.wait_since, key=_WAIT_SINCE)
        self.waiting.insert(place, client)

    def requeue(self, client: C) -> None:
        """The server that ``client`` was given turned out bad: it is the first in line again."""
        self.waiting.appendleft(client)

    def give_up(self, client: C) -> None:
        """``client`` waits no more."""
        try:
            self.waiting.remove(client)
        except ValueError:
            pass

    def next_client(self) -> C:
        """Take the longest-waiting client out of the queue; there must be one."""
        return self.waiting.popleft()

    def park(self, server: S, now: float) -> None:
        """``server`` is free and nobody waits."""
        server.idle_since = now
        if self.round_robin:
            self.idle.appendleft(server)
        else:
            self.idle.append(server)

    def set_aside(self, server: S) -> None:
        """``server``, if it is idle, does not suit just any client."""
        if server in self.idle:
            self.idle.remove(server)
            self.aside.append(server)

    def resting(self) -> list[S]:
        """The idle servers, those that suit any client first."""
        return [*self.idle, *self.aside]

    def remove(self, server: S) -> None:
        """``server`` is ending: nobody gets it any more."""
        self.servers.discard(server)
        for kept in (self.idle, self.aside):
            if server in kept:
                kept.remove(server)

    def why_close(self, server: S, now: float) -> str:
        """Why a server that is free now should be closed instead of reused; "" to keep it."""
        if server.doomed:
            return server.doomed
        if self.reclaim > 0:
            self.reclaims(self.reclaim - 1)
            return GIVEN_BACK
        if now >= server.expires_at and self._may_expire(now):
            return LIFETIME_OVER
        return ""

    def _may_expire(self, now: float) -> bool:
        # Servers that were opened together would all expire together; spaced as PgBouncer does it,
        # a pool of n loses at most one every n-th of the lifetime.
        spacing = self.settings.server_lifetime / max(1, self.settings.pool_size)
        if now < self.last_expiry + spacing:
            return False
        self.last_expiry = now
        return True

    def to_close(self, now: float, server_idle_timeout: float) -> list[tuple[S, str]]:
        """Idle servers whose time is over, or that the ledger wants back, with the reason."""
        result = []
        for server in self.resting():
            reason = self.why_close(server, now)
            idle_too_long = 0 < server_idle_timeout <= now - server.idle_since
            if not reason and idle_too_long and not server.keep:
                reason = IDLE_TIMEOUT
            if reason:
                result.append((server, reason))
        return result

    def want(self, probe: bool = False) -> Want | None:
        """The Want to send now, or None if the ledger's picture is right.

        While clients wait the picture counts as right until :meth:`refreshed_want`: how many wait changes
        with every transaction, and the steady state shall cost no messages.
        """
        waiting = len(self.waiting) + len(self.logins_waiting) + len(self.demands)
        if not probe and (not waiting or self.want_stands):
            return None
        return self._new_want(waiting, probe)

    def refreshed_want(self) -> Want | None:
        """As :meth:`want`, for the timer: also withdraws, and tells changed numbers."""
        waiting = len(self.waiting) + len(self.logins_waiting) + len(self.demands)
        sent = self.want_sent
        if not waiting and (sent is None or not sent.waiting):
            return None
        want = self._new_want(waiting, probe=False)
        return None if want == sent else want

    def _new_want(self, waiting: int, probe: bool) -> Want:
        self.want_sent = Want(
            self.key, waiting, self.waiting_since(), bool(self.logins_waiting), probe
        )
        self.want_stands = waiting > 0
        self.blocked = self.blocked and self.want_stands
        return self.want_sent

    def waiting_since(self) -> float:
        """When the longest present wait began; 0 if nobody waits."""
        since = [*self.logins_waiting.values(), *self.demands.values()]
        if self.waiting:
            since.append(self.waiting[0].wait_since)
        return min(since, default=0.0)

    def count(self) -> None:
        """Take ``singles`` and ``waits`` into ``stats``; must be called often, as they grow until then.

        Where they happen, in the middle of the relay, counting would cost several times as much as noting.
        """
        stats = self.stats
        for took in self.singles:
            bucket = bisect_left(BOUNDS, took)
            stats.xact_hist[bucket] += 1
            stats.query_hist[bucket] += 1
        for waited in self.waits:
            stats.wait_hist[bisect_left(BOUNDS, waited)] += 1
        took = sum(self.singles)
        stats.xact_count += len(self.singles)
        stats.query_count += len(self.singles)
        stats.xact_time += took
        stats.query_time += took
        stats.wait_time += sum(self.waits)
        stats.server_assignment_count += len(self.waits)
        self.singles.clear()
        self.waits.clear()

    def statistics(self) -> PoolMetrics:
        """``stats``, brought up to date."""
        self.count()
        stats = self.stats
        shared = self.shared
        stats.client_parse_count = shared.client_parses
        stats.server_parse_count = shared.server_parses
        stats.bind_count = shared.binds
        return stats

    def forgotten(self, now: float) -> bool:
        """Whether nobody has used this pool for its ``idle_timeout``, or it is unwanted and nobody uses it.

        Asked at every tick. Any name can be a database where the configuration has a * entry, so pools must
        have an end.
        """
        waits = self.waiting or self.logins_waiting or self.demands
        if self.servers or self.clients or waits or self.opening:
            self.unused_since = 0.0
            return False
        self.unused_since = self.unused_since or now
        limit = self.settings.idle_timeout
        return self.unwanted or 0 < limit <= now - self.unused_since
