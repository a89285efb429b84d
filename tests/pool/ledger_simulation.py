"""Workers, clients and a PostgreSQL made of plain objects on a virtual clock, to drive the ledger.

Messages take a random time but keep their order, as on a channel. The workers are as simple as
the contract allows: a queue per pool, the idle servers, and what was asked back or is to be yielded.

After each event :meth:`Simulation.check` compares what the ledger believes with what is true.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable

import attrs

from poolproxy.ipc import messages as m
from poolproxy.pool.ledger import Ledger, PoolLimits

CONNECT, CLOSE, DELAY, TICK = 0.004, 0.001, 0.0002, 0.1
UNDER_WAY = 0.01  # seconds: a permit of before a reload that lowers limits is in use by then


@attrs.define(eq=False)
class Client:
    pool: m.PoolKey
    think: float
    work: float
    waits_since: float | None = None
    worst: float = 0.0
    served: int = 0


@attrs.define(eq=False)
class Server:
    permit: int
    pool: m.PoolKey
    keep: bool
    login: int = 0
    up: bool = False


@attrs.define(eq=False)
class WorkerPool:
    queue: deque[Client] = attrs.Factory(deque)
    idle: list[Server] = attrs.Factory(list)
    unused: list[Server] = attrs.Factory(list)
    blocked: bool = False
    asked: int = 0
    called: int = 0
    called_since: float = 0.0
    told: m.Want | None = None
    welcome: bool = False
    failing: str = ""


class Worker:
    """One worker. ``dead`` ones do nothing any more, whatever events are still due."""

    def __init__(self, sim: Simulation, number: int) -> None:
        self.sim = sim
        self.number = number
        self.dead = False
        self.pools: dict[m.PoolKey, WorkerPool] = {}
        self.servers: dict[int, Server] = {}
        self.logins: dict[int, m.PoolKey] = {}
        self.homes: dict[m.PoolKey, int] = {}

    def pool(self, key: m.PoolKey) -> WorkerPool:
        return self.pools.setdefault(key, WorkerPool())

    def needs(self, client: Client) -> None:
        pool = self.pool(client.pool)
        client.waits_since = self.sim.now
        if pool.idle:
            self.assign(pool.idle.pop(), client)
        else:
            pool.queue.append(client)
            self.want(client.pool)

    def logs_in(self, key: m.PoolKey) -> None:
        """A client comes that would like a server; it leaves again when it has one."""
        if not self.dead:
            number = next(self.sim.numbers)
            self.logins[number] = key
            self.send(m.LoginWant(number, key))
            if self.sim.random.random() < 0.1:
                self.logins.pop(number)
                self.send(m.LoginWant(number, key, wanted=False))

    def leaves(self, server: Server) -> None:
        """The client that has had ``server`` since its log-in has never used it."""
        unused = self.pool(server.pool).unused
        if server in unused and not self.dead:
            unused.remove(server)
            self.free(server)

    def make_room(self, key: m.PoolKey) -> None:
        pool = self.pool(key)
        while pool.blocked and pool.unused and pool.queue:
            self.close(pool.unused.pop())
            pool.blocked = False

    def assign(self, server: Server, client: Client) -> None:
        assert client.waits_since is not None
        self.sim.served(client)
        client.worst = max(client.worst, self.sim.now - client.waits_since)
        client.waits_since = None
        client.served += 1
        self.sim.after(client.work, lambda: self.done(server, client))

    def done(self, server: Server, client: Client) -> None:
        if self.dead:
            return
        self.free(server)
        if not self.sim.closing:
            at = self.sim.next_worker(self, client)
            self.sim.after(client.think * self.sim.random.random(), lambda: at.comes(client))

    def comes(self, client: Client) -> None:
        if not self.dead:
            self.needs(client)

    def free(self, server: Server) -> None:
        pool = self.pool(server.pool)
        if pool.asked:
            pool.asked -= 1
            self.close(server)
        elif pool.called and not (pool.queue and self.first(pool) <= pool.called_since):
            pool.called -= 1
            self.hand_over(server)
        elif pool.queue:
            self.assign(server, pool.queue.popleft())
        else:
            pool.idle.append(server)

    @staticmethod
    def first(pool: WorkerPool) -> float:
        since = pool.queue[0].waits_since
        assert since is not None
        return since

    def hand_over(self, server: Server, client: int = 0) -> None:
        if self.sim.immovable(server.pool):
            self.close(server)
            return
        del self.servers[server.permit]
        state = server_state(server.permit, server.pool, server.keep)
        self.sim.under_way[server.permit] = server
        self.send(m.ServerYielded(state, self.fresh_want(server.pool), client))

    def take(self, state: m.ServerState, client: int) -> None:
        """A server has come from another worker; sometimes it is refused."""
        server = self.sim.under_way.pop(state.permit)
        if self.sim.random.random() < self.sim.refusals:
            self.send(m.ServerTaken(state.permit, False, None))
            return
        self.servers[server.permit] = server
        pool = self.pool(server.pool)
        called, pool.called = pool.called, 0
        if client and self.logins.pop(client, None) is not None and not pool.queue:
            pool.unused.append(server)
            self.sim.after(self.sim.random.random() * 2, lambda: self.leaves(server))
        else:
            self.free(server)
        self.send(m.ServerTaken(state.permit, True, self.fresh_want(server.pool)))
        pool.called = called
        self.yield_idle(server.pool)

    def yield_idle(self, key: m.PoolKey) -> None:
        pool = self.pool(key)
        while pool.called and pool.idle:
            self.free(pool.idle.pop())
        while pool.called and pool.unused and not pool.queue:
            pool.called -= 1
            self.close(pool.unused.pop())

    def close(self, server: Server) -> None:
        def closed() -> None:
            self.sim.backends.pop(server.permit, None)
            if not self.dead:
                del self.servers[server.permit]
                self.send(m.ServerClosed(server.permit, True))

        self.sim.after(CLOSE, closed)

    def tick(self) -> None:
        """Numbers that have changed are told by the clock, not with every transaction."""
        if not self.dead:
            for key in self.pools:
                self.make_room(key)
                self.tell(key)
            self.sim.after(TICK, self.tick)

    def want(self, key: m.PoolKey) -> None:
        if self.pool(key).told is None:
            self.tell(key)

    def tell(self, key: m.PoolKey) -> None:
        want = self.fresh_want(key)
        if want is not None:
            self.send(want)

    def fresh_want(self, key: m.PoolKey) -> m.Want | None:
        pool = self.pool(key)
        since = self.first(pool) if pool.queue else 0.0
        want = m.Want(key, len(pool.queue), since, False, False)
        if want == pool.told or not (want.waiting or pool.told is not None):
            return None
        pool.told = want if want.waiting else None
        return want

    def send(self, message: m.Message) -> None:
        self.sim.later(self, "up", lambda: self.sim.ledger_receives(self, message))

    def receive(self, message: m.Message) -> None:
        match message:
            case m.Permit(permit, key, keep, login):
                if login and self.logins.pop(login, None) is None:
                    self.send(m.ServerClosed(permit, True))
                else:
                    self.open(Server(permit, key, keep, login))
            case m.Yield(key, count, since):
                self.pool(key).called = count
                self.pool(key).called_since = since
                self.yield_idle(key)
            case m.YieldIdle(key, login):
                pool = self.pool(key)
                if pool.idle and not pool.queue:
                    self.hand_over(pool.idle.pop(), login)
                else:
                    self.send(m.NoneIdle(key, login))
            case m.ServersCome(servers, login):
                for state in servers:
                    self.take(state, login)
            case m.NoServer(login):
                self.logins.pop(login, None)
            case m.Blocked(key, blocked):
                self.pool(key).blocked = blocked
                self.make_room(key)
            case m.Gather(key, home):
                self.homes[key] = home
            case m.Reclaim(key, count):
                pool = self.pool(key)
                pool.asked = count
                while pool.asked and pool.idle:
                    self.free(pool.idle.pop())
                while pool.asked and pool.unused:
                    self.free(pool.unused.pop())
            case m.Welcome(key, parameters):
                self.pool(key).welcome = bool(parameters)
            case m.PoolFailing(key, reason, _, kill):
                pool = self.pool(key)
                pool.failing = reason
                while kill and pool.queue:
                    client = pool.queue.popleft()
                    client.waits_since = None
                    self.sim.killed += 1
                    self.sim.after(1.0, lambda client=client: self.comes(client))
            case _:
                raise AssertionError(message)

    def open(self, server: Server) -> None:
        self.servers[server.permit] = server
        self.send(m.ServerOpening(server.permit, "h", 5432))
        self.sim.backend_opens(server)
        self.sim.after(CONNECT, lambda: self.opened(server))

    def opened(self, server: Server) -> None:
        if self.dead:
            return
        if self.sim.refuses(server.pool):
            self.send(m.ServerFailed(server.permit, "refused", "28P01", True))
            self.close(server)
            return
        server.up = True
        pool = self.pool(server.pool)
        called, pool.called = pool.called, 0
        if server.login and not pool.queue and not pool.asked:
            pool.unused.append(server)
            self.sim.after(self.sim.random.random() * 2, lambda: self.leaves(server))
        else:
            self.free(server)
        self.tell(server.pool)
        key = m.CancelKey(server.permit, b"")
        welcome = (m.Parameter("a", "b"),)
        movable = not self.sim.immovable(server.pool)
        self.send(m.ServerUp(server.permit, key, CONNECT, welcome, movable))
        pool.called = called
        self.yield_idle(server.pool)


def server_state(permit: int, pool: m.PoolKey, keep: bool) -> m.ServerState:
    """As much of it as the ledger looks at."""
    key = m.CancelKey(permit, b"")
    return m.ServerState(
        permit=permit,
        pool=pool,
        generation=1,
        keep=keep,
        name="",
        key=key,
        host="h",
        port=5432,
        role="",
        family=2,
        where=("h", 5432),
        connected_at=0.0,
        idle_since=0.0,
        last_activity=0.0,
        tracked=(),
        values=(),
        prepared=(),
        shapes=(),
        leftovers=(),
        was_reset=False,
        doomed="",
        session=None,
    )


class Simulation:
    """The clock, the ledger, the workers, and PostgreSQL, which is ``backends``.

    ``refusals``: the part of servers that a worker does not take. ``overtaken``: by how many seconds a client
    was served before one of the same pool that had waited longer, at most. ``worst_waste``: for how many
    seconds a worker had an idle server while another one had a client waiting. ``shrunk_at``: when limits
    were changed. Every ``check_every`` events :meth:`check` is called.
    """

    check_every = 20

    def __init__(self, seed: int, limits: Callable[[m.PoolKey], PoolLimits], workers: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.limits = limits
        self.ledger = Ledger(limits)
        self.backends: dict[int, m.PoolKey] = {}
        self.opened = self.killed = 0
        self.numbers = itertools.count(1)
        self.closing = False
        self.down: set[m.PoolKey] = set()
        self.encrypted: set[m.PoolKey] = set()
        self.refusals = 0.0
        self.moves = 0
        self.taken: Counter[m.PoolKey] = Counter()
        self.overtaken = 0.0
        self.under_way: dict[int, Server] = {}
        self.waste: dict[m.PoolKey, float] = {}
        self.worst_waste = 0.0
        self.shrunk_at = 0.0
        self.workers: list[Worker] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._steps = 0
        self._arrived: dict[tuple[int, str], float] = {}
        for _ in range(workers):
            self.start_worker()

    def start_worker(self) -> Worker:
        worker = Worker(self, len(self.workers))
        self.workers.append(worker)
        self.after(TICK * self.random.random(), worker.tick)
        self.deliver(self.ledger.worker_up(worker.number, self.now))
        return worker

    def kill_worker(self, worker: Worker) -> None:
        worker.dead = True
        permits, sends = self.ledger.worker_gone(worker.number, self.now)
        self.deliver(sends)
        for permit in permits:
            self.under_way.pop(permit, None)
            wait = self.random.random() * 0.5
            self.after(wait, lambda permit=permit: self.backend_ends(permit))

    def backend_ends(self, permit: int) -> None:
        self.backends.pop(permit, None)
        self.deliver(self.ledger.server_closed(permit, self.now))

    def immovable(self, key: m.PoolKey) -> bool:
        return key in self.encrypted

    def end(self, permit: int) -> None:
        """The acceptor ends a server through its duplicate."""
        self.under_way.pop(permit, None)
        self.after(CLOSE, lambda: self.backend_ends(permit))

    def served(self, client: Client) -> None:
        """``client`` gets a server now; who of its pool has waited longer, anywhere?"""
        waits = (
            other.waits_since
            for worker in self.workers
            if not worker.dead and client.pool in worker.pools
            for other in itertools.islice(worker.pools[client.pool].queue, 1)
        )
        since = min((w for w in waits if w is not None), default=self.now)
        assert client.waits_since is not None
        self.overtaken = max(self.overtaken, client.waits_since - since)

    def next_worker(self, worker: Worker, client: Client) -> Worker:
        """Where a client of ``worker`` is when a transaction of it has ended."""
        return worker

    def refuses(self, key: m.PoolKey) -> bool:
        return key in self.down

    def after(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), action))

    def later(self, worker: Worker, way: str, action: Callable[[], None]) -> None:
        channel = (worker.number, way)
        at = self.now + DELAY * (0.5 + self.random.random())
        at = self._arrived[channel] = max(at, self._arrived.get(channel, 0.0))
        self.after(at - self.now, action)

    def ledger_receives(self, worker: Worker, message: m.Message) -> None:
        if worker.dead:
            return
        ledger, number = self.ledger, worker.number
        match message:
            case m.Want():
                self.deliver(ledger.want(number, message, self.now))
            case m.ServerYielded():
                sends = ledger.server_yielded(number, message, self.now)
                self.moves += 1
                if not any(isinstance(send, m.ServersCome) for _, send in sends):
                    self.end(message.server.permit)
                self.deliver(sends)
            case m.ServerTaken():
                self.taken[ledger._books.leases[message.permit].pool] += message.taken
                self.deliver(ledger.server_taken(number, message, self.now))
                if not message.taken:
                    self.end(message.permit)
            case m.NoneIdle():
                self.deliver(ledger.none_idle(message, self.now))
            case m.LoginWant():
                self.deliver(ledger.login_want(number, message, self.now))
            case m.ServerUp():
                self.deliver(ledger.server_up(number, message, self.now))
            case m.ServerFailed():
                self.deliver(ledger.server_failed(number, message, self.now))
            case m.ServerClosed():
                assert ledger.holds(number, message.permit)
                self.deliver(ledger.server_closed(message.permit, self.now))
            case m.ServerOpening():
                assert ledger.holds(number, message.permit)

    def deliver(self, sends: list[tuple[int, m.Message]]) -> None:
        for number, message in sends:
            worker = self.workers[number]
            if not worker.dead:
                self.later(worker, "down", lambda w=worker, x=message: w.dead or w.receive(x))

    def backend_opens(self, server: Server) -> None:
        self.opened += 1
        self.backends[server.permit] = server.pool
        if self.now > self.shrunk_at + UNDER_WAY:
            self.check_limits(server.pool)

    def reload(self, limits: Callable[[m.PoolKey], PoolLimits]) -> None:
        """Other limits hold from now on; connections that are too many are closed by and by."""
        self.limits = limits
        self.shrunk_at = self.now
        self.deliver(self.ledger.configure(limits, (), self.now))

    def check(self) -> None:
        """No permit is lost or held twice, and no idle server sits for long while somebody waits."""
        permits = set(self.ledger.permits())
        assert self.backends.keys() <= permits
        holders = [w.servers.keys() for w in self.workers if not w.dead]
        assert sum(map(len, holders)) == len(set().union(*holders)) <= len(permits)
        assert not any(held & self.under_way.keys() for held in holders)
        for row in self.ledger.statistics():
            pools = [w.pools[row.pool] for w in self.workers if not w.dead and row.pool in w.pools]
            if any(p.idle for p in pools) and any(p.queue for p in pools):
                since = self.waste.setdefault(row.pool, self.now)
                self.worst_waste = max(self.worst_waste, self.now - since)
            else:
                self.waste.pop(row.pool, None)

    def check_limits(self, key: m.PoolKey) -> None:
        """PostgreSQL sees no connection of this pool over any limit."""
        pools = list(self.backends.values())
        database = sum(pool.database == key.database for pool in pools)
        user = sum(pool.user == key.user for pool in pools)
        limits = self.limits(key)
        size = limits.pool_size + limits.reserve_pool_size
        assert not limits.pool_size or pools.count(key) <= size
        assert not limits.max_db_connections or database <= limits.max_db_connections
        assert not limits.max_user_connections or user <= limits.max_user_connections

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = self.now + seconds
        while True:
            event = self._events[0][0] if self._events else end
            deadline = self.ledger.next_deadline()
            at = min(event, end if deadline is None else max(deadline, self.now))
            if at >= end:
                self.now = end
                return
            self.now = at
            if deadline is not None and deadline <= at:
                self.deliver(self.ledger.tick(at))
            else:
                heapq.heappop(self._events)[2]()
            self._steps += 1
            if not self._steps % self.check_every:
                self.check()
