"""Fixtures of the acceptor's tests."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest

from poolproxy.acceptor.http import listen
from poolproxy.acceptor.signals import MODES, ORDERS
from tests.acceptor.http_server import Running


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


@pytest.fixture
async def proxy(nursery):
    """A server on a free port, stopped at the end of the test."""
    sockets = listen("127.0.0.1", 0)
    proxy = Running(sockets[0].getsockname())
    await nursery.start(proxy.run, sockets)
    yield proxy
    nursery.cancel_scope.cancel()
