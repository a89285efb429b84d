"""A small pool whose clients are relayed, but for those of its keepers: servers find rest, and none idles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from poolproxy.ipc.messages import Gather, Load, PoolKey
from poolproxy.pool.ledger import PoolLimits
from tests.pool.ledger_simulation import Client, Worker
from tests.pool.test_gathering_simulation import LOOK, SMALL, Town

KEY = SMALL[0]
COUNTS = (12, 4, 3, 1)
WORK = 0.01  # seconds of a transaction


class Village(Town):
    """Connections stay: ``origin`` has the worker of each. ``told``: each look at which orders were given."""

    def __init__(self, *, encrypted: bool, seed: int = 1) -> None:
        self.origin: dict[int, int] = {}
        self.told: list[float] = []
        super().__init__(seed, lambda key: PoolLimits(pool_size=3), len(COUNTS))
        self.check_every = 1000
        if encrypted:
            self.encrypted = {KEY}
        self.groups = [
            self.enter(worker, KEY, count, 0.0001, WORK)
            for worker, count in zip(self.workers, COUNTS, strict=True)
        ]

    def enter(
        self, worker: Worker, key: PoolKey, count: int, think: float, work: float
    ) -> list[Client]:
        found = super().enter(worker, key, count, think, work)
        self.origin.update((id(client), worker.number) for client in found)
        return found

    def connections(self, key: PoolKey) -> Mapping[int, int]:
        return Counter(self.origin.values())

    def next_worker(self, worker: Worker, client: Client) -> Worker:
        """To the home, or back, or where it is."""
        own = self.workers[self.origin[id(client)]]
        home = worker.homes.get(client.pool, -1)
        returns = home < 0 or home == worker.number
        if returns and own.homes.get(client.pool, -1) in (-1, own.number):
            home = own.number
        if home in (-1, worker.number):
            return worker
        self.client_moves[client.pool] += 1
        self.where[id(client)] = home
        self.deliver(self.ledger.client_gone(worker.number, client.pool, self.now))
        self.deliver(self.ledger.client_up(home, client.pool, self.now))
        return self.workers[home]

    def look(self) -> None:
        for worker in self.workers:
            self.rebalancer.told(worker.number, Load(self.now, self.busy[worker.number]))
        busy = self.rebalancer.shares(self.now)
        sends = self.ledger.gather(busy, self.now, self.connections, client_moves=False)
        if any(isinstance(message, Gather) for _, message in sends):
            self.told.append(self.now)
        self.deliver(sends)
        self.after(LOOK, self.look)

    def per_second(self, seconds: float) -> float:
        """Transactions from now on."""
        clients = [client for group in self.groups for client in group]
        before = sum(client.served for client in clients)
        self.run(seconds)
        return (sum(client.served for client in clients) - before) / seconds


@pytest.mark.parametrize("encrypted", [True, False])
def test_who_waits_all_the_time_is_served_by_servers_that_stay(encrypted: bool) -> None:
    """Of three servers the home has two, and each is busy."""
    sim = Village(encrypted=encrypted)
    sim.run(3.0)
    assert Counter(sim.where.values()) == {0: 16, 1: 4}
    opened, told = sim.opened, list(sim.told)
    assert sim.per_second(20.0) > 0.97 * 3 / WORK
    assert sim.opened == opened
    assert sim.told == told
    assert sim.moves < 200
    least = min(client.served for group in sim.groups for client in group)
    assert least > 0.9 * (2 / 16) * 20.0 / WORK


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("think", [0.3, 4.0])
def test_no_server_is_kept_for_clients_that_rest(encrypted: bool, think: float) -> None:
    """Not for long: then all clients come, and all servers are there."""
    sim = Village(encrypted=encrypted)
    sim.run(5.0)
    for client in sim.groups[1]:
        client.think = think
    sim.run(10.0)
    opened = sim.opened
    assert sim.per_second(20.0) > 0.97 * 3 / WORK
    assert sim.opened <= opened + 3
