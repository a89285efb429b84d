"""A ledger that is asked for the homes of pools, for the tests of gathering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from poolproxy.ipc.messages import Gather, PoolKey, ServerYielded, Want
from poolproxy.pool.ledger import Sends
from tests.pool.ledger_simulation import server_state
from tests.pool.test_ledger import POOL
from tests.pool.test_ledger_moves import Mover, come

IDLE = {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}
SOME = {1: 0.2, 2: 0.2, 3: 0.2, 4: 0.2}
LOOK = 0.2  # seconds


class Gatherer(Mover):
    """A ledger with four workers that is asked for homes, and servers that move between two of them."""

    client_moves = True

    def __init__(self, **limits: object) -> None:
        super().__init__(**{"pool_size": 1, **limits})
        for worker in (3, 4):
            self.ledger.worker_up(worker, self.now)
        # By the worker that has their connections, less those at the one that serves them.
        self.relayed: Counter[int] = Counter()

    def enter(self, clients: Mapping[int, int], pool: PoolKey = POOL) -> None:
        """So many log in, by worker."""
        for worker, count in clients.items():
            for _ in range(count):
                self.ledger.client_up(worker, pool, self.now)

    def come(self, home: int, clients: Mapping[int, int], pool: PoolKey = POOL) -> None:
        """So many of these workers are relayed to the home from now on."""
        for worker, count in clients.items():
            self.relayed[worker] += count
            self.relayed[home] -= count
            for _ in range(count):
                self.ledger.client_up(home, pool, self.now)
                self.ledger.client_gone(worker, pool, self.now)

    def permit(self, pool: PoolKey = POOL) -> int:
        return next(n for n, lease in self.ledger._books.leases.items() if lease.pool == pool)

    def holder(self, pool: PoolKey = POOL) -> int:
        permit = self.permit(pool)
        return next(worker for worker in IDLE if self.ledger.holds(worker, permit))

    def shuttle(self, times: int, pool: PoolKey = POOL) -> None:
        """The pool's server goes to and fro, between the first two workers."""
        for _ in range(times):
            self.bring(2 if self.holder(pool) == 1 else 1, pool)

    def bring(self, there: int, pool: PoolKey = POOL) -> None:
        """The pool's server goes there."""
        here, permit = self.holder(pool), self.permit(pool)
        if here != there:
            self.want(there, since=self.now, pool=pool)
            state = server_state(permit, pool, keep=False)
            sends = self.ledger.server_yielded(here, ServerYielded(state, None, 0), self.now)
            assert come(sends) == [(there, [permit])]
            self.taken(there, permit, nothing(pool))

    def others(self, worker: int, count: int) -> None:
        """Servers of other pools at a worker."""
        for number in range(count):
            self.fill(worker, 1, PoolKey("app", f"user {worker}.{number}"))

    def look(self, busy: Mapping[int, float] = IDLE, after: float = LOOK) -> dict[int, Gather]:
        """What workers are told at the next look."""
        self.now += after
        sends = self.gather(busy)
        return {worker: message for worker, message in sends if isinstance(message, Gather)}

    def gather(self, busy: Mapping[int, float] | None) -> Sends:
        return self.ledger.gather(busy, self.now, self.connections, client_moves=self.client_moves)

    def connections(self, pool: PoolKey) -> Counter[int]:
        """Clients have their connections where they are, but for those that are relayed."""
        found = Counter(self.ledger._books.pools[pool].clients)
        found.update(self.relayed)
        return found

    def heat(self, busy: Mapping[int, float] = IDLE, pool: PoolKey = POOL) -> dict[int, Gather]:
        """Look as long as it takes, while the pool's servers move."""
        self.meet(3, pool)
        self.want(2 if self.holder(pool) == 1 else 1, pool=pool)
        told = self.look(busy)
        for _ in range(3):
            self.shuttle(10, pool)
            told |= self.look(busy)
        return told

    def meet(self, worker: int, pool: PoolKey = POOL) -> None:
        """A client there waits for a moment."""
        self.want(worker, pool=pool)
        self.ledger.want(worker, nothing(pool), self.now)

    def homed(self, busy: Mapping[int, float] = IDLE) -> int:
        """The home that the pool gets."""
        self.fill(1, 1)
        told = self.heat(busy)
        homes = {gather.home for gather in told.values()}
        assert len(homes) == 1
        return homes.pop()


def nothing(pool: PoolKey) -> Want:
    return Want(pool, 0, 0.0, login=False, probe=False)


def many(driver: Gatherer, count: int, servers: int = 1) -> list[PoolKey]:
    """So many pools, with clients at two workers."""
    pools = [PoolKey("app", f"user {n}") for n in range(count)]
    for pool in pools:
        driver.fill(1, servers, pool)
        driver.want(2, pool=pool)
    return pools


def all_move(
    driver: Gatherer, pools: list[PoolKey], busy: Mapping[int, float]
) -> dict[PoolKey, int]:
    """Their servers do, and the homes that are told then."""
    for pool in pools:
        driver.shuttle(10, pool)
    return all_look(driver, busy, LOOK)


def all_look(driver: Gatherer, busy: Mapping[int, float], after: float) -> dict[PoolKey, int]:
    """The homes that are told at the next look."""
    driver.now += after
    told = driver.gather(busy)
    return {m.pool: m.home for _, m in told if isinstance(m, Gather)}
