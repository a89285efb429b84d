"""What pools bring to their homes."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from poolproxy.pool.ledger.home import Home
from poolproxy.pool.ledger.state import PoolState
from poolproxy.pool.ledger.takes import Takes


@attrs.frozen(eq=False)
class Work:
    """What those clients of a pool take of the workers' time that come to its home: ``whole`` in all, of
    which it seems to take ``parts`` of them now. Those of a small pool's keepers count as well, as there is
    nobody who keeps them at another home.
    """

    pool: PoolState
    home: Home
    parts: Mapping[int, float]
    whole: float

    @classmethod
    def of(cls, pool: PoolState, home: Home, takes: Takes) -> Work:
        """At this moment."""
        parts = takes.parts(pool)
        if home.comers is not None:
            parts = {w: part if w in home.comers else 0.0 for w, part in parts.items()}
        return cls(pool, home, parts, sum(parts.values()))


def by_servers(works: list[Work]) -> list[Work]:
    """What they take together, divided by their servers."""
    servers = sum(len(work.pool.leases) for work in works)
    together = sum(work.whole for work in works)
    return [attrs.evolve(w, whole=together * len(w.pool.leases) / servers) for w in works]
