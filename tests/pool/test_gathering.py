"""When the clients of a pool are gathered on one worker, and on which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from poolproxy.ipc.messages import Gather, PoolKey, ServerYielded, Want
from poolproxy.pool.ledger.gathering import (
    ARRIVED,
    COMING,
    FULL,
    HOLD,
    KEEP,
    LITTLE,
    MOST_CLIENTS,
    MOST_NEW,
    OVERLOADED,
    QUEUED_LOOKS,
    REST,
)
from poolproxy.pool.ledger.state import NOBODY
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
        sends = self.ledger.gather(busy, self.now, client_moves=self.client_moves)
        return {worker: message for worker, message in sends if isinstance(message, Gather)}

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


def test_a_pool_whose_servers_move_gets_a_home() -> None:
    """All workers that have to do with the pool are told, the home that it is that; and only once."""
    driver = Gatherer()
    driver.fill(1, 1)
    told = driver.heat()
    home = told[1].home
    assert {worker: gather.here for worker, gather in told.items()} == {
        worker: worker == home for worker in (1, 2, 3)
    }
    assert driver.look() == {}
    driver.want(4)
    assert driver.look() == {4: Gather(POOL, home, here=False, lone=True)}


def test_a_pool_at_rest_or_with_few_moves_has_none() -> None:
    """Clients that wait are no reason, nor are a few moves in a second."""
    driver = Gatherer()
    driver.fill(1, 1)
    driver.want(2)
    for _ in range(20):
        driver.shuttle(2)
        driver.want(2 if driver.holder() == 1 else 1)
        assert driver.look() == {}


@pytest.mark.parametrize("client_moves", [True, False])
def test_a_pool_of_encrypted_servers_has_one_where_clients_wait(*, client_moves: bool) -> None:
    """They can't move, so it is enough that clients wait where other servers are not; also where only
    clients go that are relayed.
    """
    driver = Gatherer(pool_size=2)
    driver.movable, driver.client_moves = False, client_moves
    driver.fill(1, 2)
    driver.want(1)
    for _ in range(5):
        assert driver.look() == {}
    driver.want(2)
    assert driver.look() == {}
    told = driver.look()
    home = told[1].home
    assert told == {w: Gather(POOL, home, here=w == home) for w in (1, 2)}
    driver.closed(driver.permit())
    assert driver.look() == {}


def test_a_server_that_is_being_opened_is_waited_for() -> None:
    """A pool that grows is no reason to gather anybody: its limit keeps nobody waiting."""
    driver = Gatherer(pool_size=3)
    driver.movable = False
    driver.fill(1, 1)
    driver.want(2)
    for _ in range(5):
        assert driver.look() == {}


@pytest.mark.parametrize(("each", "homes"), [(0.47, 1), (0.52, 0)])
def test_of_what_encrypted_clients_take_a_part_stays_with_their_workers(
    each: float, homes: int
) -> None:
    """So a pool may have a home that would be too much for one worker if all of it went there."""
    driver = Gatherer(pool_size=2)
    driver.movable = False
    driver.fill(1, 1)
    driver.fill(2, 1)
    driver.want(3)
    told = {}
    for _ in range(4):
        told |= driver.look({1: each, 2: each, 3: 0.0, 4: 0.0})
    assert len({gather.home for gather in told.values()}) == homes


@pytest.mark.parametrize("client_moves", [True, False])
def test_a_small_pool_has_a_home_whether_its_clients_may_move_or_not(client_moves: bool) -> None:
    """Without ``client_moves`` they are relayed; a reload changes nothing."""
    driver = Gatherer()
    driver.client_moves = client_moves
    driver.fill(1, 1)
    told = driver.heat()
    assert {gather.home for gather in told.values()} != {NOBODY}
    assert all(gather.relay for gather in told.values())
    driver.client_moves = not client_moves
    assert driver.look() == {}


def test_one_moment_of_moves_is_not_enough() -> None:
    """The pool must be hot in two looks in a row."""
    driver = Gatherer()
    driver.fill(1, 1)
    driver.want(2)
    driver.look()
    for _ in range(5):
        driver.shuttle(10)
        assert driver.look() == {}
        assert driver.look() == {}


def test_moves_in_session_mode_are_no_reason() -> None:
    """Clients keep their servers there."""
    driver = Gatherer(session_mode=True)
    driver.fill(1, driver.limits.pool_size)
    assert driver.heat() == {}


@pytest.mark.parametrize(
    ("work", "clients", "homes"),
    [(0.1, 20, {1}), (0.5, 20, set()), (0.1, MOST_CLIENTS + 1, set())],
)
def test_a_larger_pool_whose_servers_move_gets_a_home_if_that_is_much_of_what_it_takes(
    work: float, clients: int, homes: set[int]
) -> None:
    """It has a server for each worker, but now one needs two of them, then another one. Not if it does a good
    deal more than that, or if thousands of clients would have to move.
    """
    driver = Gatherer(pool_size=4)
    driver.fill(1, 4)
    for _ in range(clients):
        driver.ledger.client_up(1, POOL, driver.now)
    told = driver.heat({**IDLE, 1: work})
    assert {gather.home for gather in told.values()} == homes


@pytest.mark.parametrize("idle", [0, 25, 50])
def test_idle_servers_of_other_pools_do_not_hide_what_a_larger_pool_does(idle: int) -> None:
    """The workers' time is divided by servers, so it seems to take less. All together have more to do than to
    move servers.
    """
    driver = Gatherer(pool_size=4)
    for worker in IDLE:
        driver.fill(worker, 1)
        driver.others(worker, idle)
    assert driver.heat(dict.fromkeys(IDLE, 0.6)) == {}


@pytest.mark.parametrize("known", [(), (1, 2, 3)])
def test_a_larger_pool_has_no_home_while_it_is_not_known_what_workers_do(
    known: tuple[int, ...],
) -> None:
    """Its moves may be next to nothing of that."""
    driver = Gatherer(pool_size=4)
    driver.fill(1, 4)
    assert driver.heat(dict.fromkeys(known, 0.04)) == {}
    assert driver.heat(dict.fromkeys(IDLE, 0.04)) != {}


def test_a_larger_pool_that_moves_comes_after_those_that_have_homes() -> None:
    """What these do does not count against it."""
    driver = Gatherer(pool_size=4)
    first, last = many(driver, 3, 4), PoolKey("app", "last")
    busy = {**dict.fromkeys(IDLE, 0.01), 1: 0.2}
    driver.look(busy)
    homes = [all_move(driver, first, busy) for _ in range(2)]
    assert [len(new) for new in homes] == [0, 3]
    driver.fill(1, 4, last)
    driver.want(2, pool=last)
    driver.look(busy)
    told = [all_move(driver, [last], busy) for _ in range(2)]
    assert [list(new) for new in told] == [[], [last]]


def test_workers_know_whether_the_pool_has_one_server() -> None:
    """Also when the second one ends."""
    driver = Gatherer(pool_size=2)
    driver.fill(1, 2)
    told = driver.heat()
    assert {gather.lone for gather in told.values()} == {False}
    driver.ledger.server_closed(driver.permit(), driver.now)
    again = driver.look()
    assert again.keys() == told.keys()
    assert {gather.lone for gather in again.values()} == {True}


def queued(busy: Mapping[int, float] = SOME, clients: int = 20) -> tuple[Gatherer, list[int]]:
    """A larger pool whose clients wait at its limit, and the homes that are told in the next few looks."""
    driver = Gatherer(pool_size=4)
    driver.fill(1, 4)
    for _ in range(clients):
        driver.ledger.client_up(2, POOL, driver.now)
    driver.want(2)
    told = [driver.look(busy) for _ in range(QUEUED_LOOKS + 1)]
    return driver, [news[2].home if news else NOBODY for news in told]


def test_a_larger_pool_has_one_when_its_clients_have_queued_for_a_while() -> None:
    """They wait in one queue then."""
    driver, homes = queued()
    assert homes == [NOBODY] * QUEUED_LOOKS + [1]
    for _ in range(20):
        driver.ledger.client_gone(2, POOL, driver.now)
        driver.ledger.client_up(1, POOL, driver.now)
    driver.want(1)
    assert driver.look(SOME, after=COMING) == {}


def test_a_queue_that_comes_and_goes_is_no_reason() -> None:
    """Nor is one in front of a limit that is not reached: a server is being opened there."""
    driver = Gatherer(pool_size=4)
    driver.fill(1, 4)
    for _ in range(4):
        driver.want(2)
        for _ in range(QUEUED_LOOKS - 1):
            assert driver.look(SOME) == {}
        driver.ledger.want(2, nothing(POOL), driver.now)
        assert driver.look(SOME) == {}
    driver = Gatherer(pool_size=4)
    driver.fill(1, 3)
    driver.want(2)
    assert all(driver.look(SOME) == {} for _ in range(2 * QUEUED_LOOKS))


@pytest.mark.parametrize(
    ("busy", "clients"),
    [
        ({**IDLE, 1: LITTLE / 2}, 20),
        (dict.fromkeys(IDLE, 0.9), 20),
        (SOME, MOST_CLIENTS + 1),
    ],
)
def test_a_larger_pool_has_none_where_it_does_not_pay(busy: dict[int, float], clients: int) -> None:
    """It takes next to no time, or more than one worker has, or thousands of clients would have to move."""
    _, homes = queued(busy, clients)
    assert set(homes) == {NOBODY}


@pytest.mark.parametrize("client_moves", [True, False])
def test_a_larger_pool_of_encrypted_servers_has_one(*, client_moves: bool) -> None:
    """Its servers are closed and opened anew where they are wanted, so all its clients come to them."""
    driver = Gatherer(pool_size=4)
    driver.movable, driver.client_moves = False, client_moves
    driver.fill(1, 2)
    driver.fill(3, 2)
    for worker in (1, 2):
        driver.want(worker)
    told = driver.look(SOME) | driver.look(SOME) | driver.look(SOME)
    assert {gather.home for gather in told.values()} in ({1}, {3})
    assert all(gather.relay for gather in told.values())


def gathered(client_moves: bool) -> tuple[Gatherer, dict[int, Gather]]:
    """A larger pool that has got a home, and what the workers were told."""
    driver = Gatherer(pool_size=4)
    driver.client_moves = client_moves
    driver.fill(1, 4)
    driver.want(2)
    told = {}
    for _ in range(QUEUED_LOOKS + 1):
        told |= driver.look(SOME)
    return driver, told


@pytest.mark.parametrize("client_moves", [True, False])
def test_the_clients_of_a_larger_pool_are_relayed_where_they_cannot_go(client_moves: bool) -> None:
    """So that all wait in one queue there, too; where they can go, those that can't stay where they are."""
    _, told = gathered(client_moves)
    assert {gather.home for gather in told.values()} == {1}
    assert all(gather.relay is not client_moves for gather in told.values())


@pytest.mark.parametrize("client_moves", [True, False])
def test_whether_clients_are_relayed_follows_a_reload(client_moves: bool) -> None:
    """Every worker is told, once; the home stays."""
    driver, _ = gathered(client_moves)
    driver.client_moves = not client_moves
    told = driver.look(SOME)
    assert told == {w: Gather(POOL, 1, here=w == 1, relay=client_moves) for w in (1, 2)}
    assert driver.look(SOME) == {}


def test_the_home_of_a_larger_pool_is_given_up_sooner() -> None:
    """Its servers don't have to move, so it loses less than a worker does that has no time left."""
    driver, homes = queued()
    told = driver.look({**SOME, homes[-1]: FULL}, after=COMING)
    assert {gather.home for gather in told.values()} == {NOBODY}
    assert all(driver.look(SOME) == {} for _ in range(2 * QUEUED_LOOKS))


def test_the_home_is_a_worker_with_room() -> None:
    """It is the one that will be least busy with the pool's work, wherever that is now."""
    driver = Gatherer()
    for worker in (1, 2, 3):
        driver.others(worker, 9)
    assert driver.homed({1: 0.5, 2: 0.6, 3: 0.55, 4: 0.1}) == 4


def test_among_equals_the_home_is_where_most_clients_are() -> None:
    """So as few as possible have to move."""
    driver = Gatherer()
    driver.fill(1, 1)
    for worker, count in ((2, 5), (1, 3), (3, 1)):
        for _ in range(count):
            driver.ledger.client_up(worker, POOL, driver.now)
    told = driver.heat({1: 0.2, 2: 0.24, 3: 0.2, 4: 0.2})
    assert {gather.home for gather in told.values()} <= {1, 2}


@pytest.mark.parametrize(("client_moves", "homes"), [(True, {3}), (False, {1, 2})])
def test_where_clients_are_relayed_the_home_is_rather_where_most_are(
    client_moves: bool, homes: set[int]
) -> None:
    """What moves costs once, what is relayed all the time; so more room elsewhere counts for less."""
    driver = Gatherer()
    driver.client_moves = client_moves
    driver.fill(1, 1)
    for worker, count in ((2, 5), (1, 3), (3, 1)):
        for _ in range(count):
            driver.ledger.client_up(worker, POOL, driver.now)
    for worker in (1, 2, 3):
        driver.others(worker, 2)
    told = driver.heat({1: 0.5, 2: 0.5, 3: 0.3, 4: 0.5})
    assert {gather.home for gather in told.values()} <= homes


def test_the_home_of_relayed_clients_has_room_for_them() -> None:
    """However many of them are at a busy worker."""
    driver = Gatherer()
    driver.client_moves = False
    driver.fill(1, 1)
    for worker in (1, 2):
        for _ in range(9):
            driver.ledger.client_up(worker, POOL, driver.now)
    for worker in (1, 2, 3, 4):
        driver.others(worker, 2)
    told = driver.heat({1: 0.9, 2: 0.9, 3: 0.7, 4: 0.45})
    assert {gather.home for gather in told.values()} == {4}


def test_a_pool_that_would_overload_one_worker_has_none() -> None:
    """What it takes of all workers together is more than a part of a core that one can give; it is thought
    over again after a while.
    """
    driver = Gatherer(pool_size=2)
    driver.fill(1, 1)
    driver.fill(2, 1)
    assert driver.heat({1: 0.9, 2: 0.9, 3: 0.0, 4: 0.0}) == {}
    assert driver.heat() == {}
    driver.now += REST
    assert driver.heat() != {}


def test_where_all_workers_are_busy_there_is_no_home() -> None:
    """Other pools' work counts as well."""
    driver = Gatherer()
    driver.fill(1, 1)
    assert driver.heat(dict.fromkeys(IDLE, 0.9)) == {}


def test_a_home_lasts_while_anybody_waits() -> None:
    """When nothing moves any more that is its merit; it ends when nobody has waited for long."""
    driver = Gatherer()
    home = driver.homed()
    driver.want(home)
    for _ in range(10):
        assert driver.look(after=KEEP / 2) == {}
    driver.ledger.want(home, nothing(POOL), driver.now)
    assert driver.look(after=KEEP / 2) == {}
    told = driver.look(after=KEEP)
    assert told
    assert {gather.home for gather in told.values()} == {NOBODY}
    assert driver.look() == {}
    assert not driver.ledger._gathering._homes


def test_switched_off_all_homes_end() -> None:
    """The pooler is shutting down."""
    driver = Gatherer()
    driver.homed()
    told = dict(driver.ledger.gather(None, driver.now))
    assert [gather.home for gather in told.values() if isinstance(gather, Gather)] == [NOBODY] * 3


def test_a_dead_or_leaving_home_is_replaced() -> None:
    """The others are told of the new one as soon as servers move again."""
    driver = Gatherer()
    home = driver.homed()
    driver.ledger.worker_retired(home)
    told = driver.look()
    assert {gather.home for gather in told.values()} == {NOBODY}
    told = driver.heat()
    (other,) = {gather.home for gather in told.values()}
    assert other not in (home, NOBODY)
    driver.ledger.worker_gone(other, driver.now)
    assert {gather.home for gather in driver.look().values()} == {NOBODY}
    assert other not in driver.look()


def test_the_home_changes_for_one_with_a_good_deal_more_room_only() -> None:
    """After a while, and the way back would have to be as good: so it does not come back."""
    driver = Gatherer()
    home = driver.homed()
    first, *rest = [worker for worker in IDLE if worker != home]
    driver.bring(home)
    driver.others(home, 1)  # half of the work there
    driver.want(home)
    some = {home: 0.9, first: 0.35, **dict.fromkeys(rest, 0.8)}
    assert driver.look(some, after=HOLD) == {}
    much = {home: 0.9, first: 0.1, **dict.fromkeys(rest, 0.5)}
    assert driver.look(much) == {}
    assert {gather.home for gather in driver.look(much, after=HOLD).values()} == {first}
    driver.ledger.want(home, nothing(POOL), driver.now)  # its clients have gone
    driver.bring(first)
    driver.want(first)
    after = {home: 0.45, first: 0.55, **dict.fromkeys(rest, 0.5)}
    for _ in range(5):
        assert driver.look(after, after=HOLD) == {}


def test_an_overloaded_home_is_given_up() -> None:
    """Where no other worker has more room the clients are spread again."""
    driver = Gatherer()
    home = driver.homed()
    driver.want(home)
    over = {**dict.fromkeys(IDLE, 0.0), home: OVERLOADED}
    since = driver.ledger._gathering._homes[POOL].since
    while not (told := driver.look(over)):
        assert driver.now < since + HOLD + LOOK
    assert driver.now >= since + HOLD
    assert {gather.home for gather in told.values()} == {NOBODY}
    assert driver.heat() == {}


def test_where_most_clients_dont_come_they_are_not_called_any_longer() -> None:
    """Those in the clear without ``client_moves``; where more come all the time they go on."""
    driver = Gatherer()
    for _ in range(10):
        driver.ledger.client_up(4, POOL, driver.now)
    home = driver.homed({**IDLE, 4: 0.5})
    assert home != 4
    driver.want(home)
    for _ in range(2):
        driver.ledger.client_gone(4, POOL, driver.now)
        driver.ledger.client_up(home, POOL, driver.now)
        assert driver.look(after=COMING) == {}
    told = driver.look(after=COMING)
    assert {gather.home for gather in told.values()} == {NOBODY}
    assert driver.heat() == {}


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
    told = driver.ledger.gather(busy, driver.now, client_moves=driver.client_moves)
    return {m.pool: m.home for _, m in told if isinstance(m, Gather)}


def test_many_pools_are_spread_evenly_over_the_workers() -> None:
    """However little each takes, and not all at once; the work that a home will bring is reckoned in before
    it is measured.
    """
    driver = Gatherer()
    pools = many(driver, MOST_NEW + 8)
    busy = {**IDLE, 1: 0.8}
    driver.look(busy)
    told = [all_move(driver, pools, busy) for _ in range(3)]
    assert [len(new) for new in told] == [0, MOST_NEW, 8]
    homes = Counter(home for new in told for home in new.values())
    assert homes == dict.fromkeys(IDLE, len(pools) // 4)


@pytest.mark.parametrize("size", [1, 4])
def test_equal_pools_are_spread_evenly_wherever_their_servers_are_just_then(size: int) -> None:
    """Where these are says hardly anything, nor how busy those workers have been of late."""
    for busy in ({**IDLE, 1: 0.3, 2: 0.1}, {**IDLE, 1: 0.1, 2: 0.3}, {**IDLE, 1: 0.02, 2: 0.38}):
        driver = Gatherer(pool_size=size)
        pools = many(driver, 8, size)
        driver.look(busy)
        for pool in pools[:3]:
            driver.bring(2, pool)
        told = [all_move(driver, pools, busy) for _ in range(2)]
        assert sorted(Counter(told[-1].values()).values()) == [2, 2, 2, 2]


def uneven(driver: Gatherer) -> tuple[list[PoolKey], int]:
    """Four pools of which two come to be on one worker, and that worker."""
    pools = many(driver, 4)
    busy = {**IDLE, 1: 0.4, 4: 0.2}  # by other pools' work, that then ends
    driver.others(4, 5)
    driver.look(busy)
    homes = [all_move(driver, pools, busy) for _ in range(2)][-1]
    [(worker, count), *_] = Counter(homes.values()).most_common(1)
    assert count == 2
    for pool, home in homes.items():
        driver.bring(home, pool)
        driver.want(home, pool=pool)
    return pools, worker


def test_what_was_chosen_badly_is_mended_as_soon_as_it_is_measured() -> None:
    """One pool, and one only, of the worker that has two goes to the one that has none."""
    driver = Gatherer()
    pools, worker = uneven(driver)
    busy = {**dict.fromkeys(IDLE, 0.1), worker: 0.2, 4: 0.0}
    assert all_look(driver, busy, ARRIVED / 2) == {}
    told = all_look(driver, busy, ARRIVED / 2)
    assert list(told.values()) == [4]
    assert set(told) <= set(pools)
    for pool in told:
        driver.ledger.want(worker, nothing(pool), driver.now)
        driver.bring(4, pool)
        driver.want(4, pool=pool)
    assert all_look(driver, dict.fromkeys(IDLE, 0.1), 2 * ARRIVED) == {}


def test_a_home_is_thought_over_less_and_less_often() -> None:
    """However much the measured shares change: half a minute is between two changes in the end."""
    driver = Gatherer()
    uneven(driver)
    began, changes = driver.now, []
    while driver.now < began + 4 * HOLD:
        shares = [0.5 * ((driver.now * 7 + n) % 4 > 2) for n in range(4)]
        if all_look(driver, dict(zip(IDLE, shares, strict=True)), LOOK):
            changes.append(driver.now - began)
    late = [at for at in changes if at > 2 * HOLD]
    assert late
    assert len(late) <= 2 * 4
    assert len(changes) <= 4 * (6 + 4)


def test_the_home_of_relayed_clients_changes_for_much_room_only() -> None:
    """They cost where they are as well, so less is gained."""
    for client_moves, changes in ((True, 1), (False, 0)):
        driver = Gatherer()
        driver.client_moves = client_moves
        _, worker = uneven(driver)
        busy = {**dict.fromkeys(IDLE, 0.1), worker: 0.2, 4: 0.0}
        assert len(all_look(driver, busy, ARRIVED)) == changes


def test_a_worker_with_hardly_any_work_or_no_more_than_others_keeps_its_pools() -> None:
    """There is nothing to be gained."""
    for least, changes in ((0.0, True), (0.15, False)):
        driver = Gatherer()
        _, worker = uneven(driver)
        driver.others(worker, 6)
        told = all_look(driver, {**dict.fromkeys(IDLE, 0.8), 4: 4 * least}, ARRIVED)
        assert bool(told) is changes
    driver = Gatherer()
    uneven(driver)
    assert all_look(driver, {1: 0.08, 2: 0.08, 3: 0.08, 4: 0.0}, ARRIVED) == {}


def test_nobody_is_sent_to_a_worker_of_which_nothing_is_known() -> None:
    """It may be stuck; nor is anybody sent away from one."""
    driver = Gatherer()
    _, worker = uneven(driver)
    known = {**dict.fromkeys(IDLE, 0.1), worker: 0.3}
    del known[4]
    assert 4 not in all_look(driver, known, ARRIVED).values()
    driver = Gatherer()
    _, worker = uneven(driver)
    known = {**dict.fromkeys(IDLE, 0.1), 4: 0.0}
    del known[worker]
    assert all_look(driver, known, ARRIVED) == {}
    assert driver.homed({1: 0.3, 2: 0.3, 3: 0.1}) != 4


def test_what_larger_pools_take_is_what_they_seem_to_take() -> None:
    """Their servers stay where they are. So one that takes little has a home beside one that takes much."""
    driver, light = Gatherer(pool_size=4), PoolKey("app", "light")
    driver.fill(1, 2)
    driver.fill(2, 2)
    driver.fill(3, 2, light)
    driver.fill(4, 2, light)
    driver.want(1)
    driver.want(3, pool=light)
    told = {}
    for _ in range(QUEUED_LOOKS + 1):
        told |= all_look(driver, {1: 0.95, 2: 0.95, 3: 0.1, 4: 0.1}, LOOK)
    assert set(told) == {light}


def test_the_pool_stays_where_it_seems_to_take_more_than_its_part() -> None:
    """That its server is there now makes it none the worse."""
    driver = Gatherer()
    first, second = many(driver, 2)
    for pool in (first, second):
        for _ in range(5):
            driver.ledger.client_up(1, pool, driver.now)
    driver.others(2, 3)
    busy = {1: 0.4, 2: 0.4, 3: 0.4, 4: 0.4}
    driver.look(busy)
    homes = [all_move(driver, [first, second], busy) for _ in range(2)][-1]
    assert 1 in homes.values()


def test_the_pool_with_most_work_gets_its_home_first() -> None:
    """A large one beside four small ones has a worker of its own, and the others share what that leaves."""
    driver, large = Gatherer(pool_size=3), PoolKey("app", "large")
    pools = many(driver, 4)
    driver.fill(1, 3, large)
    driver.want(2, pool=large)
    busy = {**IDLE, 1: 0.7}
    driver.look(busy)
    homes = [all_move(driver, [*pools, large], busy) for _ in range(2)][-1]
    alone = homes.pop(large)
    assert sorted(Counter(homes.values()).values()) == [1, 1, 2]
    assert alone not in homes.values()


def test_pools_that_are_hot_get_homes_with_others() -> None:
    """One look is enough then, and later it would have to take what room they left; alone it is not."""
    driver = Gatherer()
    first, second = many(driver, 2)
    driver.look()
    assert all_move(driver, [first], IDLE) == {}
    assert all_move(driver, [first, second], IDLE).keys() == {first, second}


def test_the_work_that_a_home_brings_is_measured_after_a_while() -> None:
    """From then on it counts as what it is, and no more as what was expected."""
    for after, expected in ((0.0, True), (ARRIVED, False)):
        driver = Gatherer()
        (first,) = many(driver, 1)
        driver.look()
        for _ in range(2):
            told = all_move(driver, [first], {**IDLE, 1: 0.6})
        home, second = told[first], PoolKey("app", "second")
        driver.bring(home, first)
        driver.now += after
        driver.others(1, 3)
        driver.fill(1, 1, second)
        driver.want(2, pool=second)
        driver.look()
        for _ in range(2):
            told = all_move(driver, [second], {**dict.fromkeys(IDLE, 0.4), home: 0.05})
        assert (told[second] != home) == expected


def test_a_pool_that_is_gone_leaves_nothing() -> None:
    """Its workers are told, and nothing of it is kept."""
    driver = Gatherer()
    driver.homed()
    driver.closed(driver.permit())
    told = driver.look()
    assert told
    assert {gather.home for gather in told.values()} == {NOBODY}
    driver.look()
    assert not driver.ledger._gathering._homes
