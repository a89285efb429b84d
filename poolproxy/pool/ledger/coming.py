"""Whose clients come to the home of a larger pool where most could only be relayed.

Several workers keep several servers as busy as one does, and busier: when the clients of three were relayed
to the fourth one, with a pool of 8, a seventh of two cores was idle (benchmarks/PROFILE.md). But one that has
a single server wakes up for each of its answers, which costs as much as to relay, or more; and one whose
clients make up less than a server's part has it for a moment, and then none. So their clients are relayed,
and those of a worker with two servers or more are not. With few more servers than workers that may be most of
them. A moment in which others have more to do is not enough to begin.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Set

from poolproxy.ipc.messages import PoolKey
from poolproxy.pool.ledger.home import QUEUED_LOOKS, Home
from poolproxy.pool.ledger.sharing import Shares
from poolproxy.pool.ledger.state import NOBODY, PoolState

# For a pool: how many clients are connected to each worker, also if another one serves them.
Connections = Callable[[PoolKey], Mapping[int, int]]

# Servers that a worker's clients make up: with less they begin to come, with more they cease.
FEW, ENOUGH = 1.5, 2.0


def short_ones(
    connections: Mapping[int, int], servers: int, before: Collection[int] = ()
) -> frozenset[int]:
    """The workers whose clients are to come; ``before``: those whose clients do already, and
    may have come with their connections.
    """
    total = sum(connections.values())
    begin = {w for w, count in connections.items() if 0 < count * servers < FEW * total}
    go_on = {w for w in before if connections.get(w, 0) * servers < ENOUGH * total}
    return frozenset(begin | go_on)


def long_ones(connections: Mapping[int, int], servers: int) -> frozenset[int]:
    """The workers that have servers enough to be the home of the others."""
    total = sum(connections.values())
    return frozenset(w for w, count in connections.items() if 0 < FEW * total <= count * servers)


def note_short(pool: PoolState, home: Home) -> None:
    """Of a pool that is at its limit: remember for how many looks the clients of which workers have made up
    hardly a server. Where they are few but have a good part of the demand, as others rest, they don't.
    """
    shares = Shares(pool)
    short = short_ones(home.connected, len(pool.leases))
    home.short = {w: home.short.get(w, 0) + 1 for w in short if shares.of(w) < ENOUGH}


def who_comes(pool: PoolState, home: Home, workers: Set[int], retired: Set[int]) -> frozenset[int]:
    """The workers whose clients are to come. Those of one that leaves don't cease to. ``workers``: those that
    are not dead.
    """
    everyone = home.connected.keys() - home.kept.keepers if home.worker != NOBODY else ()
    before = frozenset(everyone if home.comers is None else home.comers) & workers
    new = {worker for worker, looks in home.short.items() if looks >= QUEUED_LOOKS}
    go_on = short_ones(home.connected, len(pool.leases), before) & before
    return frozenset(new | go_on | (before & retired))
