"""Pools at rest cost the others nothing, and are not forgotten when they are needed."""

from __future__ import annotations

from poolproxy.ipc.messages import CancelKey, Parameter, Permit, PoolKey, Reclaim, ServerUp, Want
from poolproxy.pool.ledger import Ledger, PoolLimits
from poolproxy.pool.ledger.news import Sends

LIMITS = PoolLimits(pool_size=8, max_user_connections=3)


class Counting(dict[PoolKey, object]):
    """The pools that may have something to do, counted as they are looked at."""

    looked_at = 0

    def items(self):  # type: ignore[no-untyped-def]
        self.looked_at += len(self)
        return super().items()


def key(number: int) -> PoolKey:
    return PoolKey(f"d{number}", "alice")


def permits(sends: Sends) -> list[Permit]:
    return [message for _, message in sends if isinstance(message, Permit)]


def asked(sends: Sends) -> list[PoolKey]:
    return [m.pool for _, m in sends if isinstance(m, Reclaim) and m.count]


def opened(ledger: Ledger, number: int, now: float) -> int:
    """A client of this pool comes, gets a server and needs it no more; its permit."""
    (permit,) = permits(ledger.want(0, Want(key(number), 1, now, False, False), now))
    ledger.want(0, Want(key(number), 0, 0.0, False, False), now)
    up = ServerUp(permit.permit, CancelKey(1, b"k"), 0.001, (Parameter("a", "b"),))
    ledger.server_up(0, up, now)
    return permit.permit


def test_pools_at_rest_are_not_looked_at() -> None:
    """A thousand pools that share a limit with a busy one, and need nothing, are no work for it."""
    ledger = Ledger(lambda _: LIMITS)
    ledger.worker_up(0, 0.0)
    for number in range(1000):
        ledger.client_up(0, key(number), 1.0)
    ledger._books.restless = counting = Counting(ledger._books.restless)
    opened(ledger, 0, 2.0)
    assert counting.looked_at < 10


def test_a_pool_at_rest_gives_its_server_to_one_that_needs_it() -> None:
    """The limit that they share is reached: an idle server of the others is asked back, and granted anew."""
    ledger = Ledger(lambda _: LIMITS)
    ledger.worker_up(0, 0.0)
    held = {key(number): opened(ledger, number, 1.0) for number in range(3)}
    sends = ledger.want(0, Want(key(7), 1, 5.0, False, False), 5.0)
    (victim,) = asked(sends)
    assert victim in held
    (permit,) = permits(ledger.server_closed(held[victim], 5.1))
    assert permit.pool == key(7)


def test_all_pools_shrink_in_turn_when_a_limit_that_they_share_is_lowered() -> None:
    """Though each is at rest: the one with most servers first, then those that have most by then."""
    limits = LIMITS
    ledger = Ledger(lambda _: limits)
    ledger.worker_up(0, 0.0)
    held = {key(number): [opened(ledger, number, 1.0)] for number in range(3)}
    limits = PoolLimits(pool_size=8, max_user_connections=1)
    now, sends = 5.0, ledger.configure(lambda _: limits, (), 5.0)
    for _ in range(50):
        for pool in asked(sends):
            if held[pool]:
                sends = ledger.server_closed(held[pool].pop(), now)
                break
        else:
            now += 0.5
            sends = ledger.tick(now)
    assert ledger.held == 1
