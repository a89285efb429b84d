"""Which worker gives how much of its work to whom: reports go in, by a clock of the test's own."""

from __future__ import annotations

import random

import pytest

from poolproxy.acceptor.rebalance import LITTLE, Balance, Rebalancer
from poolproxy.ipc.messages import Load, Shed

EVERY = 0.2  # seconds between two reports
COST = 0.9  # of a core: what a worker can do at most


class Workers:
    """Workers with clients, each of which takes some share of a core; orders are obeyed at once."""

    def __init__(self, *clients: list[float], noise: float = 0.0, obedient: bool = True) -> None:
        self.clients = {number: list(work) for number, work in enumerate(clients, 1)}
        self.noise = noise
        self.obedient = obedient
        self.cpu = dict.fromkeys(self.clients, 0.0)
        self.rebalancer = Rebalancer()
        self.now = 100.0
        self.chance = random.Random(1)
        self.orders: list[tuple[float, int, Shed]] = []
        self.moved = 0

    def shares(self) -> dict[int, float]:
        return {number: min(COST, sum(work)) for number, work in self.clients.items()}

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += EVERY
            for number, share in self.shares().items():
                self.cpu[number] += (
                    EVERY * share * self.chance.uniform(1 - self.noise, 1 + self.noise)
                )
                self.rebalancer.told(number, Load(self.now, self.cpu[number]))
            loads = {number: len(work) for number, work in self.clients.items()}
            for number, order in self.rebalancer.plan(self.now, loads):
                self.orders.append((self.now, number, order))
                if self.obedient:
                    self.obey(number, order)

    def obey(self, number: int, order: Shed) -> None:
        work = self.clients[number]
        to_go = order.share * sum(work)
        for one in sorted(work):
            if one <= 1.5 * to_go and order.most:
                work.remove(one)
                self.clients[order.target].append(one)
                to_go -= one
                self.moved += 1

    def imbalance(self) -> float:
        return Balance(self.shares()).imbalance


def test_all_clients_on_one_worker_are_spread_within_two_seconds() -> None:
    """The busiest of four is then within a quarter of the mean."""
    workers = Workers([0.02] * 40, [], [], [])
    workers.run(2.0)
    assert workers.imbalance() < 1.25


@pytest.mark.parametrize("busy", [LITTLE / 2, 0.5])
def test_nothing_moves_while_workers_are_about_equal_or_idle(busy: float) -> None:
    """Noise of a tenth is no reason, nor is an imbalance of next to nothing."""
    other = busy if busy > LITTLE else 0.0
    workers = Workers([busy], [other], [other], noise=0.1)
    workers.run(60.0)
    assert workers.orders == []


def test_the_noise_of_a_machine_with_too_few_processors_is_no_reason() -> None:
    """Workers that have the same to do differ by a third over half a second, and nothing moves."""
    workers = Workers(*[[0.02] * 10] * 4, noise=0.3)
    workers.run(300.0)
    assert workers.orders == []


@pytest.mark.parametrize(("more", "soonest", "latest"), [(5, 2.0, 4.5), (8, 0.5, 1.5)])
def test_a_small_imbalance_is_acted_on_when_it_has_lasted(
    more: int, soonest: float, latest: float
) -> None:
    """A great one sooner: 1.21 and 1.32 of the mean, without any noise."""
    workers = Workers([0.02] * (15 + more), *[[0.02] * 15] * 3)
    start = workers.now
    workers.run(5.0)
    assert soonest < workers.orders[0][0] - start < latest
    assert workers.imbalance() < 1.1


def test_clients_do_not_go_to_and_fro() -> None:
    """With the noise of real measurements each moves about once, and then there is peace."""
    workers = Workers([0.02] * 30, [0.02] * 6, [0.02] * 2, [0.02] * 2, noise=0.1)
    workers.run(5.0)
    moved = workers.moved
    assert moved <= 40
    assert workers.imbalance() < 1.25
    workers.run(300.0)
    assert workers.moved - moved <= 8


def test_one_client_that_makes_all_the_work_is_left_alone() -> None:
    """Moving it would only change places; it is tried less and less often."""
    workers = Workers([0.8], [])
    workers.run(300.0)
    assert workers.moved == 0
    assert len(workers.orders) < 20


def test_orders_that_do_not_help_become_rare() -> None:
    """Also where the workers can't obey, such as with clients that do not move."""
    workers = Workers([0.15] * 4, [], obedient=False)
    workers.run(300.0)
    assert 2 < len(workers.orders) < 20
    before = len(workers.orders)
    workers.obedient = True
    workers.run(60.0)
    assert workers.moved
    assert len(workers.orders) - before < 5


def test_what_was_measured_before_a_round_does_not_count_after_it() -> None:
    """Else the clients that have just moved would be asked for once more."""
    workers = Workers([0.1] * 6, [])
    workers.run(1.2)
    assert workers.moved == 3
    first = workers.orders[0][0]
    assert all(at >= first + 1 for at, _, _ in workers.orders[1:])


def test_a_worker_that_tells_nothing_stops_all_judgement() -> None:
    """It may be stuck, and is no place for clients; nor does one worker alone need a plan."""
    rebalancer = Rebalancer()
    for tick in range(6):
        rebalancer.told(1, Load(tick * EVERY, tick * EVERY))
    assert rebalancer.plan(1.0, {1: 10, 2: 0}) == []
    assert rebalancer.plan(1.0, {1: 10}) == []
    assert rebalancer.shares(1.0) == {1: pytest.approx(1.0)}
    assert rebalancer.shares(10.0) == {}
    rebalancer.worker_gone(1)
    assert rebalancer.shares(1.0) == {}


def test_the_work_to_give_is_divided_among_those_below_the_mean() -> None:
    """Least busy first, never more than lifts one to the mean."""
    workers = Workers([0.1] * 8, [0.2], [0.2], [], obedient=False)
    workers.run(1.0)
    given = {order.target: order.share for _, number, order in workers.orders if number == 1}
    assert given == {
        4: pytest.approx(0.3 / 0.8, rel=0.05),
        2: pytest.approx(0.1 / 0.8, rel=0.1),
        3: pytest.approx(0.1 / 0.8, rel=0.1),
    }


def test_idle_workers_are_in_balance() -> None:
    """Nothing is divided by their mean."""
    assert Balance({}).imbalance == 1.0
    assert Balance({1: 0.0, 2: 0.0}).imbalance == 1.0
    assert Balance({1: 0.4, 2: 0.0}).imbalance == 2.0
