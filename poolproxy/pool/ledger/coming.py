"""Whose clients come to the home of a larger pool where most could only be relayed.

Several workers keep several servers as busy as one does, and busier: when the clients of three were relayed
to the fourth one, with a pool of 8, a seventh of two cores was idle (benchmarks/PROFILE.md). But one that has
a single server wakes up for each of its answers, which costs more than to relay; and one whose clients make
up less than a server's part has it for a moment, and then none. So their clients are relayed, and those of a
worker with two servers or more are not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from poolproxy.ipc.messages import PoolKey

# For a pool: how many clients are connected to each worker, also if another one serves them.
Connections = Callable[[PoolKey], Mapping[int, int]]

# Servers that a worker's clients make up: with less they begin to come, with more they cease.
FEW, ENOUGH = 1.5, 2.0


def short_ones(
    connections: Mapping[int, int], servers: int, before: Collection[int]
) -> frozenset[int]:
    """The workers whose clients are to come; ``before``: those whose clients do already."""
    total = sum(connections.values())
    return frozenset(
        worker
        for worker, count in connections.items()
        if 0 < count * servers < total * (ENOUGH if worker in before else FEW)
    )
