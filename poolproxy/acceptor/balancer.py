"""Which worker takes a new client. Pure.

Least clients first. The number of clients is what the acceptor knows without asking; it spreads
idle and busy ones alike as long as clients don't differ by when they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heapreplace
from typing import TypeVar

BATCH = 64  # descriptors a message; the kernel allows 253, one big message would delay others

T = TypeVar("T")


def spread(items: Sequence[T], loads: Mapping[int, int]) -> dict[int, list[T]]:
    """Give each item to the then least loaded worker. ``loads`` has at least one worker."""
    heap = [(load, worker) for worker, load in loads.items()]
    heapify(heap)
    given: dict[int, list[T]] = {}
    for item in items:
        load, worker = heap[0]
        given.setdefault(worker, []).append(item)
        heapreplace(heap, (load + 1, worker))
    return given


def batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """``items`` in runs that fit one message."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
