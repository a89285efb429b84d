"""Cancel requests between workers."""

from __future__ import annotations

import math

from poolproxy.acceptor.cancels import Cancels
from poolproxy.ipc.messages import Cancel, CancelDone, CancelKey

KEY = CancelKey(1, b"x")


def test_a_cancel_goes_to_the_client_s_worker_and_its_end_back() -> None:
    """The doer gets a number of ours, the asker its own back."""
    cancels = Cancels()
    assert cancels.request(1, 41, KEY, doer=2, deadline=math.inf) == [(2, Cancel(1, KEY))]
    assert cancels.done(3, 1) == []
    assert cancels.done(2, 1) == [(1, CancelDone(41))]
    assert cancels.done(2, 1) == []


def test_an_unknown_key_is_done_at_once() -> None:
    """Nothing is remembered of it."""
    cancels = Cancels()
    assert cancels.request(1, 41, KEY, doer=None, deadline=math.inf) == [(1, CancelDone(41))]
    assert len(cancels) == 0


def test_the_number_in_flight_is_bounded() -> None:
    """What is over the bound is dropped without a word."""
    cancels = Cancels(max_pending=1)
    cancels.request(1, 41, KEY, doer=2, deadline=math.inf)
    assert cancels.request(1, 42, KEY, doer=2, deadline=math.inf) == [(1, CancelDone(42))]


def test_a_late_cancel_is_given_up() -> None:
    """After cancel_wait_timeout the canceller is let go, once."""
    cancels = Cancels()
    cancels.request(1, 41, KEY, doer=2, deadline=10.0)
    assert cancels.expire(9.9) == []
    assert cancels.expire(10.0) == [(1, CancelDone(41))]
    assert cancels.done(2, 1) == []


def test_a_worker_s_death_ends_its_cancels() -> None:
    """What it was to do is over; what it asked for is forgotten."""
    cancels = Cancels()
    cancels.request(1, 41, KEY, doer=2, deadline=math.inf)
    cancels.request(2, 42, KEY, doer=1, deadline=math.inf)
    assert cancels.worker_gone(2) == [(1, CancelDone(41))]
    assert len(cancels) == 0


def test_a_cancel_for_a_client_on_its_way_is_held_back() -> None:
    """It is delivered where the client arrives, and done when that worker says so."""
    cancels = Cancels()
    assert cancels.request(1, 41, KEY, doer=None, deadline=math.inf, moving=True) == []
    assert cancels.found(CancelKey(2, b"y"), 3) == []
    assert cancels.found(KEY, 3) == [(3, Cancel(1, KEY))]
    assert cancels.found(KEY, 3) == []
    assert cancels.done(3, 1) == [(1, CancelDone(41))]


def test_a_cancel_that_came_too_late_for_a_move_goes_after_the_client() -> None:
    """The worker that the client has left says so, and the next one is asked."""
    cancels = Cancels()
    cancels.request(1, 41, KEY, doer=2, deadline=math.inf)
    assert cancels.missed(3, 1) is None
    assert cancels.missed(2, 1) == KEY
    assert cancels.done(2, 1) == []
    assert cancels.found(KEY, 3) == [(3, Cancel(1, KEY))]


def test_a_cancel_for_a_client_that_never_arrives_is_done() -> None:
    """Nobody waits for a client that is gone; nor longer than cancel_wait_timeout for one on its way."""
    cancels = Cancels()
    cancels.request(1, 41, KEY, doer=None, deadline=10.0, moving=True)
    assert cancels.found(KEY, None) == [(1, CancelDone(41))]
    cancels.request(1, 42, KEY, doer=None, deadline=10.0, moving=True)
    assert cancels.expire(10.0) == [(1, CancelDone(42))]
    assert len(cancels) == 0
