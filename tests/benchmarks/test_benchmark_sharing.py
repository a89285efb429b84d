"""How two poolers are asked in turns, against a server that answers when it is told to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from benchmarks.client import READY
from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable
from benchmarks.runs import sharing
from benchmarks.runs.sharing import Caller, Crowd

CLIENTS = 4


class Answerer:
    """Logs everybody in, and answers each query after so many seconds, by the number of its client."""

    def __init__(self) -> None:
        self.delays = [0.001] * CLIENTS
        self._stack = ExitStack()
        self._listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.endpoint = Endpoint("127.0.0.1", self._listener.getsockname()[1], "ann", "db")
        self._threads: list[threading.Thread] = []

    def connect(self, loop: sharing.Loop) -> list[Caller]:
        callers = []
        for number in range(CLIENTS):
            thread = threading.Thread(target=self._serve, args=(number,))
            self._threads.append(thread)
            thread.start()
            callers.append(Caller(self.endpoint, loop))
        return callers

    def _serve(self, number: int) -> None:
        client, _ = self._listener.accept()
        with client, suppress(ConnectionResetError):  # a run that gives up leaves answers unread
            while client.recv(4096):
                client.sendall(READY)
                if client.recv(1, socket.MSG_PEEK):
                    time.sleep(self.delays[number])

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        self._stack.close()


@pytest.fixture
def answerer() -> Iterator[Answerer]:
    one = Answerer()
    yield one
    one.close()


def test_each_turn_counts_but_its_beginning(answerer: Answerer) -> None:
    """And at the end of each nobody is left without an answer."""
    with Crowd(answerer.connect) as crowd:
        for _ in range(2):
            crowd.ask(0.2, 0.1)
            assert crowd._loop.asked == 0
        run = crowd.result()
    assert 0 < run.tps < CLIENTS * 1000
    assert 0.001 <= run.p99 < 0.2
    assert run.least > 0


def test_who_waits_to_the_end_of_a_turn_is_not_forgotten(answerer: Answerer) -> None:
    """Its wait counts although it is over later, and that it was never served in time."""
    answerer.delays[0] = 0.5
    with Crowd(answerer.connect) as crowd:
        crowd.ask(0.2, 0.1)
        run = crowd.result()
        assert max(crowd._callers[0].waits) > 0.4
    assert run.least == 0.0


def test_a_server_that_does_not_answer_ends_the_run(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of hanging it tells how many wait."""
    monkeypatch.setattr(sharing, "_DRAIN_SECONDS", 0.1)
    answerer.delays = [0.6] * CLIENTS
    with Crowd(answerer.connect) as crowd, pytest.raises(Unavailable, match="4 clients"):
        crowd.ask(0.1, 0.1)
