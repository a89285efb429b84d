"""Clients that a worker has not read of when it is killed: the acceptor is real, workers are fakes."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import trio

from tests.acceptor.serving import Client, Server, read_line, serving, until
from tests.acceptor.test_spare import workers

ACCEPTED = 'poolproxy_accepted_connections_total{{listener="127.0.0.1:{}"}}'.format


async def come(server: Server, count: int) -> list[trio.SocketStream]:
    """So many connections, accepted and handed to a worker."""
    accepted = ACCEPTED(server.port)
    before = (await server.metrics()).get(accepted, 0)
    streams = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(count)]
    await until(server, accepted, before + count)
    return streams


async def greetings(streams: list[trio.SocketStream]) -> list[str]:
    words = [await read_line(stream) for stream in streams]
    for stream in streams:
        await stream.aclose()
    return words


def sockets(pid: int) -> set[str]:
    """The sockets that a process has open, by inode."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the one of this listing
            found.add(os.readlink(entry))
    return {name for name in found if name.startswith("socket:")}


async def test_clients_of_a_worker_killed_before_it_has_read_of_them_go_to_another(
    tmp_path: Path,
) -> None:
    """More than one message carries; none is closed, and each is counted once."""
    async with serving(Server(tmp_path, spare_worker=False, max_client_conn=200)) as server:
        victim = min(workers())
        os.kill(victim, signal.SIGSTOP)
        streams = await come(server, 150)
        os.kill(victim, signal.SIGKILL)
        words = await greetings(streams)
        assert all(len(word.split()) == 2 for word in words)
        assert len({word.split()[1] for word in words}) == 150
        await until(server, "poolproxy_clients", 0)
        assert await server.metric(ACCEPTED(server.port)) == 150


async def test_while_they_wait_for_a_worker_they_count(tmp_path: Path) -> None:
    """Against max_client_conn: who comes meanwhile is refused, and who was to be refused still is."""
    server = Server(tmp_path, spare_worker=False, workers=1, max_client_conn=2)
    async with serving(server):
        (victim,) = workers()
        os.kill(victim, signal.SIGSTOP)
        streams = await come(server, 3)
        os.kill(victim, signal.SIGKILL)
        await until(server, "poolproxy_worker_restarts_total", 1)
        assert await server.metric("poolproxy_clients") == 2
        latest = await server.connect()
        assert latest.greeting == "refused"
        words = [await read_line(stream) for stream in streams]
        assert words == ["0 1", "0 2", "refused"]
        assert await server.metric("poolproxy_refused_connections_total") == 2
        for stream in (*streams, latest.stream):
            await stream.aclose()
        await until(server, "poolproxy_clients", 0)
        again = await server.connect()
        assert again.greeting != "refused"
        await again.close()


async def test_what_the_worker_had_read_is_lost_with_it(tmp_path: Path) -> None:
    """It may have spoken with them; those behind it in the channel are served."""
    async with serving(Server(tmp_path, spare_worker=False, workers=1)) as server:
        first = await server.connect()
        (victim,) = workers()
        os.kill(victim, signal.SIGSTOP)
        (second,) = await come(server, 1)
        os.kill(victim, signal.SIGKILL)
        assert await read_line(first.stream) == ""
        await first.close()
        served = Client(second, await read_line(second))
        assert await served.say("echo alive") == "alive"
        await until(server, "poolproxy_clients", 1)
        await served.close()


async def test_they_are_closed_when_the_proxy_leaves(tmp_path: Path) -> None:
    """Instead of waiting for a worker that does not come."""
    async with serving(Server(tmp_path, spare_worker=False, workers=1)) as server:
        (victim,) = workers()
        os.kill(victim, signal.SIGSTOP)
        streams = await come(server, 2)
        os.kill(os.getpid(), signal.SIGQUIT)
        os.kill(victim, signal.SIGKILL)
        assert await greetings(streams) == ["", ""]
        await server.ended.wait()


async def test_the_end_that_is_kept_is_no_other_workers(tmp_path: Path) -> None:
    """A worker has one socket in common with the acceptor, which closes it when the worker is dead."""

    def shared(pid: int) -> set[str]:
        return sockets(pid) & sockets(os.getpid())

    async with serving(Server(tmp_path, spare_worker=False)) as server:
        ends = {pid: shared(pid) for pid in workers()}
        first, second = ends
        assert len(ends[first]) == len(ends[second]) == 1
        assert ends[first] != ends[second]
        os.kill(first, signal.SIGKILL)
        await until(server, "poolproxy_worker_restarts_total", 1)
        assert not ends[first] & sockets(os.getpid())
        await until(server, 'poolproxy_workers{state="ready"}', 2)
        (new,) = workers() - {second}
        assert len(shared(new)) == 1
