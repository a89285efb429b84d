"""The ledger's rules for servers that go from worker to worker, one by one."""

from __future__ import annotations

import attrs
import pytest

from poolproxy.ipc.messages import (
    LoginWant,
    Message,
    NoneIdle,
    NoServer,
    Permit,
    PoolKey,
    Reclaim,
    ServersCome,
    ServerTaken,
    ServerYielded,
    Want,
    Yield,
    YieldIdle,
)
from poolproxy.pool.ledger import Ledger, PoolLimits, UnknownPermit
from poolproxy.pool.ledger.moving import MOST_LEAD, MOST_SEARCHES, PATIENCE
from tests.pool.ledger_simulation import server_state
from tests.pool.test_ledger import OTHER, POOL, Driver, asked, granted

Sent = list[tuple[int, Message]]


class Mover(Driver):
    """Servers in the clear, which can move."""

    movable = True

    def yields(self, worker: int, permit: int, want: Want | None = None, client: int = 0) -> Sent:
        state = server_state(permit, POOL, keep=False)
        return self.ledger.server_yielded(worker, ServerYielded(state, want, client), self.now)

    def taken(
        self, worker: int, permit: int, want: Want | None = None, *, taken: bool = True
    ) -> Sent:
        return self.ledger.server_taken(worker, ServerTaken(permit, taken, want), self.now)

    def log_in(self, worker: int, client: int, *, wanted: bool = True) -> Sent:
        return self.ledger.login_want(worker, LoginWant(client, POOL, wanted), self.now)


def need(waiting: int, since: float) -> Want:
    return Want(POOL, waiting, since, login=False, probe=False)


def called(sends: Sent) -> list[tuple[int, int]]:
    """The workers that are asked to hand over, and how many."""
    return [(worker, m.count) for worker, m in sends if isinstance(m, Yield)]


def come(sends: Sent) -> list[tuple[int, list[int]]]:
    """Where servers go."""
    return [
        (worker, [state.permit for state in m.servers])
        for worker, m in sends
        if isinstance(m, ServersCome)
    ]


def test_a_worker_without_a_server_gets_one_of_another() -> None:
    """The holder is told since when the client waits; what it yields goes there, with its permit."""
    driver = Mover(pool_size=1)
    driver.fill(1, 1)
    driver.now += 1
    sends = driver.want(2, since=driver.now)
    assert sends[-1] == (1, Yield(POOL, 1, driver.now))
    assert come(driver.yields(1, 1)) == [(2, [1])]
    assert driver.ledger.holds(2, 1)
    assert driver.taken(2, 1, need(0, 0.0)) == []
    assert not asked(sends)
    assert driver.ledger.held == 1


def test_a_limit_that_is_not_reached_is_used_instead() -> None:
    """A connection of its own, where there may be one more."""
    driver = Mover(pool_size=2)
    driver.fill(1, 1)
    driver.now += 1
    assert granted(sends := driver.want(2, since=driver.now)) == [2]
    assert not called(sends)


def test_a_server_comes_with_the_call_to_hand_it_on() -> None:
    """Its new worker is told at once since when clients of others wait, whose server it had been, too."""
    driver = Mover(pool_size=1)
    driver.fill(1, 1)
    driver.now += 1
    driver.want(2, since=driver.now)
    sends = driver.yields(1, 1, need(5, driver.now))
    assert come(sends) == [(2, [1])]
    assert called(sends) == [(2, 1)]


def test_a_holder_may_serve_clients_that_are_a_little_younger() -> None:
    """By two fifths of what the oldest one elsewhere has waited, and by 100 ms at most."""
    for waited, lead in [(0.05, 0.02), (10.0, MOST_LEAD)]:
        driver = Mover(pool_size=1)
        driver.fill(1, 1)
        driver.now += 20
        since = driver.now - waited
        [call] = [m for _, m in driver.want(2, since=since) if isinstance(m, Yield)]
        assert call.since == pytest.approx(since + lead)


def test_what_is_yielded_goes_to_who_waits_longest_by_then() -> None:
    """Whoever it was asked for."""
    driver = Mover(pool_size=1)
    driver.ledger.worker_up(3, driver.now)
    driver.fill(1, 1)
    driver.now += 1
    driver.want(2, since=driver.now)
    driver.want(3, since=driver.now - 0.1)
    assert come(driver.yields(1, 1)) == [(3, [1])]


def test_a_need_that_has_passed_is_withdrawn() -> None:
    """Yield 0 follows; and if the server was let go before that, it comes back."""
    driver = Mover(pool_size=1)
    driver.fill(1, 1)
    driver.now += 1
    assert called(driver.want(2)) == [(1, 1)]
    assert called(driver.want(2, 0)) == [(1, 0)]
    assert come(driver.yields(1, 1)) == [(1, [1])]
    driver.taken(1, 1)
    assert driver.ledger.holds(1, 1)


def test_a_server_on_its_way_counts_for_whom_it_is_meant() -> None:
    """Nobody else is asked for the same client."""
    driver = Mover(pool_size=2)
    driver.fill(1, 2)
    driver.now += 1
    driver.want(2, 1, since=driver.now)
    assert not called(driver.yields(1, 1))
    assert not called(driver.tick_at(driver.now + 1))
    assert called(driver.taken(2, 1, need(1, driver.now))) == [(1, 1)]


def test_the_next_holder_is_asked_when_the_first_does_not_answer() -> None:
    """One after the other, and the first to give ends it for all."""
    driver = Mover(pool_size=2)
    driver.ledger.worker_up(3, driver.now)
    driver.want(1)
    driver.want(2)
    driver.up(1, 1)
    driver.want(1, 0)
    driver.up(2, 2)
    driver.want(2, 0)
    driver.now += 1
    assert called(driver.want(3)) == [(1, 1)]
    assert called(driver.tick_at(driver.now + PATIENCE)) == [(2, 1)]
    assert called(driver.yields(2, 2)) == [(1, 0)]


def test_of_two_workers_with_servers_the_older_queue_gets_one() -> None:
    """If it is older by a good part, and only then."""
    driver = Mover(pool_size=2)
    driver.want(1, 9, since=driver.now)
    driver.want(2, 9, since=driver.now)
    driver.up(1, 1)
    driver.up(2, 2)
    driver.now += 1
    driver.want(1, 9, since=driver.now - 0.020)
    driver.want(2, 9, since=driver.now - 0.021)
    assert not called(driver.tick_at(driver.now + 0.02))
    driver.want(2, 9, since=driver.now - 0.2)
    assert called(driver.tick_at(driver.now + PATIENCE)) == [(1, 1)]


def spread(driver: Mover, *held: int) -> None:
    """Workers 1, 2 ... get so many servers each."""
    for worker, count in enumerate(held, 1):
        driver.ledger.worker_up(worker, driver.now)
        if count:
            driver.fill(worker, count)
    driver.now += 1


def queues(driver: Mover, *waiting: int, age: float = 0.01) -> Sent:
    """At workers 1, 2 ... so many clients wait, as if that had grown together."""
    for worker, count in enumerate(waiting, 1):
        want = Want(POOL, count, driver.now - age, login=False, probe=False)
        driver.ledger._books.pools[POOL].hear(worker, want, driver.now)
    return driver.want(len(waiting), waiting[-1], since=driver.now - age)


def test_a_worker_keeps_the_whole_servers_of_its_share() -> None:
    """Of 1.8 servers one goes round, and the other one stays as long as somebody has one beyond that."""
    driver = Mover(pool_size=3)
    spread(driver, 1, 1, 1, 0)
    assert called(queues(driver, 119, 39, 29, 10)) == [(3, 1)]
    sends = driver.tick_at(driver.now + PATIENCE)
    assert {worker for worker, _ in called(sends)} == {2, 3}


def test_who_waits_much_longer_than_in_one_queue_gets_one_more() -> None:
    """By a quarter; from the worker that has most beyond its share, and nobody else is asked."""
    driver = Mover(pool_size=8)
    spread(driver, 6, 1, 1)
    assert called(queues(driver, 70, 20, 9)) == [(1, 1)]
    assert come(driver.yields(1, 1)) == [(2, [1])]
    assert not called(driver.taken(2, 1))


def test_who_has_its_share_gets_an_idle_server_all_the_same() -> None:
    """Where another worker has servers and nobody waits there, one of them may be idle."""
    driver = Mover(pool_size=4)
    spread(driver, 2, 2)
    assert called(driver.want(1, since=driver.now)) == [(2, 1)]


def test_small_differences_move_nothing() -> None:
    """Of eight servers 4.8, 1.6, 1.2 and 0.4 are a worker's share, and 4, 2, 1 and 1 are good enough."""
    driver = Mover(pool_size=8)
    spread(driver, 4, 2, 1, 1)
    assert not called(queues(driver, 116, 38, 29, 9))
    assert not called(driver.tick_at(driver.now + 10 * PATIENCE))


def test_newer_figures_may_show_that_servers_are_unequally_spread() -> None:
    """A worker whose queue grows gets one more when it has told."""
    driver = Mover(pool_size=4)
    spread(driver, 2, 2)
    assert not called(queues(driver, 10, 10))
    driver.now += 0.1
    assert called(driver.want(2, 40, since=driver.now - 0.01)) == [(1, 1)]


def test_encrypted_servers_stay_and_their_permits_move() -> None:
    """Such a server is closed after the longer slice of a connect, and another one opened."""
    driver = Mover(pool_size=1)
    driver.movable = False
    driver.fill(1, 1)
    driver.now += 1
    sends = driver.want(2, since=driver.now)
    assert asked(sends) == [(1, "alice", 1)]
    assert not called(sends)


def test_servers_of_other_pools_are_closed_not_moved() -> None:
    """They are logged in as somebody else."""
    driver = Mover(max_db_connections=2)
    driver.fill(1, 2)
    driver.now += 5
    sends = driver.want(2, since=driver.now, pool=OTHER)
    assert asked(sends) == [(1, "alice", 1)]
    assert not called(sends)


def test_a_closed_server_answers_a_call() -> None:
    """Its permit is free, and the holder owes nothing any more."""
    driver = Mover(pool_size=1)
    driver.fill(1, 1)
    driver.now += 1
    driver.want(2, since=driver.now)
    sends = driver.closed(1)
    assert granted(sends) == [2]
    assert called(sends) == [(1, 0)]


def test_a_refused_server_is_lost_and_its_permit_comes_back() -> None:
    """The acceptor ends it; then another one is opened for those who wait."""
    driver = Mover(pool_size=1)
    driver.fill(1, 1)
    driver.now += 1
    driver.want(2, since=driver.now)
    driver.yields(1, 1)
    assert granted(driver.taken(2, 1, taken=False)) == []
    assert granted(driver.closed(1)) == [2]


@pytest.mark.parametrize("with_client", [False, True])
def test_a_server_that_is_being_ended_is_not_ended_again(*, with_client: bool) -> None:
    """By the death of the worker that had refused it: its permit comes back once."""
    driver = Mover(pool_size=1)
    driver.fill(1, 1)
    driver.now += 1
    if with_client:
        driver.ledger.server_follows(1, 2, driver.now)
        driver.ledger.server_follows(1, None, driver.now)
    else:
        driver.want(2, since=driver.now)
        driver.yields(1, 1)
        driver.taken(2, 1, taken=False)
    permits, _ = driver.ledger.worker_gone(2, driver.now)
    assert permits == []
    driver.closed(1)
    assert driver.ledger.held == 0


@pytest.mark.parametrize("dead", [1, 2])
def test_a_worker_dies_amid_a_move(dead: int) -> None:
    """The receiver's death ends the server, the sender's does not concern it any more."""
    driver = Mover(pool_size=1)
    driver.fill(1, 1)
    driver.now += 1
    driver.want(2, since=driver.now)
    driver.yields(1, 1)
    permits, _ = driver.ledger.worker_gone(dead, driver.now)
    assert permits == ([1] if dead == 2 else [])
    if dead == 1:
        assert driver.taken(2, 1) == []
    else:
        with pytest.raises(UnknownPermit):
            driver.taken(1, 1)
        driver.closed(1)
        assert driver.ledger.held == 0


def test_nobody_is_left_to_have_it() -> None:
    """The last worker has died right behind its message: the caller ends the server."""
    driver = Mover(pool_size=1)
    driver.fill(1, 1)
    driver.ledger.worker_gone(2, driver.now)
    driver.ledger._books.workers.clear()
    assert come(driver.yields(1, 1)) == []
    driver.closed(1)
    assert driver.ledger.held == 0


def test_servers_of_a_worker_that_is_to_leave_go_to_those_that_stay() -> None:
    """To one with clients of the pool before others, then to the one with the fewest, if anyone stays."""
    driver = Mover(pool_size=3)
    driver.fill(1, 3)
    driver.ledger.worker_up(3, driver.now)
    driver.ledger.worker_retired(1)
    assert come(driver.yields(1, 1)) == [(2, [1])]
    assert come(driver.yields(1, 2)) == [(3, [2])]
    driver.taken(3, 2)
    driver.taken(2, 1)
    driver.ledger.client_up(3, POOL, driver.now)
    assert come(driver.yields(1, 3)) == [(3, [3])]
    for worker in (2, 3):
        driver.ledger.worker_retired(worker)
    assert come(driver.yields(2, 1)) == []


def test_only_servers_in_use_can_be_yielded() -> None:
    """Not those of others, nor twice."""
    driver = Mover(pool_size=1)
    driver.fill(1, 1)
    with pytest.raises(UnknownPermit):
        driver.yields(2, 1)
    driver.yields(1, 1)
    with pytest.raises(UnknownPermit):
        driver.yields(1, 1)


def test_a_failing_server_s_connections_are_shared() -> None:
    """While no new one can be opened, those that there are go to where clients wait."""
    driver = Mover(pool_size=4)
    driver.fill(1, 1)
    driver.now += 1
    assert granted(driver.want(2, since=driver.now)) == [2]
    sends = driver.failed(2, 2) + driver.closed(2)
    assert called(sends) == [(1, 1)]


# -- log-ins in session mode -------------------------------------------------------------------------------


def session_pool() -> Mover:
    """Two workers hold a server each, which nobody waits for, and a third one has none."""
    driver = Mover(pool_size=2, session_mode=True)
    driver.ledger.worker_up(3, driver.now)
    driver.want(1)
    driver.want(2)
    driver.up(1, 1)
    driver.want(1, 0)
    driver.up(2, 2)
    driver.want(2, 0)
    return driver


def test_a_log_in_finds_an_idle_server_elsewhere() -> None:
    """Worker by worker is asked, until one has one."""
    driver = session_pool()
    assert driver.log_in(3, 7)[-1] == (1, YieldIdle(POOL, 7))
    assert driver.ledger.none_idle(NoneIdle(POOL, 7), driver.now) == [(2, YieldIdle(POOL, 7))]
    (send,) = [x for x in driver.yields(2, 2, client=7) if isinstance(x[1], ServersCome)]
    assert send[0] == 3
    assert isinstance(send[1], ServersCome)
    assert send[1].client == 7


def test_a_log_in_goes_on_without_if_there_is_none() -> None:
    """When all have been asked."""
    driver = session_pool()
    driver.log_in(3, 7)
    driver.ledger.none_idle(NoneIdle(POOL, 7), driver.now)
    assert driver.ledger.none_idle(NoneIdle(POOL, 7), driver.now) == [(3, NoServer(7))]
    assert driver.ledger.none_idle(NoneIdle(POOL, 7), driver.now) == []


def test_a_log_in_comes_behind_all_who_wait() -> None:
    """The server that was found for it goes to a client with a query."""
    driver = session_pool()
    driver.log_in(3, 7)
    driver.now += 1
    driver.want(2, 1, since=driver.now)
    sends = driver.yields(1, 1, client=7)
    assert (3, NoServer(7)) in sends
    assert come(sends) == [(2, [1])]


def test_a_log_in_that_is_gone_is_not_looked_for() -> None:
    """What was found meanwhile stays idle where it was."""
    driver = session_pool()
    driver.log_in(3, 7)
    assert driver.log_in(3, 7, wanted=False) == []
    sends = driver.yields(1, 1, client=7)
    assert come(sends) == [(1, [1])]


@pytest.mark.parametrize("dead", [1, 3])
def test_a_search_survives_a_worker(dead: int) -> None:
    """The next one is asked in its place; without the one whose client it is there is no search."""
    driver = session_pool()
    driver.log_in(3, 7)
    _, sends = driver.ledger.worker_gone(dead, driver.now)
    asks = [send for send in sends if isinstance(send[1], YieldIdle)]
    assert asks == ([(2, YieldIdle(POOL, 7))] if dead == 1 else [])


def test_a_storm_of_log_ins_is_not_searched_for() -> None:
    """Above a number the others go on without."""
    driver = session_pool()
    sends = [driver.log_in(3, n) for n in range(MOST_SEARCHES + 1)]
    assert sends[-1] == [(3, NoServer(MOST_SEARCHES))]


# -- limits that are lowered --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max_db_connections", "max_user_connections"])
def test_a_lowered_limit_over_pools_is_asked_back(limit: str) -> None:
    """From the pool with most servers first, until as many are left as the limit allows."""
    small = OTHER if limit == "max_db_connections" else PoolKey("two", "alice")
    driver = Mover(pool_size=4)
    driver.ledger = Ledger(lambda key: driver.limits)
    driver.ledger.worker_up(1, driver.now)
    big, little = driver.fill(1, 3), driver.fill(1, 2, pool=small)
    driver.now += 1
    new = PoolLimits(pool_size=4, **{limit: 2})  # type: ignore[arg-type]
    sends = driver.ledger.configure(lambda key: new, [], driver.now)
    (ask,) = [(worker, m.pool, m.count) for worker, m in sends if isinstance(m, Reclaim)]
    assert ask == (1, POOL, 3)
    sends = [send for permit in big[:2] for send in driver.closed(permit)]
    driver.now += 1
    sends += driver.ledger.tick(driver.now)
    counts = {m.pool: m.count for _, m in sends if isinstance(m, Reclaim)}
    assert counts[small] == 1
    driver.closed(little[0])
    assert granted(driver.want(1, pool=small)) == []
    assert driver.ledger.held == 2


def test_permits_are_listed() -> None:
    """For whoever compares them with what there is."""
    driver = Mover()
    (_, permit) = driver.want(1)[0]
    assert isinstance(permit, Permit)
    assert driver.ledger.permits() == [permit.permit]


def test_who_is_kept_by_two_limits_gets_room_in_both() -> None:
    """A server of another pool that nobody needs goes, and not only one that is fought for."""
    other_user, other_database = OTHER, PoolKey("two", "alice")
    limits = PoolLimits(pool_size=4, max_db_connections=1, max_user_connections=1)
    driver = Mover()
    driver.ledger = Ledger(
        lambda key: attrs.evolve(limits, max_db_connections=1 if key.database == "app" else 0)
    )
    for worker in (1, 2):
        driver.ledger.worker_up(worker, driver.now)
    driver.fill(1, 1, pool=other_database)
    driver.fill(1, 1, pool=other_user)
    driver.now += 5
    driver.want(1, 1, since=driver.now, pool=other_user)
    sends = driver.want(2, since=driver.now)
    assert asked(sends) == [(1, "alice", 1)]
    sends = driver.closed(1)
    for _ in range(100):
        if (1, "bob", 1) in asked(sends):
            break
        deadline = driver.ledger.next_deadline()
        assert deadline is not None
        sends = driver.tick_at(deadline)
    assert (1, "bob", 1) in asked(sends)
    assert granted(driver.closed(2)) == [2]
