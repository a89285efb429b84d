"""What is remembered of a pool that has a home or may get one, see ``pool.ledger.gathering``."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from poolproxy.ipc.messages import Gather
from poolproxy.pool.ledger.state import NOBODY


@attrs.define
class Home:
    """``worker``: where clients are to be, as was decided at ``since``, NOBODY: they may stay where they are;
    that is thought over at ``think_at``, ``patience`` after the last time. ``looks``: for how many looks the
    pool has been hot, ``queued``: for how many a limit has kept clients waiting; ``busy_at``: when anybody
    waited. ``small``: it was so then. ``comers``: the workers whose clients come, see ``coming``, None: all.
    ``stayers``: those that can be the home then; none if clients come of all that have any.
    ``told``: what each worker was told. ``away``: how many were still to come at ``counted_at``.
    ``shift``: how the decision changes the shares of workers.
    """

    busy_at: float
    worker: int = NOBODY
    since: float = float("-inf")
    think_at: float = float("-inf")
    patience: float = 0.0
    rests_until: float = float("-inf")
    looks: int = 0
    queued: int = 0
    away: int = 0
    counted_at: float = float("-inf")
    shift: dict[int, float] = attrs.Factory(dict)
    small: bool = False
    comers: frozenset[int] | None = None
    stayers: frozenset[int] = frozenset()
    told: dict[int, Gather] = attrs.Factory(dict)

    def takes_from(self, worker: int) -> bool:
        """Whether the clients of another worker are to come."""
        return self.comers is None or worker in self.comers

    def yet_to_come(self, clients: Mapping[int, int]) -> int:
        """How many clients are not there yet. ``clients``: of the pool, by worker."""
        return sum(n for w, n in clients.items() if w != self.worker and self.takes_from(w))

    def end(self, rests_until: float = float("-inf")) -> None:
        """There is none any more, and no other one until then."""
        self.worker, self.looks, self.queued = NOBODY, 0, 0
        self.rests_until = max(self.rests_until, rests_until)
