"""Small pools and large ones, with the balancing by busy time beside: clients are gathered, and stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from hypothesis import example, given, settings
from hypothesis import strategies as st

from poolproxy.acceptor.rebalance import Rebalancer
from poolproxy.ipc.messages import Load, PoolKey
from poolproxy.pool.ledger import PoolLimits
from tests.pool.ledger_simulation import Client, Simulation, Worker

# Seconds of a worker's time, for a transaction and at each end of a move; and between two looks.
TRANSACTION, MOVE = 0.00008, 0.001
LOOK = 0.2


class Town(Simulation):
    """Clients move: to the home of their pool when a transaction has ended, and where ``Shed`` says.
    ``busy``: each worker's processor time. ``client_moves`` are counted by pool, ``bound`` pools' clients
    stay.
    """

    def __init__(self, seed: int, limits: Callable[[PoolKey], PoolLimits], workers: int) -> None:
        self.busy: Counter[int] = Counter()
        self.client_moves: Counter[PoolKey] = Counter()
        self.bound: set[PoolKey] = set()
        self.sheds: dict[int, dict[int, float]] = {}
        self.rebalancer = Rebalancer()
        self.where: dict[int, int] = {}
        super().__init__(seed, limits, workers)
        self.after(LOOK, self.look)

    def enter(
        self, worker: Worker, key: PoolKey, count: int, think: float, work: float
    ) -> list[Client]:
        clients = [Client(key, think, work) for _ in range(count)]
        for client in clients:
            self.where[id(client)] = worker.number
            self.deliver(self.ledger.client_up(worker.number, key, self.now))
            self.after(self.random.random() * 0.2, lambda c=client: worker.comes(c))  # type: ignore[misc]
        return clients

    def served(self, client: Client) -> None:
        self.busy[self.where[id(client)]] += TRANSACTION  # type: ignore[assignment]

    def next_worker(self, worker: Worker, client: Client) -> Worker:
        home = worker.homes.get(client.pool, -1)
        target = home
        if home < 0:
            orders = self.sheds.get(worker.number, {})
            chosen = [to for to, share in orders.items() if self.random.random() < share]
            target = chosen[0] if chosen else -1
        if target in (-1, worker.number) or client.pool in self.bound:
            return worker
        self.client_moves[client.pool] += 1
        for one in (worker.number, target):
            self.busy[one] += MOVE  # type: ignore[assignment]
        self.where[id(client)] = target
        self.deliver(self.ledger.client_gone(worker.number, client.pool, self.now))
        self.deliver(self.ledger.client_up(target, client.pool, self.now))
        return self.workers[target]

    def small_moves(self) -> int:
        """Of servers of the small pools."""
        return sum(self.taken[key] for key in SMALL)

    def connections(self, key: PoolKey) -> Mapping[int, int]:
        return self.ledger._books.pools[key].clients

    def look(self) -> None:
        live = [worker.number for worker in self.workers if not worker.dead]
        for number in live:
            cpu = self.busy[number] + MOVE * self.moves / len(live)
            self.rebalancer.told(number, Load(self.now, cpu))
        busy = self.rebalancer.shares(self.now)
        self.deliver(self.ledger.gather(busy, self.now, self.connections))
        self.sheds = {}
        for number, order in self.rebalancer.plan(self.now, dict.fromkeys(live, 1)):
            # Each of its clients has a few transactions until the next look.
            self.sheds.setdefault(number, {})[order.target] = order.share
        self.after(LOOK, self.look)


def spread(sim: Town, key: PoolKey, counts: tuple[int, ...], work: float) -> list[Client]:
    found: list[Client] = []
    for worker, count in zip(sim.workers, counts, strict=False):
        found += sim.enter(worker, key, count, 0.0001, work)
    return found


SMALL = [PoolKey("one", "small"), PoolKey("two", "small")]
LARGE = PoolKey("one", "large")


@settings(max_examples=5, deadline=None)
@given(
    size=st.integers(1, 3),
    counts=st.tuples(*[st.integers(1, 12)] * 4),
    work=st.sampled_from([0.002, 0.004]),
    seed=st.integers(0, 99),
)
@example(size=2, counts=(7, 6, 1, 10), work=0.002, seed=24)  # a home changes at its second thought
def test_clients_are_gathered_once_beside_the_balancing(
    size: int, counts: tuple[int, ...], work: float, seed: int
) -> None:
    """Two small pools and a large one, with clients on all workers: those of a small one come to rest, each
    moves twice at most, as the balancing may come first, and once more when its home is thought over; so do
    its servers, and all are served alike.
    """
    sim = Town(seed, lambda key: PoolLimits(pool_size=8 if key == LARGE else size), 4)
    sim.check_every = 1000
    spread(sim, LARGE, (10, 0, 0, 0), 0.01)
    clients = [spread(sim, key, counts, work) for key in SMALL]
    sim.run(3.0)
    moved, servers = sim.client_moves.copy(), sim.small_moves()
    sim.run(1.0)
    for key, group in zip(SMALL, clients, strict=True):
        again = sim.client_moves[key] - moved[key]
        assert again <= len(group)
        assert sim.client_moves[key] - again <= 2 * len(group)
        homes = {sim.where[id(client)] for client in group}
        rows = [row for row in sim.ledger.statistics() if row.pool == key]
        assert rows[0].up == size or len(homes) <= size
        served = sorted(client.served for client in group)
        assert served[0] > 0.5 * served[-1]
    assert sim.small_moves() - servers < 15 * len(SMALL)


@settings(max_examples=5, deadline=None)
@given(
    counts=st.tuples(*[st.integers(0, 30)] * 4).filter(lambda counts: sum(counts) > 24),
    seed=st.integers(0, 99),
)
def test_a_larger_pools_clients_come_to_be_in_one_queue(counts: tuple[int, ...], seed: int) -> None:
    """They wait for its servers wherever they are; the balancing does not spread them again."""
    sim = Town(seed, lambda key: PoolLimits(pool_size=8), 4)
    sim.check_every = 1000
    clients = spread(sim, LARGE, counts, 0.004)
    sim.run(4.0)
    moved, before = sim.client_moves[LARGE], [client.served for client in clients]
    assert len({sim.where[id(client)] for client in clients}) == 1
    sim.run(2.0)
    assert sim.client_moves[LARGE] == moved
    served = [client.served - then for client, then in zip(clients, before, strict=True)]
    assert min(served) > 0.8 * max(served)


def test_a_pool_whose_clients_cant_move_stays_fair() -> None:
    """Its servers go on moving; nobody is served much less than the others."""
    sim = Town(3, lambda key: PoolLimits(pool_size=1), 4)
    sim.check_every = 1000
    sim.bound = {SMALL[0]}
    clients = spread(sim, SMALL[0], (6, 5, 5, 4), 0.004)
    sim.run(13.0)
    then = [client.served for client in clients]
    sim.run(2.0)
    served = sorted(client.served - before for client, before in zip(clients, then, strict=True))
    assert served[0] > 0.7 * served[len(served) // 2]
    assert not sim.client_moves
    assert all(home == -1 for worker in sim.workers for home in worker.homes.values())


def test_clients_of_a_pool_of_encrypted_servers_are_gathered() -> None:
    """Their servers are opened anew at the home, and then no more. Of 3 servers the worker with 4 clients
    keeps one, and them.
    """
    for size, places in ((1, 1), (3, 2)):
        sim = Town(size, lambda key, size=size: PoolLimits(pool_size=size), 4)  # type: ignore[misc]
        sim.check_every = 1000
        sim.encrypted = {SMALL[0]}
        clients = spread(sim, SMALL[0], (12, 4, 3, 1), 0.004)
        sim.run(3.0)
        assert len({sim.where[id(client)] for client in clients}) == places
        opened, moved = sim.opened, sim.client_moves.copy()
        sim.run(2.0)
        assert (sim.opened, sim.client_moves) == (opened, moved)
        served = sorted(client.served for client in clients)
        assert served[0] > 0.8 * served[len(served) // 2] > 0.3 * served[-1]


def test_a_dead_homes_clients_are_not_waited_for() -> None:
    """The others find another home, and all of those go there."""
    sim = Town(4, lambda key: PoolLimits(pool_size=1), 4)
    sim.check_every = 1000
    spread(sim, SMALL[0], (6, 6, 6, 6), 0.002)
    sim.run(2.0)
    (home,) = {sim.workers[0].homes[SMALL[0]]}
    assert set(sim.where.values()) == {home}
    sim.kill_worker(sim.workers[home])
    sim.rebalancer.worker_gone(home)
    live = [worker for worker in sim.workers if not worker.dead]
    clients = [c for worker in live for c in sim.enter(worker, SMALL[0], 6, 0.0001, 0.002)]
    sim.run(3.0)
    assert len({sim.where[id(client)] for client in clients}) == 1
    assert min(client.served for client in clients) > 10
