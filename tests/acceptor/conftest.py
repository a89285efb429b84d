"""What the acceptor's tests leave as they found it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest

from poolproxy.acceptor.signals import MODES, ORDERS


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """run() sets logging and signals up for a process of its own."""
    signals = {number: signal.getsignal(number) for number in (*MODES, *ORDERS, signal.SIGHUP)}
    ours = logging.getLogger("poolproxy")
    before = ours.handlers[:], ours.propagate, ours.level
    yield
    ours.handlers[:], ours.propagate = before[:2]
    ours.setLevel(before[2])
    for number, handler in signals.items():
        signal.signal(number, handler)
