"""Warnings that come again and again are counted, not written. Pure: the time is an argument."""

from __future__ import annotations

import attrs

WINDOW = 1.0  # seconds
MOST_TEXTS = 1000  # that are told apart in a window; texts have names of clients in them


@attrs.define
class _Count:
    seen: int = 0


class Repeats:
    """``limit``: how often the same text may be written in a window; 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[object, _Count] = {}
        self._ends_at = 0.0

    def admit(self, text: object) -> bool:
        """Whether this text is to be written; else it is counted. Call :meth:`summary` before."""
        if not self._limit:
            return True
        if text not in self._counts and len(self._counts) >= MOST_TEXTS:
            text = None
        count = self._counts.setdefault(text, _Count())
        count.seen += 1
        return count.seen <= self._limit

    def summary(self, now: float) -> list[tuple[object, int]]:
        """At the end of a window: each text that was held back, and how often. None: any of many texts."""
        if now < self._ends_at and now > self._ends_at - 2 * WINDOW:
            return []
        self._ends_at = now + WINDOW
        held = [(text, c.seen - self._limit) for text, c in self._counts.items()]
        self._counts.clear()
        return [(text, count) for text, count in held if count > 0]
