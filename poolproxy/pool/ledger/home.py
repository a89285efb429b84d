"""What is remembered of a pool that has a home or may get one, see ``pool.ledger.gathering``."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from poolproxy.ipc.messages import Gather
from poolproxy.pool.ledger.keeping import Kept
from poolproxy.pool.ledger.state import NOBODY

LOOKS = 2  # in a row in which a pool must be hot
QUEUED_LOOKS = 5  # in a row in which a limit must have kept clients waiting


@attrs.define
class Home:
    """``worker``: where clients are to be, as was decided at ``since``, NOBODY: they may stay where they are;
    that is thought over at ``think_at``, ``patience`` after the last time. ``looks``: for how many looks the
    pool has been hot, ``queued``: for how many a limit has kept clients waiting; ``busy_at``: when anybody
    waited. ``small``: it has fewer servers than there are workers; ``resized``: for how many looks it has
    seemed to be otherwise. ``connected``: how many clients each worker was connected to when they last waited
    for servers. ``told``: what each worker was told. ``away``: how many were still to come at ``counted_at``.
    ``shift``: how the decision changes the shares of workers.

    Of a larger pool ``comers`` are the workers whose clients come, None: all, see ``coming``; ``short``: for
    how many looks others have seemed to be such. ``stayers``: those that can be the home then; none if
    clients come of all that have any. Of a small one all come but for those that are ``kept``.
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
    small: bool = True
    resized: int = 0
    connected: Mapping[int, int] = attrs.Factory(dict)
    comers: frozenset[int] | None = None
    short: dict[int, int] = attrs.Factory(dict)
    stayers: frozenset[int] = frozenset()
    kept: Kept = attrs.Factory(Kept)
    told: dict[int, Gather] = attrs.Factory(dict)

    def takes_from(self, worker: int) -> bool:
        """Whether the clients of another worker are to come."""
        return worker not in self.kept.keepers if self.comers is None else worker in self.comers

    def note_size(self, small: bool) -> None:
        """Whether it seems to be small at this look. With a home it may for a moment, as a server ends or a
        limit is shared with another pool, or may not, as a worker does. And where nobody waits idle servers
        end.
        """
        homeless = self.worker == NOBODY
        counts = small != self.small and (self.queued or homeless or not small)
        self.resized = self.resized + 1 if counts else 0
        if self.resized >= QUEUED_LOOKS or (homeless and not small):
            self.small, self.resized = small, 0

    def yet_to_come(self, clients: Mapping[int, int]) -> int:
        """How many clients are not there yet. ``clients``: of the pool, by worker."""
        return sum(n for w, n in clients.items() if w != self.worker and self.takes_from(w))

    def end(self, rests_until: float = float("-inf")) -> None:
        """There is none any more, and no other one until then."""
        self.worker, self.looks, self.queued = NOBODY, 0, 0
        self.rests_until = max(self.rests_until, rests_until)
