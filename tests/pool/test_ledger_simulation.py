"""The ledger under random load: never over a limit, nothing lost, nobody starves."""

from __future__ import annotations

import os

import attrs
import pytest

from poolproxy.ipc.messages import PoolKey
from poolproxy.pool.ledger import PoolLimits
from poolproxy.pool.ledger.state import MOVE_SLICE, REFRESH
from tests.pool.ledger_simulation import Client, Simulation, Worker

# So many random lives, always the same ones; or as many as the variable says.
LIVES = range(int(os.environ.get("LEDGER_LIVES", "4")))
A, B, C = PoolKey("one", "alice"), PoolKey("one", "bob"), PoolKey("two", "alice")


def load(
    sim: Simulation, workers: list[Worker], key: PoolKey, count: int, think: float, work: float
) -> list[Client]:
    clients = [Client(key, think, work) for _ in range(count * len(workers))]
    for number, client in enumerate(clients):
        worker = workers[number % len(workers)]
        sim.after(sim.random.random() * 0.2, lambda w=worker, c=client: w.comes(c))
    return clients


def logins(sim: Simulation, key: PoolKey, mean: float) -> None:
    """Clients log in all the time, one every ``mean`` seconds, to any worker."""

    def comes() -> None:
        if not sim.closing:
            sim.random.choice(sim.workers).logs_in(key)
            sim.after(2 * mean * sim.random.random(), comes)

    sim.after(0.0, comes)


def finish(sim: Simulation) -> None:
    """Let all clients finish; then the ledger and the workers must agree on who holds what."""
    sim.closing = True
    sim.run(60.0)
    live = [worker for worker in sim.workers if not worker.dead]
    assert not any(pool.queue for worker in live for pool in worker.pools.values())
    for worker in live:
        assert all(sim.ledger.holds(worker.number, permit) for permit in worker.servers)
    assert not any(worker.logins for worker in live)
    assert sum(len(worker.servers) for worker in live) == sim.ledger.held == len(sim.backends)
    assert all(row.waiting == 0 and row.asked == 0 for row in sim.ledger.statistics())


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("workers", [2, 4])
def test_a_saturated_pool_is_shared_without_starvation_or_thrashing(
    size: int, workers: int
) -> None:
    """Equal load on all workers: equal service, a bounded wait, few connections opened."""
    sim = Simulation(size * 10 + workers, lambda key: PoolLimits(pool_size=size), workers)
    clients = load(sim, sim.workers, A, 8, 0.001, 0.002)
    sim.run(4.0)
    served = sum(client.served for client in clients)
    assert served > 0.8 * 4.0 * size / 0.0022
    assert max(client.worst for client in clients) < 2.0
    by_worker = [sum(c.served for c in clients[n::workers]) for n in range(workers)]
    assert min(by_worker) > 0.4 * max(by_worker), by_worker
    # One move a slice for each permit is the most; 4 s hold 40 slices.
    assert sim.opened < 45 * size
    finish(sim)


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("workers", [2, 4])
def test_the_order_is_that_of_one_queue(size: int, workers: int) -> None:
    """However the clients are spread: nobody is overtaken by more than is documented, and no server is idle
    while anybody waits.
    """
    sim = Simulation(size * 10 + workers, lambda key: PoolLimits(pool_size=size), workers)
    sim.check_every = 1
    for worker, count in zip(sim.workers, (30, 10, 7, 3), strict=False):
        load(sim, [worker], A, count, 0.001, 0.002)
    sim.run(0.5)
    sim.overtaken = sim.worst_waste = 0.0
    sim.run(1.0)
    assert sim.overtaken < MOVE_SLICE + REFRESH
    assert sim.worst_waste < MOVE_SLICE
    finish(sim)


@pytest.mark.parametrize(("size", "moves"), [(1, 8), (3, 5), (5, 3), (8, 1)])
def test_uneven_clients_are_served_evenly_with_few_moves(size: int, moves: int) -> None:
    """120, 40, 30 and 10 clients on four workers: all are served about as often, and while each is served
    once no more servers move than it takes for the parts of servers to go round.
    """
    sim = Simulation(size, lambda key: PoolLimits(pool_size=size), 4)
    sim.check_every = 1000
    work = size * 0.0002
    spread = (120, 40, 30, 10)
    clients = [
        client
        for worker, count in zip(sim.workers, spread, strict=True)
        for client in load(sim, [worker], A, count, 0.0001, work)
    ]
    sim.run(0.5)
    sim.moves = 0
    for client in clients:
        client.served, client.worst = 0, 0.0
    sim.run(1.0)
    counts = sorted(client.served for client in clients)
    middle = counts[len(counts) // 2]
    assert counts[0] >= 0.8 * middle
    assert sim.moves <= moves * middle
    assert max(client.worst for client in clients) < 2 * sum(spread) * work / size
    finish(sim)


def test_an_idle_worker_gives_way_to_a_busy_one() -> None:
    """Servers that one worker's clients left behind serve the other worker's clients."""
    sim = Simulation(1, lambda key: PoolLimits(pool_size=8), 2)
    first, second = sim.workers
    load(sim, [first], A, 8, 0.0, 1.0)
    sim.run(1.5)
    sim.closing = True
    sim.run(5.0)
    sim.closing = False
    clients = load(sim, [second], A, 32, 0.0, 0.005)
    sim.run(5.0)
    assert max(client.worst for client in clients) < 0.6
    assert len(second.servers) >= 7
    finish(sim)


def test_a_free_server_is_found_among_sessions_that_stay() -> None:
    """All servers of one worker are bound for an hour; a waiter gets the other worker's idle one."""
    sim = Simulation(2, lambda key: PoolLimits(pool_size=4), 3)
    busy, idle, starving = sim.workers
    load(sim, [busy], A, 3, 0.0, 3600.0)
    sim.run(1.0)
    load(sim, [idle], A, 1, 3600.0, 0.01)
    sim.run(2.0)
    clients = load(sim, [starving], A, 1, 0.0, 0.01)
    sim.run(5.0)
    assert clients[0].served > 10
    assert clients[0].worst < 1.0


def test_an_old_waiter_gets_a_server_although_its_own_worker_has_one() -> None:
    """A worker whose only server is stuck gets one of the other worker's busy ones."""
    sim = Simulation(3, lambda key: PoolLimits(pool_size=4), 2)
    stuck, quick = sim.workers
    load(sim, [stuck], A, 1, 0.0, 3600.0)
    sim.run(0.5)
    load(sim, [quick], A, 10, 0.0, 0.01)
    sim.run(1.0)
    clients = load(sim, [stuck], A, 1, 0.0, 0.01)
    sim.run(10.0)
    assert clients[0].worst < 1.0
    assert clients[0].served > 10


def test_a_storm_of_logins_starves_nobody() -> None:
    """Servers that clients have had since their log-in and don't use go to those who need one."""
    sim = Simulation(7, lambda key: PoolLimits(pool_size=4, session_mode=True), 2)
    for _ in range(4):
        logins(sim, A, 0.01)
    sim.run(1.0)
    clients = load(sim, sim.workers, A, 2, 0.5, 0.01)
    sim.run(5.0)
    assert max(client.worst for client in clients) < 1.0
    assert min(client.served for client in clients) > 5
    finish(sim)


@pytest.mark.parametrize("seed", LIVES)
def test_random_pools_limits_deaths_and_failures(seed: int) -> None:
    """Whatever happens: PostgreSQL never sees too many, all get served, all permits come home."""

    def limits(key: PoolKey) -> PoolLimits:
        return PoolLimits(
            pool_size=4,
            min_pool_size=2 if key == C else 0,
            reserve_pool_size=2,
            reserve_pool_timeout=0.5,
            max_db_connections=5 if key.database == "one" else 0,
            max_user_connections=6 if key.user == "alice" else 0,
            server_login_retry=1.0,
            session_mode=True,
        )

    sim = Simulation(seed, limits, 3)
    clients: list[Client] = []
    for key in (A, B, C):
        share = sim.random.choice([1, 4, 10])
        clients += load(sim, sim.workers, key, share, 0.05 * sim.random.random(), 0.01)
        logins(sim, key, sim.random.random())
    for _ in range(10):
        sim.run(1.0 + sim.random.random())
        fate = sim.random.random()
        if fate < 0.4:
            victim = sim.random.choice([w for w in sim.workers if not w.dead])
            sim.kill_worker(victim)
            clients += load(sim, [sim.start_worker()], A, 4, 0.02, 0.01)
        elif fate < 0.7:
            sim.down ^= {sim.random.choice([A, B, C])}
        else:
            sim.down.clear()
    sim.down.clear()
    sim.run(5.0)
    for client in clients:
        client.worst = 0.0
    sim.run(4.0)
    # The dead workers' clients are stuck for good; the others' wait is bounded.
    live = [client for client in clients if client.worst]
    assert live
    assert max(client.worst for client in live) < 3.0
    finish(sim)


@pytest.mark.parametrize("seed", LIVES)
def test_reloads_refusals_and_servers_that_stay(seed: int) -> None:
    """Limits are lowered and raised, servers are lost on their way, one pool's servers are encrypted, workers
    die: no limit is broken, no permit lost, nobody starves.
    """
    wide = PoolLimits(
        pool_size=4, reserve_pool_size=1, reserve_pool_timeout=0.5, max_db_connections=6
    )
    narrow = attrs.evolve(wide, pool_size=1, max_db_connections=2)
    sim = Simulation(seed, lambda key: wide, 3)
    sim.refusals = 0.1
    sim.encrypted = {B}
    clients: list[Client] = []
    for key in (A, B, C):
        share = sim.random.choice([1, 4, 8])
        clients += load(sim, sim.workers, key, share, 0.05 * sim.random.random(), 0.01)
    for _ in range(8):
        sim.run(0.3 + sim.random.random())
        fate = sim.random.random()
        if fate < 0.4:
            sim.kill_worker(sim.random.choice([w for w in sim.workers if not w.dead]))
            clients += load(sim, [sim.start_worker()], A, 4, 0.02, 0.01)
        else:
            limits = sim.random.choice([wide, narrow])
            sim.reload(lambda key, limits=limits: limits)  # type: ignore[misc]
    sim.reload(lambda key: narrow)
    sim.run(3.0)
    for key in (A, B, C):
        sim.check_limits(key)
    for client in clients:
        client.worst = 0.0
    sim.run(4.0)
    assert sim.moves
    assert max(client.worst for client in clients) < 3.0
    finish(sim)
