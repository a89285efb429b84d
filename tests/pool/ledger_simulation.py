"""Workers, clients and a PostgreSQL made of plain objects on a virtual clock, to drive the ledger.

Messages take a random time but keep their order, as on a channel. The workers are as simple as
the contract allows: a queue per pool, the idle servers, and what was asked back.
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
        client.worst = max(client.worst, self.sim.now - client.waits_since)
        client.waits_since = None
        client.served += 1
        self.sim.after(client.work, lambda: self.done(server, client))

    def done(self, server: Server, client: Client) -> None:
        if self.dead:
            return
        self.free(server)
        if not self.sim.closing:
            self.sim.after(client.think * self.sim.random.random(), lambda: self.comes(client))

    def comes(self, client: Client) -> None:
        if not self.dead:
            self.needs(client)

    def free(self, server: Server) -> None:
        pool = self.pool(server.pool)
        if pool.asked:
            pool.asked -= 1
            self.close(server)
        elif pool.queue:
            self.assign(server, pool.queue.popleft())
        else:
            pool.idle.append(server)

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
        pool = self.pool(key)
        since = pool.queue[0].waits_since if pool.queue else 0.0
        assert since is not None
        want = m.Want(key, len(pool.queue), since, False, False)
        if want != pool.told and (want.waiting or pool.told is not None):
            pool.told = want if want.waiting else None
            self.send(want)

    def send(self, message: m.Message) -> None:
        self.sim.later(self, "up", lambda: self.sim.ledger_receives(self, message))

    def receive(self, message: m.Message) -> None:
        match message:
            case m.Permit(permit, key, keep, login):
                if login and self.logins.pop(login, None) is None:
                    self.send(m.ServerClosed(permit, True))
                else:
                    self.open(Server(permit, key, keep, login))
            case m.NoServer(login):
                self.logins.pop(login, None)
            case m.Blocked(key, blocked):
                self.pool(key).blocked = blocked
                self.make_room(key)
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
        if server.login and not pool.queue and not pool.asked:
            pool.unused.append(server)
            self.sim.after(self.sim.random.random() * 2, lambda: self.leaves(server))
        else:
            self.free(server)
        self.tell(server.pool)
        key = m.CancelKey(server.permit, b"")
        self.send(m.ServerUp(server.permit, key, CONNECT, (m.Parameter("a", "b"),)))


class Simulation:
    """The clock, the ledger, the workers, and PostgreSQL, which is ``backends``."""

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
        self.workers: list[Worker] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
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
            wait = self.random.random() * 0.5
            self.after(wait, lambda permit=permit: self.backend_ends(permit))

    def backend_ends(self, permit: int) -> None:
        self.backends.pop(permit, None)
        self.deliver(self.ledger.server_closed(permit, self.now))

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
        self.check_limits()

    def check_limits(self) -> None:
        """PostgreSQL never sees a connection over any limit."""
        pools = Counter(self.backends.values())
        databases = Counter(key.database for key in self.backends.values())
        users = Counter(key.user for key in self.backends.values())
        for key, count in pools.items():
            limits = self.limits(key)
            size = limits.pool_size + limits.reserve_pool_size
            assert not limits.pool_size or count <= size
            assert not limits.max_db_connections or (
                databases[key.database] <= limits.max_db_connections
            )
            assert not limits.max_user_connections or users[key.user] <= limits.max_user_connections

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
