"""The homes of pools with a server for each worker, or more."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolproxy.ipc.messages import Gather, PoolKey
from poolproxy.pool.ledger.coming import ENOUGH
from poolproxy.pool.ledger.gathering import (
    COMING,
    FULL,
    LITTLE,
)
from poolproxy.pool.ledger.home import QUEUED_LOOKS
from poolproxy.pool.ledger.moves import MOST_CLIENTS
from poolproxy.pool.ledger.state import NOBODY
from tests.pool.gatherer import IDLE, SOME, Gatherer, all_move, many, nothing
from tests.pool.test_ledger import POOL

MANY = {1: 10, 2: 8, 3: 2}  # clients by worker


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
def test_clients_of_a_larger_pool_stay_where_they_can(client_moves: bool) -> None:
    """Those that can move are gathered; of those that can't only the worker's that has hardly a server for
    them.
    """
    driver, told = gathered(client_moves=client_moves)
    assert {gather.home for gather in told.values()} == {1}
    assert told.keys() == ({1, 2, 3} if client_moves else {1, 3})
    assert all(gather.relay is not client_moves for gather in told.values())
    assert driver.look(SOME) == {}


@pytest.mark.parametrize("client_moves", [True, False])
def test_a_larger_pool_of_encrypted_servers_has_a_home(client_moves: bool) -> None:
    """Its servers are closed and opened anew where they are wanted, so clients are relayed to them."""
    driver = Gatherer(pool_size=4)
    driver.movable, driver.client_moves = False, client_moves
    driver.fill(1, 2)
    driver.fill(3, 2)
    driver.enter({1: 8, 2: 1, 3: 11})
    for worker in (1, 2, 3):
        driver.want(worker)
    told = look_until_queued(driver)
    assert told == {w: Gather(POOL, 3, here=w == 3) for w in (2, 3)}


def look_until_queued(driver: Gatherer) -> dict[int, Gather]:
    """What is told in the looks until clients that queue are gathered."""
    told: dict[int, Gather] = {}
    for _ in range(QUEUED_LOOKS + 1):
        told |= driver.look(SOME)
    return told


def gathered(
    *, client_moves: bool, clients: Mapping[int, int] = MANY
) -> tuple[Gatherer, dict[int, Gather]]:
    """A larger pool whose clients queue, and what the workers were told."""
    driver = Gatherer(pool_size=4)
    driver.client_moves = client_moves
    driver.fill(1, 4)
    driver.enter(clients)
    for worker in clients:
        driver.want(worker)
    return driver, look_until_queued(driver)


def test_no_client_is_relayed_if_each_worker_has_a_server_for_them() -> None:
    """It would cost more than it saves; when one comes to have fewer they are, there."""
    driver, told = gathered(client_moves=False, clients={1: 5, 2: 5})
    assert told == {}
    driver.enter({1: 5})
    driver.want(1, 10)
    told = look_until_queued(driver)
    assert told == {w: Gather(POOL, 1, here=w == 1) for w in (1, 2)}


def test_a_moment_in_which_others_do_most_makes_nobody_come() -> None:
    """The 10 of worker 2 have most of the work, as a rule; they would be relayed for ever after."""
    driver = Gatherer(pool_size=8)
    driver.client_moves = False
    driver.fill(1, 4)
    driver.fill(2, 4)
    driver.enter({1: 100, 2: 10})
    driver.want(2, 9)
    for _ in range(3):
        assert look_until_queued(driver) == {}
        driver.want(1, 90)
        assert all(driver.look(SOME) == {} for _ in range(QUEUED_LOOKS - 1))
        driver.want(1, 1)
        assert driver.look(SOME) == {}
    driver.want(1, 90)
    assert look_until_queued(driver) == {w: Gather(POOL, 1, here=w == 1) for w in (1, 2)}


def test_relayed_clients_count_where_their_connections_are() -> None:
    """They go on being relayed when they have come. When they are most their worker is the home."""
    driver, _ = gathered(client_moves=False)
    driver.come(1, {3: 2})
    assert driver.look(SOME) == driver.look(SOME) == {}
    driver.relayed += {3: 20}
    told = look_until_queued(driver)
    assert told[3].here
    assert told[2].home == 3


class Village:
    """The clients of a pool whose connections stay: ``clients`` by the worker that has these; where those are
    served is another matter (``places``).
    """

    def __init__(self, servers: int, clients: Mapping[int, int]) -> None:
        self.driver = Gatherer(pool_size=servers)
        self.driver.client_moves = False
        self.driver.movable = servers >= len(
            IDLE
        )  # else to wait would not be enough for a small one
        self.driver.fill(min(clients), servers)
        self.driver.enter(clients)
        self.clients = dict(clients)
        self.places = {worker: worker for worker in clients}

    def obey(self, worker: int, order: Gather) -> None:
        place = worker if order.here or order.home == NOBODY else order.home
        former = self.places.get(worker, place)
        if former != place:
            self.places[worker] = place
            self.driver.come(place, {former: self.clients[worker]})

    def look(self, busy: Mapping[int, float]) -> dict[int, Gather]:
        for worker in busy:
            waiting = 9 * (worker in self.places.values())
            self.driver.want(worker, waiting, since=self.driver.now)
        told = self.driver.look(busy)
        for worker, order in told.items():
            self.obey(worker, order)
        return told

    def worker_dies(self, worker: int) -> None:
        """With the clients whose connections it has, and with those that it serves."""
        self.driver.ledger.worker_gone(worker, self.driver.now)
        for other, place in list(self.places.items()):
            if worker in (other, place):
                count = self.clients.pop(other)
                del self.places[other]
                self.driver.relayed[other] -= count
                self.driver.relayed[place] += count
                for _ in range(count):
                    self.driver.ledger.client_gone(place, POOL, self.driver.now)
        del self.driver.relayed[worker]


@settings(max_examples=100, deadline=None)
@given(
    servers=st.integers(1, 24),
    clients=st.dictionaries(st.sampled_from([1, 2, 3, 4]), st.integers(1, 60), min_size=1),
    busy=st.tuples(*[st.sampled_from([0.0, 0.1, 0.4, 0.7, 0.9])] * 4),
    dies=st.sampled_from([0, 1, 2]),
)
def test_who_is_relayed_comes_to_rest(
    servers: int, clients: dict[int, int], busy: tuple[float, ...], dies: int
) -> None:
    """Whatever the parts and the load, and when a worker dies: orders cease, and whose clients are served
    elsewhere has hardly a server's part.
    """
    village = Village(servers, clients)
    load = dict(zip(IDLE, busy, strict=True))
    for fallen in (0, dies):
        if fallen:
            village.worker_dies(fallen)
            del load[fallen]
        for _ in range(25):
            village.look(load)
        assert all(village.look(load) == {} for _ in range(25))
        assert +village.driver.connections(POOL) == village.clients
        for worker, place in village.places.items():
            part = servers * village.clients[worker] / sum(village.clients.values())
            assert part < ENOUGH or place == worker or fallen  # whose servers are missing


def test_no_more_clients_are_relayed_while_servers_are_missing() -> None:
    """As they end, and are opened anew. Three are as many as a small pool has, whose clients all go."""
    driver, _ = gathered(client_moves=False)
    for permit in (1, 2):
        driver.ledger.server_closed(permit, driver.now)
    assert driver.look(SOME) == driver.look(SOME) == {}


def test_clients_that_come_with_their_connections_are_still_to_come() -> None:
    """They can move, but the pool's servers can't: the home is kept, as for those that are relayed."""
    driver, _ = gathered(client_moves=False)
    driver.come(1, {3: 2})
    driver.relayed.clear()
    assert driver.look(SOME) == driver.look(SOME) == {}


def test_no_one_is_relayed_whose_clients_are_few_but_do_most() -> None:
    """The others have nothing to do."""
    driver = Gatherer(pool_size=4)
    driver.client_moves = False
    driver.fill(2, 4)
    driver.enter({1: 100, 2: 10})
    driver.want(2, 9)
    assert look_until_queued(driver) == {}


def test_a_home_of_clients_that_are_relayed_in_part_stays() -> None:
    """Also if its worker has more to do than others: with what comes, which is little, it has time for it.
    And if some can't come, as their transactions take for ever.
    """
    driver, _ = gathered(client_moves=False, clients={1: 10, 2: 8, 3: 2, 4: 2})
    driver.come(1, {3: 2})
    assert all(driver.look({**SOME, 1: 0.8}) == {} for _ in range(200))


def test_a_home_to_which_all_have_come_stays_when_they_may_not_move_any_more() -> None:
    """A reload: nobody is elsewhere, and who logs in there later is relayed."""
    driver, _ = gathered(client_moves=True)
    for worker in (2, 3):
        for _ in range(MANY[worker]):
            driver.ledger.client_up(1, POOL, driver.now)
            driver.ledger.client_gone(worker, POOL, driver.now)
            driver.ledger.want(worker, nothing(POOL), driver.now)
    driver.client_moves = False
    driver.want(1, 10)
    assert look_until_queued(driver)[1] == Gather(POOL, 1, here=True)
    driver.enter({4: 2})
    assert look_until_queued(driver)[4] == Gather(POOL, 1, here=False)


def test_clients_of_a_worker_that_leaves_go_on_coming() -> None:
    """Who can't move stays with it to the end; also if they make up more than they did."""
    driver, _ = gathered(client_moves=False)
    driver.come(1, {3: 2})
    driver.ledger.worker_retired(3)
    driver.relayed += {3: 20}
    assert 3 not in look_until_queued(driver)


def test_when_a_larger_pool_becomes_a_small_one_all_come() -> None:
    """A reload has lowered its limit, and it is reached."""
    driver, _ = gathered(client_moves=False, clients={1: 9, 2: 9, 3: 2})
    limit(driver, 3)
    driver.ledger.server_closed(4, driver.now)
    assert look_until_queued(driver) == {2: Gather(POOL, 1, here=False)}


def test_a_pool_that_is_small_for_moments_is_not_taken_for_a_small_one() -> None:
    """Its limit is shared with another pool, whose clients come and go: nobody is relayed and sent back."""
    driver, _ = gathered(client_moves=False, clients={1: 9, 2: 9, 3: 2})
    for permit in (4, 3):
        limit(driver, 3)
        driver.ledger.server_closed(permit, driver.now)
        assert all(driver.look(SOME) == {} for _ in range(QUEUED_LOOKS - 1))
        limit(driver, 4)
        assert driver.look(SOME) == {}


def limit(driver: Gatherer, size: int) -> None:
    driver.limits = attrs.evolve(driver.limits, pool_size=size)
    driver.ledger.configure(lambda key: driver.limits, (), driver.now)


def test_bursts_do_not_gather_clients_again_and_again() -> None:
    """All are relayed while servers move, and none when they queue; then there is no home for a while."""
    driver = calm()
    assert rests_and_moves(driver).keys() == set(IDLE)
    for worker in IDLE:
        driver.want(worker)
    assert {order.home for order in look_until_queued(driver).values()} == {NOBODY}
    for worker in IDLE:
        driver.ledger.want(worker, nothing(POOL), driver.now)
    assert rests_and_moves(driver) == {}


def test_the_home_of_relayed_clients_is_where_most_are() -> None:
    """However busy it is with them, as long as it has time for what comes; else it is the next one."""
    for least, home in ((0.7, 1), (0.79, 2)):
        driver = Gatherer(pool_size=4)
        driver.client_moves = False
        driver.fill(1, 4)
        driver.enter(MANY)
        for worker in MANY:
            driver.want(worker, MANY[worker])
        busy = {1: least, 2: 0.3, 3: 0.1, 4: 0.0}
        told = [driver.look(busy) for _ in range(QUEUED_LOOKS + 1)]
        assert told[-1][3].home == home


def test_the_home_moves_on_if_its_own_clients_have_left() -> None:
    """Then they make up less than a server, and others more."""
    driver, _ = gathered(client_moves=False)
    for _ in range(MANY[1] - 1):
        driver.ledger.client_gone(1, POOL, driver.now)
    driver.want(2, 20)
    told = look_until_queued(driver)
    assert told == {w: Gather(POOL, 2, here=w == 2) for w in (1, 2, 3)}


def test_the_home_moves_on_if_all_its_clients_have_left() -> None:
    """Also if it has servers, and serves clients of others."""
    driver, _ = gathered(client_moves=False)
    driver.come(1, {3: 2})
    for _ in range(MANY[1]):
        driver.ledger.client_gone(1, POOL, driver.now)
    assert look_until_queued(driver)[3].home == 2


def test_where_all_have_hardly_a_server_the_home_is_chosen_as_for_small_pools() -> None:
    """All clients come, so it is the one with most room, and thought over."""
    driver = Gatherer(pool_size=4)
    driver.client_moves = False
    driver.fill(1, 4)
    driver.enter({1: 6, 2: 5, 3: 5, 4: 5})
    driver.want(2)
    busy = {1: 0.7, 2: 0.1, 3: 0.1, 4: 0.1}
    driver.others(1, 20)
    told = [driver.look(busy) for _ in range(QUEUED_LOOKS + 1)][-1]
    assert told[2].home in (2, 3, 4)


def test_all_are_relayed_where_that_costs_less_than_to_move_servers() -> None:
    """They don't queue, but rest; now one worker needs two servers, then another one."""
    assert rests_and_moves(calm()).keys() == set(IDLE)


def calm() -> Gatherer:
    """Clients of a pool with two servers for each worker, that can't move."""
    driver = Gatherer(pool_size=8)
    driver.client_moves = False
    driver.fill(1, 8)
    driver.enter({1: 5, 2: 5, 3: 5, 4: 5})
    return driver


def rests_and_moves(driver: Gatherer) -> dict[int, Gather]:
    """What is told while now one worker needs servers, then another one, and none for long."""
    told: dict[int, Gather] = {}
    for _ in range(QUEUED_LOOKS + 1):
        for worker in IDLE:
            driver.meet(worker)
        driver.shuttle(20)
        driver.ledger.want(2, nothing(POOL), driver.now)
        driver.ledger.want(1, nothing(POOL), driver.now)
        told |= driver.look({**IDLE, 1: 0.1})
    return told


@pytest.mark.parametrize("client_moves", [True, False])
def test_whether_clients_are_relayed_follows_a_reload(client_moves: bool) -> None:
    """Who is told, is told once; the home stays."""
    driver, _ = gathered(client_moves=client_moves)
    driver.client_moves = not client_moves
    told = driver.look(SOME)
    assert told[1] == Gather(POOL, 1, here=True, relay=client_moves)
    assert told[3] == Gather(POOL, 1, here=False, relay=client_moves)
    assert driver.look(SOME) == {}


def test_the_home_of_a_larger_pool_is_given_up_sooner() -> None:
    """Its servers don't have to move, so it loses less than a worker does that has no time left."""
    driver, homes = queued()
    told = driver.look({**SOME, homes[-1]: FULL}, after=COMING)
    assert {gather.home for gather in told.values()} == {NOBODY}
    assert all(driver.look(SOME) == {} for _ in range(2 * QUEUED_LOOKS))
