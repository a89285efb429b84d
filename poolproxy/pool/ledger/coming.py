"""Whose clients come to the home of a pool where most could only be relayed, and whose stay where they are.

Several workers keep several servers as busy as one does, and busier: when the clients of three were relayed
to the fourth one, with a pool of 8, a seventh of two cores was idle (benchmarks/PROFILE.md). But one that has
a single server wakes up for each of its answers, which costs as much as to relay, or more; and one whose
clients make up less than a server's part has it for a moment, and then none.

* Of a larger pool, with a server for each worker, the clients of those workers come that have hardly one for
  them, and those of a worker with two servers or more don't. With few more servers than workers that may be
  most of them. A moment in which others have more to do is not enough to begin.
* Of a small one the clients of some other workers, its *keepers*, stay: of as many as can have whole servers
  without anybody waiting much longer than in one queue. With 120, 40, 30 and 10 clients on 3 servers the
  40 keep one, and the 160 others wait 1.2 times as long as in one queue. That is less than what makes a
  server move (``sharing.TOLERANCE``), so none does. All come if it is otherwise after all, as clients rest
  and servers are wanted now here, now there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Set

from poolproxy.ipc.messages import PoolKey
from poolproxy.pool.ledger.home import QUEUED_LOOKS, Home
from poolproxy.pool.ledger.sharing import TOLERANCE, Shares
from poolproxy.pool.ledger.state import NOBODY, PoolState

# For a pool: how many clients are connected to each worker, also if another one serves them.
Connections = Callable[[PoolKey], Mapping[int, int]]

# Servers that a worker's clients make up: with less they begin to come, with more they cease.
FEW, ENOUGH = 1.5, 2.0
# By how much longer than in one queue clients may wait where others are to be kept, and where they are.
FAIR, BEARABLE = 1.2, TOLERANCE
# And how much of a server clients must make up to keep one: those of half a one have twice as many turns.
PART, LEAST_PART = 0.5, 0.4
_ROUNDING = 1e-9


def short_ones(
    connections: Mapping[int, int], servers: int, before: Collection[int] = ()
) -> frozenset[int]:
    """The workers of a larger pool whose clients are to come; ``before``: those whose clients do already, and
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


def note_short(pool: PoolState, home: Home, connections: Mapping[int, int]) -> None:
    """Of a pool that is at its limit: remember for how many looks the clients of which workers have made up
    hardly a server. Where they are few but have a good part of the demand, as others rest, they don't.
    """
    shares = Shares(pool)
    short = short_ones(connections, len(pool.leases))
    home.short = {w: home.short.get(w, 0) + 1 for w in short if shares.of(w) < ENOUGH}


def who_comes(
    pool: PoolState,
    home: Home,
    connections: Mapping[int, int],
    workers: Set[int],
    retired: Set[int],
) -> frozenset[int]:
    """The workers of a larger pool whose clients are to come. Those of one that leaves don't cease to.
    ``workers``: those that are not dead.
    """
    everyone = connections.keys() if home.worker != NOBODY else ()
    before = frozenset(everyone if home.comers is None else home.comers) & workers
    new = {worker for worker, looks in home.short.items() if looks >= QUEUED_LOOKS}
    go_on = short_ones(connections, len(pool.leases), before) & before
    return frozenset(new | go_on | (before & retired))


def keepers(
    connections: Mapping[int, int], servers: int, home: int, able: Set[int]
) -> frozenset[int]:
    """The workers of a small pool beside its ``home`` whose clients may stay; ``able``: those that can be."""
    others = [worker for worker in able if worker != home and connections.get(worker, 0)]
    others.sort(key=lambda worker: (-connections[worker], worker))
    for count in range(min(len(others), servers - 1), 0, -1):
        kept = frozenset(others[:count])
        if are_fair(connections, servers, kept, FAIR, PART):
            return kept
    return frozenset()


def are_fair(
    connections: Mapping[int, int],
    servers: int,
    kept: Set[int],
    bearable: float = BEARABLE,
    least: float = LEAST_PART,
) -> bool:
    """Whether each of the workers ``kept`` can have whole servers, the home the rest of them, and nobody
    waits ``bearable`` times as long as in one queue.
    """
    each = servers / max(1, sum(connections.values()))
    parts = [each * connections.get(worker, 0) for worker in kept]
    whole = [max(1, round(part)) for part in parts]
    parts.append(servers - sum(parts))
    whole.append(servers - sum(whole))
    if whole[-1] < 1:
        return False
    return all(least <= p / w <= bearable + _ROUNDING for p, w in zip(parts, whole, strict=True))
