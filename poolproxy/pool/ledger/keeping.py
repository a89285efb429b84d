"""Whose clients stay where they are although their pool is a small one that has a home.

Where clients can't move they are relayed to the home. One worker that does all leaves processors idle (see
``coming``), so those of some others, the *keepers*, stay: of as many as can have whole servers without
anybody waiting much longer than in one queue. With 120, 40, 30 and 10 clients on 3 servers the 40 keep one,
and the 160 others wait 1.2 times as long as in one queue. That is less than what makes a server move
(``sharing.TOLERANCE``), so hardly any does.

That holds while clients wait everywhere. Who keeps a server whose clients rest leaves it idle, or it goes to
and fro, or is closed here and opened there. Then all clients come, for a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from itertools import combinations

import attrs

from poolproxy.pool.ledger.sharing import LEAST_SHARE, TOLERANCE

# By how much longer than in one queue clients may wait where others are to be kept, and where they are.
FAIR, BEARABLE = 1.2, TOLERANCE
# And how much of a server clients must make up to keep one: those of half a one have twice as many turns.
PART = 0.5
_ROUNDING = 1e-9

# In a row at which the same workers could be keepers, but for when the home is new.
STEADY_LOOKS = 5
MOST_TRIED = 8  # workers whose clients may stay, which makes 255 sets of them
# Unrest: what a look adds at which something is amiss, or servers have been opened anew, and how much is too
# much; a look at which all is well takes one away. So two seconds in a row are too much, or in the end
# more than a third of the looks.
AMISS, OPENED, TOO_MUCH = 2, 6, 20
# Seconds.
SETTLED = 2.0  # servers have come to where they are to be
REST = 300.0  # until it is tried again after there was unrest
SHORT_REST = 30.0  # after the clients had become others


@attrs.frozen
class Ring:
    """A small pool at one look: how many clients are connected to each worker, its servers, its ``home``, and
    the workers that are ``able`` to keep clients. Those that are ``strange`` still serve clients of others,
    as one that was the home; these would not leave it if it were a keeper.
    """

    connections: Mapping[int, int]
    servers: int
    home: int
    able: Set[int]
    strange: Set[int] = frozenset()

    def keepers(self) -> frozenset[int]:
        """The workers beside the home whose clients may stay: as many as can be, of these those with most."""
        able = self.able - self.strange - {self.home}
        others = [worker for worker in able if self.connections.get(worker, 0)]
        others.sort(key=lambda worker: (-self.connections[worker], worker))
        others = others[:MOST_TRIED]
        for count in range(min(len(others), self.servers - 1), 0, -1):
            for kept in combinations(others, count):
                if self.is_fair(frozenset(kept), FAIR, PART):
                    return frozenset(kept)
        return frozenset()

    def is_fair(
        self, kept: Set[int], bearable: float = BEARABLE, least: float = LEAST_SHARE
    ) -> bool:
        """Whether each of the workers ``kept`` can have whole servers, and clients enough for these, the home
        the rest of them, and nobody waits ``bearable`` times as long as in one queue.
        """
        each = self.servers / max(1, sum(self.connections.values()))
        parts = [each * self.connections.get(worker, 0) for worker in kept]
        whole = [max(1, round(part)) for part in parts]
        busy = [self.connections.get(w, 0) > count for w, count in zip(kept, whole, strict=True)]
        parts.append(self.servers - sum(parts))
        whole.append(self.servers - sum(whole))
        if whole[-1] < 1 or not all(busy):
            return False
        waits = [part / count for part, count in zip(parts, whole, strict=True)]
        return all(least <= wait <= bearable + _ROUNDING for wait in waits)


@attrs.define
class Kept:
    """The ``keepers``, since ``began``, and their ``unrest``. ``candidates``: who could be for how many
    ``looks``, while there are none; and there are none before ``rests_until``.
    """

    keepers: frozenset[int] = frozenset()
    began: float = float("-inf")
    unrest: int = 0
    candidates: frozenset[int] = frozenset()
    looks: int = 0
    rests_until: float = float("-inf")

    def end(self, rests_until: float) -> None:
        """All clients come, at least until then."""
        self.keepers = self.candidates = frozenset()
        self.looks = self.unrest = 0
        self.rests_until = max(self.rests_until, rests_until)

    def look(self, ring: Ring, now: float, *, queued: bool, new: bool, amiss: int) -> None:
        """Think it over. ``queued``: clients wait for servers, else connections say little; ``new``: the home
        is; ``amiss``: what there was of it since the last look.
        """
        self.keepers &= ring.able - {ring.home}
        if self.keepers:
            self._go_on(ring, now, queued, amiss)
        elif queued and now >= self.rests_until:
            found = ring.keepers()
            self.looks = self.looks + 1 if found == self.candidates else 1
            self.candidates = found
            if new or self.looks >= STEADY_LOOKS:
                self.keepers, self.began, self.unrest = found, now, 0

    def _go_on(self, ring: Ring, now: float, queued: bool, amiss: int) -> None:
        unfair = queued and not ring.is_fair(self.keepers)
        if unfair:
            amiss += AMISS
        if now >= self.began + SETTLED:
            self.unrest = max(0, self.unrest + (amiss or -1))
        if self.unrest >= TOO_MUCH:
            self.end(now + (SHORT_REST if unfair else REST))
