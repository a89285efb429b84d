"""Cancel requests between workers."""

from __future__ import annotations

import math

from poolproxy.acceptor.cancels import Cancels, Peer
from poolproxy.admin.view import PeerFacts
from poolproxy.ipc.messages import Cancel, CancelDone, CancelKey, PassOn
from poolproxy.settings.hosts import Host

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


OTHER = Peer(2, Host("b", 6432), 1)


def test_a_peer_s_cancel_is_passed_on_by_who_has_asked() -> None:
    """The worker that got the request brings it to the peer, and lets the canceller go when that is done."""
    cancels = Cancels()
    sends = cancels.pass_on(1, 41, KEY, OTHER, math.inf)
    assert sends == [(1, PassOn(1, "b", 6432, KEY))]
    assert cancels.peers() == (PeerFacts(2, 1, 0),)
    assert cancels.done(1, 1) == [(1, CancelDone(41))]
    assert cancels.peers() == ()


def test_few_cancels_are_on_their_way_to_a_peer() -> None:
    """Over the peer's pool_size they wait in turn; those of other peers do not."""
    cancels = Cancels()
    cancels.pass_on(1, 41, KEY, OTHER, math.inf)
    assert cancels.pass_on(2, 42, KEY, OTHER, math.inf) == []
    assert cancels.pass_on(1, 43, KEY, OTHER, math.inf) == []
    assert cancels.peers() == (PeerFacts(2, 1, 2),)
    third = Peer(3, Host("c", 6432), 1)
    assert cancels.pass_on(1, 44, KEY, third, math.inf) == [(1, PassOn(4, "c", 6432, KEY))]
    assert cancels.done(1, 1) == [(1, CancelDone(41)), (2, PassOn(2, "b", 6432, KEY))]
    assert cancels.done(2, 2) == [(2, CancelDone(42)), (1, PassOn(3, "b", 6432, KEY))]
    assert cancels.done(1, 3) == [(1, CancelDone(43))]


def test_a_cancel_that_waits_for_a_peer_times_out() -> None:
    """Its canceller is let go, and nothing of it is left in the queue."""
    cancels = Cancels()
    cancels.pass_on(1, 41, KEY, OTHER, math.inf)
    cancels.pass_on(1, 42, KEY, OTHER, 10.0)
    assert cancels.expire(10.0) == [(1, CancelDone(42))]
    assert cancels.done(1, 1) == [(1, CancelDone(41))]
    assert len(cancels) == 0


def test_a_dead_worker_makes_room_at_the_peer() -> None:
    """What it was passing on is over, so that the next one's turn comes."""
    cancels = Cancels()
    cancels.pass_on(1, 41, KEY, OTHER, math.inf)
    cancels.pass_on(1, 42, KEY, OTHER, math.inf)
    cancels.pass_on(2, 43, KEY, OTHER, math.inf)
    assert cancels.worker_gone(1) == [(2, PassOn(3, "b", 6432, KEY))]
    assert cancels.peers() == (PeerFacts(2, 1, 0),)


def test_requests_to_peers_are_bounded() -> None:
    """What is over the bound of all is dropped, whether it is for a client of ours or a peer's."""
    cancels = Cancels(max_pending=1)
    cancels.pass_on(1, 41, KEY, OTHER, math.inf)
    assert cancels.pass_on(1, 42, KEY, OTHER, math.inf) == [(1, CancelDone(42))]
