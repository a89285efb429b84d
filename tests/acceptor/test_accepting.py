"""The accept loop, on real sockets and on a scripted one."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from poolproxy.acceptor.accepting import PAUSE_SECONDS, Arrival, accept_forever, sweep
from poolproxy.acceptor.balancer import BATCH
from poolproxy.acceptor.listeners import Listener
from poolproxy.metrics.schema import ProxyMetrics


@pytest.fixture
def listener() -> Iterator[Listener]:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as sock:
        sock.setblocking(False)
        yield Listener(sock, "127.0.0.1", sock.getsockname()[1])


class Scripted:
    """A listening socket whose accept() raises what the script says, then ends the test."""

    def __init__(self, real: socket.socket, script: list[int | None]) -> None:
        self.real = real
        self.script = script
        self.times: list[float] = []

    def accept(self) -> tuple[socket.socket, Any]:
        self.times.append(trio.current_time())
        step = self.script.pop(0) if self.script else errno.EBADF
        if step is not None:
            raise OSError(step, os.strerror(step))
        return self.real.accept()

    def fileno(self) -> int:
        return self.real.fileno()


async def no_wait() -> None:
    await trio.lowlevel.checkpoint()


def close(arrivals: list[Arrival]) -> None:
    for arrival in arrivals:
        os.close(arrival.fd)


def test_a_sweep_takes_all_that_wait(listener: Listener) -> None:
    """One wake-up accepts every waiting connection, up to a batch, with the peer's address."""
    clients = [socket.create_connection(listener.sock.getsockname()) for _ in range(BATCH + 6)]
    first, error = sweep(listener)
    second, _ = sweep(listener)
    assert error is None
    assert [len(first), len(second)] == [BATCH, 6]
    assert (first[0].peer, first[0].port) == clients[0].getsockname()
    close([*first, *second])
    for client in clients:
        client.close()


def test_a_unix_client_is_known_by_its_process(tmp_path: Path) -> None:
    """The peer of a Unix socket is "unix", with the process id in the port's place."""
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as client:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        sock.setblocking(False)
        client.connect(str(tmp_path / "s"))
        arrivals, _ = sweep(Listener(sock, "unix", 6432, str(tmp_path / "s")))
        assert [(a.peer, a.port) for a in arrivals] == [("unix", os.getpid())]
        close(arrivals)


async def test_the_loop_hands_on_and_counts(listener: Listener) -> None:
    """Arrivals go to the taker and are counted by listening address."""
    metrics = ProxyMetrics()
    taken: list[Arrival] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_forever, listener, taken.extend, no_wait, metrics)
        async with await trio.open_tcp_stream(*listener.sock.getsockname()):
            while not taken:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert metrics.accepted == {listener.name: 1}
    close(taken)


async def test_nothing_is_accepted_while_there_is_no_room(listener: Listener) -> None:
    """Without a worker that can take it a client waits in the kernel's backlog."""
    taken: list[Arrival] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            accept_forever, listener, taken.extend, trio.sleep_forever, ProxyMetrics()
        )
        async with await trio.open_tcp_stream(*listener.sock.getsockname()):
            await trio.testing.wait_all_tasks_blocked()
            assert taken == []
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("number", "pause"),
    [
        (errno.EMFILE, PAUSE_SECONDS),
        (errno.ENFILE, PAUSE_SECONDS),
        (errno.ENOBUFS, PAUSE_SECONDS),
        (errno.ENOMEM, PAUSE_SECONDS),
        (errno.ECONNABORTED, 0.0),
        (errno.EPERM, 0.0),
    ],
)
async def test_errors_of_the_moment_are_survived(
    listener: Listener, number: int, pause: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Out of something: pause and go on. One broken connection: go on at once. Both are counted;
    an error that nobody has foreseen ends the loop.
    """
    scripted = Scripted(listener.sock, [number, errno.EAGAIN])
    scripted_listener = Listener(scripted, listener.host, listener.port)  # type: ignore[arg-type]
    metrics = ProxyMetrics()
    # A client that is never taken keeps the socket readable.
    with (
        socket.create_connection(listener.sock.getsockname()),
        pytest.raises(OSError, match="Bad file descriptor"),
    ):
        await accept_forever(scripted_listener, close, no_wait, metrics)
    assert scripted.times[1] - scripted.times[0] == pytest.approx(pause)
    assert metrics.accept_errors == {errno.errorcode[number]: 1, "EBADF": 1}
