"""What host names stand for, for how long that is believed, and who is told.

A name is looked up when a worker asks for it, and again every dns_max_ttl as long as the configuration has
it: so a change is seen although no new connection is opened. A failure is believed for dns_nxdomain_ttl. A
look-up that fails only for the moment changes nothing: the addresses that were good may still be.

Pure: ``now`` is an argument; :class:`Names` says which names to look up, and is told the results.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from poolproxy.ipc.messages import Resolved

FOREVER = float("inf")


@attrs.define(eq=False)
class Entry:
    """One name. ``asked``: the workers that wait for an answer. ``expires``: when it is to be looked up
    again.
    """

    addresses: tuple[str, ...] = ()
    error: str = ""
    expires: float = float("-inf")
    running: bool = False
    asked: set[int] = attrs.Factory(set)


@attrs.frozen
class Answer:
    """The result of a look-up. ``passing``: it failed, but the name may well exist."""

    addresses: tuple[str, ...] = ()
    error: str = ""
    passing: bool = False


@attrs.frozen
class NameStatistics:
    """A name at a moment; ``ttl`` in seconds. ``running``: it is being looked up."""

    name: str
    addresses: tuple[str, ...]
    ttl: float
    running: bool


Sends = list[tuple[int, Resolved]]


class Names:
    """The names in use. Both times are seconds; ``max_ttl`` 0: every connection looks up anew."""

    def __init__(self, max_ttl: float, nxdomain_ttl: float) -> None:
        self.max_ttl = max_ttl
        self.nxdomain_ttl = nxdomain_ttl
        self._entries: dict[str, Entry] = {}

    def ask(self, name: str, worker: int, now: float) -> Sends | None:
        """A worker wants to know; None: look it up, and tell by :meth:`answered`."""
        entry = self._entries.setdefault(name, Entry())
        if now < entry.expires and not entry.running:
            return [(worker, Resolved(name, entry.addresses, entry.error))]
        entry.asked.add(worker)
        if entry.running:
            return []
        entry.running = True
        return None

    def answered(
        self, name: str, answer: Answer, now: float, workers: Iterable[int]
    ) -> tuple[Sends, frozenset[str]]:
        """A look-up has ended: who is told, and which addresses are gone. ``workers`` are all there are.

        They hear of new addresses, too, even if none is gone: a server there may come to any of them.
        """
        entry = self._entries.get(name)
        if entry is None:
            return [], frozenset()  # a reload has taken it out of the configuration
        before, asked = entry.addresses, entry.asked
        entry.running, entry.asked = False, set()
        if answer.error:
            entry.expires = now + self.nxdomain_ttl
        else:
            entry.expires = now + self.max_ttl
        if not (answer.passing and before):
            entry.addresses, entry.error = answer.addresses, answer.error
        gone = frozenset(before) - frozenset(answer.addresses)
        if answer.error or not gone:
            gone = frozenset()
        changed = entry.addresses and set(entry.addresses) != set(before)
        told = set(workers) if changed else asked
        news = Resolved(name, entry.addresses, entry.error)
        return [(worker, news) for worker in sorted(told)], gone

    def doubt(self, name: str) -> None:
        """None of the name's addresses could be reached: the next one that asks gets a new look-up."""
        entry = self._entries.get(name)
        if entry is not None and not entry.error:
            entry.expires = float("-inf")

    def due(self, now: float) -> list[str]:
        """The names to look up again now, which counts as begun."""
        found = []
        for name, entry in self._entries.items():
            if entry.addresses and not entry.running and self.max_ttl and entry.expires <= now:
                entry.running = True
                found.append(name)
        return found

    def next_deadline(self) -> float:
        """When :meth:`due` has something, if nobody asks before."""
        entries = self._entries.values() if self.max_ttl else ()
        return min((e.expires for e in entries if e.addresses and not e.running), default=FOREVER)

    def configure(self, names: Iterable[str], max_ttl: float, nxdomain_ttl: float) -> None:
        """New times, and the names that the configuration has: the others are forgotten."""
        self.max_ttl, self.nxdomain_ttl = max_ttl, nxdomain_ttl
        known = set(names)
        self._entries = {n: e for n, e in self._entries.items() if n in known or e.asked}

    def statistics(self, now: float) -> tuple[NameStatistics, ...]:
        """A row for each name."""
        return tuple(
            NameStatistics(name, entry.addresses, max(0.0, entry.expires - now), entry.running)
            for name, entry in self._entries.items()
        )
