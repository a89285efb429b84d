"""What pools take of the workers' time.

A worker tells only how much it uses in all. Of that each of its pools takes as much as it has of its servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from poolproxy.pool.ledger.books import Books
from poolproxy.pool.ledger.sharing import Shares
from poolproxy.pool.ledger.state import PoolState


class Takes:
    """At one moment. ``busy``: the shares of a core that workers use, of those of which that is known."""

    def __init__(self, books: Books, busy: Mapping[int, float]) -> None:
        self._books = books
        self._busy = busy

    def parts(self, pool: PoolState) -> dict[int, float]:
        """By worker, in cores. A retired worker's are left out."""
        shares, parts = Shares(pool), {}
        for worker in self._books.workers - self._books.retired:
            mine = shares.of(worker)
            part = mine / max(mine, self._servers[worker]) if mine else 0.0
            parts[worker] = part * self._busy.get(worker, 0.0)
        return parts

    def whole(self, pool: PoolState) -> float:
        """All parts together."""
        return sum(self.parts(pool).values())

    @cached_property
    def _servers(self) -> dict[int, float]:
        """With how many servers each worker has to do: where clients wait they are now here, now there."""
        found = dict.fromkeys(self._books.workers, 0.0)
        for lease in self._books.leases.values():
            if lease.worker in found:
                found[lease.worker] += 1
        for pool in self._books.restless.values():
            if pool.wants and pool.leases:
                shares = Shares(pool)
                for worker in found:
                    found[worker] += shares.of(worker) - pool.held(worker)
        return found
