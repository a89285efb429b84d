"""What is remembered of a pool that has a home or may get one, see ``pool.ledger.gathering``."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from poolproxy.ipc.messages import Gather
from poolproxy.pool.ledger.state import NOBODY

LOOKS = 2  # in a row in which a pool must be hot
QUEUED_LOOKS = 5  # in a row in which a limit must have kept clients waiting
REST = 300.0  # seconds


@attrs.define
class Home:
    """``worker``: where clients are to be, as was decided at ``since``, NOBODY: they may stay where they are;
    that is thought over at ``think_at``, ``patience`` after the last time. ``looks``: for how many looks the
    pool has been hot, ``queued``: for how many a limit has kept clients waiting; ``busy_at``: when anybody
    waited. ``small``: it has fewer servers than there are workers; ``shrunk``: for how many looks it has
    seemed so although it was not. ``told``: what each worker was told. ``away``: how many were still to come
    at ``counted_at``. ``shift``: how the decision changes the shares of workers.

    See ``coming`` for the rest. Of a larger pool ``comers`` are the workers whose clients come, None: all;
    ``short``: for how many looks others have seemed to be such. ``stayers``: those that can be the home then;
    none if clients come of all that have any. Of a small pool clients come but for those of its ``keepers``;
    from ``kept_at`` on, and for how many looks that has been amiss (``unrest``). Before ``whole_until`` there
    are none.
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
    shrunk: int = 0
    comers: frozenset[int] | None = None
    short: dict[int, int] = attrs.Factory(dict)
    stayers: frozenset[int] = frozenset()
    keepers: frozenset[int] = frozenset()
    kept_at: float = float("-inf")
    unrest: int = 0
    whole_until: float = float("-inf")
    told: dict[int, Gather] = attrs.Factory(dict)

    def takes_from(self, worker: int) -> bool:
        """Whether the clients of another worker are to come."""
        return worker not in self.keepers if self.comers is None else worker in self.comers

    def note_size(self, small: bool) -> None:
        """Whether it seems to be small at this look. It may for a moment, as a server ends, or a limit is
        shared with another pool; and where nobody waits idle ones end.
        """
        self.shrunk = self.shrunk + 1 if small and (self.queued or self.worker == NOBODY) else 0
        self.small = small and (self.small or self.shrunk >= QUEUED_LOOKS)

    def yet_to_come(self, clients: Mapping[int, int]) -> int:
        """How many clients are not there yet. ``clients``: of the pool, by worker."""
        return sum(n for w, n in clients.items() if w != self.worker and self.takes_from(w))

    def end(self, rests_until: float = float("-inf")) -> None:
        """There is none any more, and no other one until then."""
        self.worker, self.looks, self.queued, self.keepers = NOBODY, 0, 0, frozenset()
        self.rests_until = max(self.rests_until, rests_until)
