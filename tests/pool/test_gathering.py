"""When the clients of a pool are gathered on one worker, and on which."""

from __future__ import annotations

import pytest

from poolproxy.ipc.messages import Gather
from poolproxy.pool.ledger.gathering import (
    COMING,
    HOLD,
    KEEP,
    OVERLOADED,
)
from poolproxy.pool.ledger.keeping import REST
from poolproxy.pool.ledger.state import NOBODY
from tests.pool.gatherer import IDLE, LOOK, Gatherer, nothing
from tests.pool.test_ledger import POOL


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
    told = dict(driver.gather(None))
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
