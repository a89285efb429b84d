"""How the server connections of a dead worker are ended."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
import trio

from poolproxy.acceptor import ending
from poolproxy.acceptor.ending import Duplicate, end
from poolproxy.ipc.messages import CancelKey

KEY = CancelKey(4711, b"secretsecret")


def duplicate_of(sock: socket.socket, host: str, port: int, key: CancelKey | None) -> Duplicate:
    """What the acceptor holds after the worker has died."""
    return Duplicate(1, sock.detach(), host, port, key)


async def test_it_reads_what_comes_until_the_server_closes() -> None:
    """shutdown first, then everything is discarded up to the server's end: that is a clean one."""
    ours, server = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(server))
    result: list[bool] = []

    async def run() -> None:
        result.append(await end(duplicate_of(ours, "", 0, None), 10))

    async with trio.open_nursery() as nursery, stream:
        nursery.start_soon(run)
        assert await stream.receive_some(1) == b""
        await stream.send_all(b"x" * 1_000_000)
        assert result == []
        await stream.aclose()
    assert result == [True]


async def test_it_gives_up_after_server_close_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A server that does not close counts as not clean, and the descriptor is closed."""
    ours, server = socket.socketpair()
    assert not await end(duplicate_of(ours, "", 0, None), 3)
    assert trio.current_time() == pytest.approx(3)
    with server:
        assert server.recv(1) == b""


async def test_a_running_query_is_cancelled_until_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """CancelRequest goes to the server's address, again and again: a pipeline has many statements."""
    monkeypatch.setattr(ending, "CANCEL_EVERY", 0.0)
    ours, server = socket.socketpair()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    result: list[bool] = []

    async def run() -> None:
        result.append(await end(duplicate_of(ours, "127.0.0.1", port, KEY), 10))

    async with trio.open_nursery() as nursery, listener:
        nursery.start_soon(run)
        for _ in range(2):
            async with await listener.accept() as canceller:
                packet = b""
                while len(packet) < 24:
                    packet += await canceller.receive_some()
                assert packet == struct.pack("!iii", 24, 80877102, 4711) + b"secretsecret"
        server.close()
    assert result == [True]


async def test_a_server_on_a_unix_socket_is_cancelled_there(tmp_path: Path) -> None:
    """A host that is a folder means its socket."""
    ours, server = socket.socketpair()
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / ".s.PGSQL.5432"))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end, duplicate_of(ours, str(tmp_path), 5432, KEY), 10)
            canceller, _ = await listener.accept()
            assert len(await canceller.recv(100)) == 24
            canceller.close()
            server.close()


async def test_a_connection_that_was_never_made_is_clean() -> None:
    """The worker died before its connect() came through: there is no other end."""
    sock = socket.socket()
    assert await end(duplicate_of(sock, "127.0.0.1", 1, None), 10)


async def test_a_server_that_can_not_be_cancelled_is_waited_for() -> None:
    """No one listens at the address: the connection is ended all the same."""
    ours, server = socket.socketpair()
    server.close()
    assert await end(duplicate_of(ours, "127.0.0.1", 1, KEY), 10)
