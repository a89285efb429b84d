"""Which classes are messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

REGISTRY: dict[int, type] = {}
FDS: dict[type, int] = {}
MANY = -1  # as many descriptors as the message's tuple field has items

T = TypeVar("T", bound=type)


def message(kind: int, *, fds: int = 0) -> Callable[[T], T]:
    """Register a message class under the number ``kind`` (1..255), carrying ``fds`` descriptors."""

    def register(cls: T) -> T:
        if kind in REGISTRY:
            raise ValueError(f"message kind {kind} is taken by {REGISTRY[kind].__name__}")
        REGISTRY[kind] = cls
        FDS[cls] = fds
        return cls

    return register
