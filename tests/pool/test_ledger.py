"""The ledger's rules, one by one."""

from __future__ import annotations

import pytest

from poolproxy.ipc.messages import (
    CancelKey,
    Message,
    Parameter,
    Permit,
    PoolFailing,
    PoolKey,
    Reclaim,
    ServerFailed,
    ServerUp,
    Want,
    Welcome,
)
from poolproxy.pool.ledger import Ledger, PoolLimits, UnknownPermit

POOL, OTHER = PoolKey("app", "alice"), PoolKey("app", "bob")
PARAMETERS = (Parameter("server_version", "18"),)


class Driver:
    """A ledger with two workers, a clock, and short words for what workers say."""

    movable = False  # servers are encrypted: it is the permit that moves

    def __init__(self, **limits: object) -> None:
        self.limits = PoolLimits(**{"pool_size": 2, **limits})  # type: ignore[arg-type]
        self.now = 100.0
        self.ledger = Ledger(lambda key: self.limits if key.database == "app" else None)
        assert self.ledger.worker_up(1, self.now) == self.ledger.worker_up(2, self.now) == []

    def want(
        self, worker: int, waiting: int = 1, since: float = 100.0, pool: PoolKey = POOL
    ) -> list[tuple[int, Message]]:
        return self.ledger.want(worker, Want(pool, waiting, since, False, False), self.now)

    def up(self, worker: int, permit: int) -> list[tuple[int, Message]]:
        message = ServerUp(permit, CancelKey(1, b""), 0.001, PARAMETERS, movable=self.movable)
        return self.ledger.server_up(worker, message, self.now)

    def failed(
        self, worker: int, permit: int, sqlstate: str = "", from_server: bool = False
    ) -> list[tuple[int, Message]]:
        message = ServerFailed(permit, "connect failed", sqlstate, from_server)
        return self.ledger.server_failed(worker, message, self.now)

    def closed(self, permit: int) -> list[tuple[int, Message]]:
        return self.ledger.server_closed(permit, self.now)

    def tick_at(self, now: float) -> list[tuple[int, Message]]:
        self.now = now
        return self.ledger.tick(now)

    def fill(self, worker: int, count: int, pool: PoolKey = POOL) -> list[int]:
        """Give ``worker`` this many servers; nobody waits afterwards."""
        sends = self.want(worker, pool=pool)
        permits = [m.permit for _, m in sends if isinstance(m, Permit)]
        while len(permits) < count:
            permits += [m.permit for _, m in self.up(worker, permits[-1]) if isinstance(m, Permit)]
        self.want(worker, 0, pool=pool)
        self.up(worker, permits[-1])
        return permits


def granted(sends: list[tuple[int, Message]]) -> list[int]:
    """The workers that got a permit."""
    return [worker for worker, message in sends if isinstance(message, Permit)]


def asked(sends: list[tuple[int, Message]]) -> list[tuple[int, str, int]]:
    return [(worker, m.pool.user, m.count) for worker, m in sends if isinstance(m, Reclaim)]


def test_one_attempt_at_a_time() -> None:
    """The next permit of a pool is granted when the last one's server is up."""
    driver = Driver()
    assert granted(driver.want(1, 5)) == [1]
    assert driver.want(2, 5) == []
    assert granted(driver.up(1, 1)) == [2]


def test_no_permit_beyond_pool_size() -> None:
    """A permit counts until it has come back, also while its server is being closed."""
    driver = Driver()
    driver.want(1, 5)
    driver.up(1, 1)
    assert granted(driver.up(1, 2)) == []
    permits, sends = driver.ledger.worker_gone(1, driver.now)
    assert permits == [1, 2]
    assert granted(sends + driver.want(2)) == []
    assert granted(driver.closed(1)) == [2]


def test_zero_means_unlimited() -> None:
    """With pool_size 0 every want is granted in its turn."""
    driver = Driver(pool_size=0)
    driver.want(1, 99)
    assert all(granted(driver.up(1, permit)) == [1] for permit in range(1, 50))


def test_the_oldest_waiter_comes_first_but_for_workers_without_any() -> None:
    """Order: no server of its own, then the longest wait."""
    driver = Driver(pool_size=4)
    driver.want(1, 5, since=90.0)
    driver.want(2, 5, since=95.0)
    assert granted(driver.up(1, 1)) == [2]
    assert granted(driver.up(2, 2)) == [1]


@pytest.mark.parametrize("limit", ["max_db_connections", "max_user_connections"])
def test_limits_over_pools_hold(limit: str) -> None:
    """The limit of a database counts all its users, that of a user all its databases."""
    driver = Driver(**{limit: 1})
    driver.ledger = Ledger(lambda key: driver.limits)
    driver.ledger.worker_up(1, driver.now)
    driver.fill(1, 1)
    rival = OTHER if limit == "max_db_connections" else PoolKey("two", "alice")
    assert granted(driver.want(1, pool=rival)) == []
    stranger = PoolKey("two", "bob")
    assert granted(driver.want(1, pool=stranger)) == [1]


def test_an_idle_rival_pool_is_evicted() -> None:
    """Under max_db_connections a pool where nobody waits gives one back to one where someone does."""
    driver = Driver(max_db_connections=2)
    driver.fill(1, 2)
    driver.now += 5
    assert asked(driver.want(1, since=driver.now, pool=OTHER)) == [(1, "alice", 1)]
    sends = driver.closed(1)
    assert granted(sends) == [1]
    assert asked(sends) == [(1, "alice", 0)]


def test_a_holder_keeps_a_permit_for_a_slice() -> None:
    """A permit just granted is not asked back before the slice is over, then at once."""
    driver = Driver(pool_size=1)
    driver.fill(1, 1)
    assert asked(driver.want(2, since=driver.now)) == []
    deadline = driver.ledger.next_deadline()
    assert deadline is not None
    assert driver.now < deadline <= driver.now + 0.11
    assert asked(driver.tick_at(deadline)) == [(1, "alice", 1)]


def test_the_slice_grows_with_the_cost_of_connecting() -> None:
    """Twenty times the connect time, within its bounds."""
    driver = Driver(pool_size=1)
    driver.want(1)
    message = ServerUp(1, CancelKey(1, b""), 0.03, (), movable=False)
    driver.ledger.server_up(1, message, driver.now)
    driver.want(1, 0)
    driver.want(2, since=driver.now)
    assert asked(driver.tick_at(driver.now + 0.5)) == []
    assert asked(driver.tick_at(driver.now + 0.7)) == [(1, "alice", 1)]


def test_a_need_that_has_passed_is_withdrawn() -> None:
    """Reclaim 0 follows when the waiter is gone before anyone gave way."""
    driver = Driver(pool_size=1)
    driver.fill(1, 1)
    driver.now += 1
    assert asked(driver.want(2)) == [(1, "alice", 1)]
    assert asked(driver.want(2, 0)) == [(1, "alice", 0)]


def test_a_permit_given_back_goes_to_whom_it_was_asked_for() -> None:
    """Not straight back to the giver, whose waiter may be older."""
    driver = Driver(pool_size=1)
    driver.fill(1, 1)
    driver.now += 1
    driver.want(1, since=90.0)
    assert asked(driver.want(2, since=driver.now)) == [(1, "alice", 1)]
    assert granted(driver.closed(1)) == [2]


def test_the_next_holder_is_asked_when_the_first_does_not_answer() -> None:
    """One after the other, and the first to give ends it for all."""
    driver = Driver(pool_size=2)
    driver.ledger.worker_up(3, driver.now)
    driver.want(1)
    driver.want(2)
    driver.up(1, 1)
    driver.want(1, 0)
    driver.up(2, 2)
    driver.want(2, 0)
    driver.now += 1
    first = asked(driver.want(3))
    second = asked(driver.tick_at(driver.now + 0.2))
    assert sorted(first + second) == [(1, "alice", 1), (2, "alice", 1)]
    sends = driver.closed(2)
    assert granted(sends) == [3]
    assert sorted(asked(sends)) == [(1, "alice", 0), (2, "alice", 0)]


def test_what_a_worker_without_clients_holds_is_asked_for_at_once() -> None:
    """They have gone to another worker, so its servers do nothing there; with clients it keeps its share."""
    driver = Driver()
    driver.fill(1, 1)
    driver.fill(2, 1)
    driver.ledger.client_up(1, POOL, driver.now)
    driver.now += 0.2
    assert asked(driver.want(2, 30, since=driver.now)) == []
    driver.want(2, 0)
    driver.ledger.client_up(2, POOL, driver.now)
    driver.ledger.client_gone(1, POOL, driver.now)
    assert asked(driver.want(2, 30, since=driver.now)) == [(1, "alice", 1)]


def test_the_reserve_opens_when_a_client_has_waited_long() -> None:
    """reserve_pool_timeout after the oldest waiter came, and no sooner."""
    driver = Driver(pool_size=1, reserve_pool_size=1, reserve_pool_timeout=3.0)
    driver.want(1, 3)
    assert granted(driver.up(1, 1)) == []
    assert driver.ledger.next_deadline() == 103.0
    assert granted(driver.tick_at(102.9)) == []
    assert granted(driver.tick_at(103.0)) == [1]
    assert granted(driver.up(1, 2)) == []


def test_reserve_pool_timeout_zero_disables_the_reserve() -> None:
    """However long a client waits."""
    driver = Driver(pool_size=1, reserve_pool_size=1, reserve_pool_timeout=0.0)
    driver.want(1, 3)
    driver.up(1, 1)
    assert granted(driver.tick_at(1000.0)) == []


def test_min_pool_size_is_filled_once_a_client_is_there() -> None:
    """Unasked permits, marked to be kept, spread over the workers; none without a client."""
    driver = Driver(pool_size=4, min_pool_size=2)
    assert driver.ledger.tick(driver.now) == []
    (send,) = driver.ledger.client_up(2, POOL, driver.now)
    assert send == (2, Permit(1, POOL, True))
    sends = driver.up(2, 1)
    assert (2, Permit(2, POOL, True)) in sends
    assert granted(driver.up(2, 2)) == []
    driver.ledger.client_gone(2, POOL, driver.now)
    assert granted(driver.closed(1)) == []


def test_a_forced_user_needs_no_client() -> None:
    """Its pool stands in the configuration, so min_pool_size is filled from the start."""
    limits = PoolLimits(pool_size=2, min_pool_size=1, forced_user=True)
    ledger = Ledger(lambda key: limits, [POOL])
    assert ledger.worker_up(1, 0.0) == [(1, Permit(1, POOL, True))]
    ledger = Ledger(lambda key: limits, [POOL])
    ledger.leave()
    assert ledger.worker_up(1, 0.0) == []


def test_a_pool_that_no_worker_has_is_forgotten() -> None:
    """With its welcome; one that is in use again stays as it is."""
    driver = Driver()
    (permit,) = driver.fill(1, 1)
    assert driver.ledger.unused([POOL, OTHER], driver.now) == []
    assert len(driver.ledger.statistics()) == 1
    driver.closed(permit)
    assert len(driver.ledger.statistics()) == 1
    assert driver.ledger.unused([POOL], driver.now) == [(1, Welcome(POOL, ()))]
    assert driver.ledger.statistics() == ()


def test_a_failure_pauses_all_attempts() -> None:
    """server_login_retry counts from the start of the attempt; then the next waiter may try."""
    driver = Driver(server_login_retry=15.0)
    driver.want(1)
    driver.now = 104.0
    assert granted(driver.failed(1, 1) + driver.closed(1) + driver.want(2)) == []
    assert driver.ledger.next_deadline() == 115.0
    assert granted(driver.tick_at(115.0)) == [1]


def test_where_a_failover_may_come_the_first_retries_are_soon() -> None:
    """The pause is half a second and doubles up to server_login_retry; a success begins anew."""
    driver = Driver(server_login_retry=3.0, failover=True)
    driver.want(1)
    pauses = []
    for permit in range(1, 6):
        begun = driver.now
        driver.failed(1, permit)
        driver.closed(permit)
        due = driver.ledger.next_deadline()
        assert due is not None
        pauses.append(due - begun)
        assert granted(driver.tick_at(due)) == [1]
    assert pauses == [0.5, 1.0, 2.0, 3.0, 3.0]
    driver.up(1, 6)
    driver.closed(6)
    driver.want(1)
    begun = driver.now
    driver.failed(1, 7)
    assert driver.closed(7) == []
    assert driver.ledger.next_deadline() == begun + 0.5


def test_a_failing_pool_is_announced_and_cleared() -> None:
    """All that are interested hear of it, newcomers at once, and again when it is over."""
    driver = Driver(server_login_retry=1.0)
    driver.want(1)
    failing = PoolFailing(POOL, "connect failed", "", False)
    assert driver.failed(1, 1) == [(1, failing)]
    assert driver.want(2) == [(2, failing)]
    driver.closed(1)
    assert granted(driver.tick_at(101.0)) == [1]
    sends = driver.up(1, 2)
    assert [send for send in sends if isinstance(send[1], PoolFailing)] == [
        (1, PoolFailing(POOL, "", "", False)),
        (2, PoolFailing(POOL, "", "", False)),
    ]


@pytest.mark.parametrize(
    ("sqlstate", "from_server", "kill"),
    [("28P01", True, True), ("57P03", True, False), ("08006", False, False)],
)
def test_waiters_are_killed_by_the_server_s_own_refusal_only(
    sqlstate: str, from_server: bool, kill: bool
) -> None:
    """Not while it starts up, and not when it could not be reached."""
    driver = Driver()
    driver.want(1)
    ((_, message),) = driver.failed(1, 1, sqlstate, from_server)
    assert message == PoolFailing(POOL, "connect failed", sqlstate, kill)


def test_a_pool_with_a_connected_server_does_not_fail() -> None:
    """Failures are told only when the last connected server has gone."""
    driver = Driver(pool_size=3)
    driver.fill(1, 1)
    driver.want(1)
    assert driver.failed(1, 2, "53300", True) == []
    assert driver.closed(2) == []
    assert driver.closed(1) == [(1, PoolFailing(POOL, "connect failed", "53300", False))]


def test_a_probe_tries_if_the_pause_is_over() -> None:
    """Nobody waits, but a client failed fast: one attempt, if server_login_retry allows."""
    driver = Driver(server_login_retry=5.0)
    probe = Want(POOL, 0, 0.0, False, True)
    driver.want(1)
    driver.failed(1, 1)
    driver.closed(1)
    driver.want(1, 0)
    assert granted(driver.ledger.want(1, probe, 104.0)) == []
    assert granted(driver.ledger.want(1, probe, 105.0)) == [1]
    assert granted(driver.ledger.want(2, probe, 105.0)) == []


def test_long_reasons_are_cut_between_characters() -> None:
    """As much as PgBouncer repeats, and never half a character."""
    driver = Driver()
    driver.want(1)
    message = ServerFailed(1, "ä" * 99, "28000", True)
    ((_, failing),) = driver.ledger.server_failed(1, message, driver.now)
    assert isinstance(failing, PoolFailing)
    assert failing.reason == "ä" * 49


def test_welcome_is_cached_and_told() -> None:
    """The first server's parameters go to all that want the pool, and to later ones on asking."""
    driver = Driver()
    login = Want(POOL, 1, 100.0, True, False)
    driver.ledger.want(1, login, driver.now)
    driver.ledger.want(2, login, driver.now)
    welcome = Welcome(POOL, PARAMETERS)
    sends = driver.up(1, 1)
    assert {worker for worker, message in sends if message == welcome} == {1, 2}
    driver.ledger.worker_up(3, driver.now)
    assert driver.ledger.want(3, login, driver.now) == [(3, welcome)]
    assert driver.ledger.want(3, login, driver.now) == [(3, welcome)]


def test_a_changed_server_forgets_the_welcome() -> None:
    """A reload that points the database elsewhere: what the old server said no longer holds."""
    driver = Driver(target="old")
    driver.fill(1, 1)
    new = PoolLimits(pool_size=2, target="new")
    assert driver.ledger.configure(lambda key: new, [], driver.now) == [(1, Welcome(POOL, ()))]


def test_a_lowered_limit_is_asked_back() -> None:
    """After a reload the pool shrinks to its new size."""
    driver = Driver(pool_size=4)
    driver.fill(1, 4)
    driver.now += 1
    new = PoolLimits(pool_size=1)
    assert asked(driver.ledger.configure(lambda key: new, [], driver.now)) == [(1, "alice", 3)]
    assert granted(driver.closed(1) + driver.want(2)) == []


def test_a_raised_limit_is_used_at_once() -> None:
    """Waiters need not wait for anything else to happen."""
    driver = Driver(pool_size=1)
    driver.want(1, 5)
    driver.up(1, 1)
    new = PoolLimits(pool_size=2)
    assert granted(driver.ledger.configure(lambda key: new, [], driver.now)) == [1]


def test_a_permit_returned_unused_is_not_granted_again_at_once() -> None:
    """A worker that can't use permits does not start a storm of them."""
    driver = Driver()
    driver.want(1)
    assert granted(driver.closed(1)) == []
    deadline = driver.ledger.next_deadline()
    assert deadline == pytest.approx(100.05)
    assert granted(driver.tick_at(deadline)) == [1]


def test_a_worker_speaks_for_its_own_permits_only() -> None:
    """Unknown and foreign permits raise and change nothing."""
    driver = Driver()
    driver.want(1)
    with pytest.raises(UnknownPermit, match="worker 2 does not hold permit 1"):
        driver.up(2, 1)
    with pytest.raises(UnknownPermit, match="permit 7"):
        driver.closed(7)
    assert driver.ledger.held == 1


def test_an_unknown_database_is_not_pooled() -> None:
    """Wants and clients of databases that the configuration does not have are passed over."""
    driver = Driver()
    gone = PoolKey("gone", "alice")
    assert driver.want(1, pool=gone) == []
    assert driver.ledger.client_up(1, gone, driver.now) == []
    assert driver.ledger.client_gone(1, gone, driver.now) == []
    assert driver.ledger.statistics() == ()


def test_a_pool_that_never_worked_is_forgotten() -> None:
    """Names that clients make up (database *) leave nothing behind."""
    driver = Driver(server_login_retry=5.0)
    driver.want(1)
    driver.failed(1, 1)
    driver.closed(1)
    driver.want(1, 0)
    assert len(driver.ledger.statistics()) == 1
    assert driver.tick_at(105.0) == [(1, PoolFailing(POOL, "", "", False))]
    assert driver.ledger.statistics() == ()


def test_statistics_tell_the_state() -> None:
    """Counts by state, waiters, clients, what is asked back, and the failure."""
    driver = Driver(pool_size=1)
    driver.fill(1, 1)
    driver.ledger.client_up(1, POOL, driver.now)
    driver.now += 1
    driver.want(2, 3, since=100.5)
    (row,) = driver.ledger.statistics()
    assert (row.opening, row.up, row.closing) == (0, 1, 0)
    assert (row.waiting, row.oldest, row.clients, row.asked) == (3, 100.5, 1, 1)
    assert row.failing == ""


def test_a_session_s_server_follows_its_client() -> None:
    """Its permit is then the other worker's, and outlives the first one; without any it is about to end."""
    driver = Driver()
    (permit,) = driver.fill(1, 1)
    assert driver.ledger.server_follows(permit, 2, driver.now) == []
    assert driver.ledger.holds(2, permit)
    assert driver.ledger.worker_gone(1, driver.now)[0] == []
    driver.ledger.server_follows(permit, None, driver.now)
    assert granted(driver.want(2, waiting=2)) == [2]
    driver.up(2, permit + 1)
    assert driver.ledger.held == 2
    assert granted(driver.closed(permit)) == [2]
    assert driver.ledger.server_follows(99, 1, driver.now) == []
