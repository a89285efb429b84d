"""How fast clients are sent away when a pooler or a database is drained. Pure.

All at once they would connect again all at once, somewhere else, where each costs a log-in. So they go evenly
over the time that there is, but never slower than ``PER_SECOND``: a few need not take the whole time.
"""

from __future__ import annotations

import math

import attrs

PER_SECOND = (
    50.0  # clients of one worker; a log-in with SCRAM costs the next one a few milliseconds
)


@attrs.define
class Draining:
    """One drain in one worker: of ``clients``, from ``began`` until ``until`` (monotonic seconds).

    At ``deadline`` also those go that are amid a transaction; 0: that is for somebody else.
    """

    clients: int
    began: float
    until: float
    deadline: float = 0.0

    def over(self, now: float) -> bool:
        """Whether nobody may stay, whatever it does."""
        return 0 < self.deadline <= now

    def due(self, remaining: int, now: float) -> int:
        """How many of the ``remaining`` clients should be gone by now. Those that came later count, too."""
        seconds = min(self.until - self.began, self.clients / PER_SECOND)
        if seconds <= 0 or now >= self.began + seconds:
            return remaining
        may_stay = self.clients * (1 - (now - self.began) / seconds)
        return max(0, remaining - math.floor(may_stay))
