"""Clients on their way between workers, with a worker killed at each step: the acceptor is real, workers are
fakes.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import trio

from tests.acceptor.scene import scene
from tests.acceptor.serving import Server, read_line, serving, until

ROUNDS = 'poolproxy_worker_relay_rounds_total{worker="0"}'
MOVES = 'poolproxy_client_moves_total{{outcome="{}"}}'.format


async def test_a_client_goes_to_the_other_worker(tmp_path: Path) -> None:
    """It is served there, what it has sent meanwhile included, and cancels for it go there."""
    async with scene(tmp_path) as s:
        await s.other.say("arrivals hold")
        await s.begin_move()
        await s.client.stream.send_all(b"echo meanwhile\n")
        await s.other.say("arrivals take")
        assert await read_line(s.client.stream) == f"moved {s.other.slot}"
        assert await read_line(s.client.stream) == "meanwhile"
        await s.third.say("cancel 5")
        assert await read_line(s.client.stream) == "cancelled 5"
        await until(s.server, MOVES("done"), 1)
        assert await s.client.say("move") == f"moved {s.third.slot}"


async def test_who_serves_clients_hears_that_they_are_relayed_no_longer(tmp_path: Path) -> None:
    """Whichever workers these are now."""
    async with scene(tmp_path) as s:
        assert await s.client.say("move") == f"moved {s.other.slot}"
        assert await s.third.say("relay ends") == "ok"
        for one in (s.client, s.other, s.third, s.fourth):
            assert await read_line(one.stream) == "relayed no longer"


async def test_who_relays_a_client_can_have_it_back(tmp_path: Path) -> None:
    """Those that serve its clients are asked for them, and for no others; who is back is relayed no more."""
    async with scene(tmp_path, workers=3) as s:
        assert await s.client.say("move-relayed") == f"moved {s.other.slot}"
        assert await s.third.say("unrelay") == "ok"
        word, number = (await read_line(s.client.stream)).rsplit(" ", 1)
        assert word == "wanted by"
        assert await s.other.say("unrelay") == "ok"
        assert await s.other.say("echo nothing") == "nothing"
        await s.third.say("arrivals hold")
        await s.client.stream.send_all(f"move-relayed {number}\n".encode())
        for _ in range(2):  # in one of two rounds its worker has come to it
            assert await s.other.say("echo there") == "there"
        for _ in range(2):
            assert await s.third.say("unrelay") == "ok"  # it is on its way there
            assert await s.other.say("echo there") == "there"
        await s.third.say("arrivals take")
        assert await read_line(s.client.stream) == f"moved {s.third.slot}"
        assert await s.third.say("unrelay") == "ok"
        assert await s.client.say("echo back") == "back"


async def test_a_refused_client_stays(tmp_path: Path) -> None:
    """It goes on where it was."""
    async with scene(tmp_path) as s:
        await s.other.say("arrivals refuse")
        assert await s.client.say("move") == "stays"
        assert await s.client.say("echo here") == "here"
        await until(s.server, MOVES("refused"), 1)


async def test_a_client_stays_where_there_is_no_other_worker(tmp_path: Path) -> None:
    """Neither does any worker take it, nor one that has never been, nor its own."""
    async with serving(Server(tmp_path, workers=1)) as server:
        client = await server.connect()
        await client.say("up 5 app alice")
        for order in ("move", "move 77", "move 1"):
            assert await client.say(order) == "stays"
        await client.close()


async def test_a_cancel_waits_for_the_client_to_arrive(tmp_path: Path) -> None:
    """It is held back while the client is on its way, and then delivered where it is."""
    async with scene(tmp_path) as s, trio.open_nursery() as nursery:
        await s.other.say("arrivals hold")
        await s.begin_move()
        nursery.start_soon(s.cancel_by, s.third)
        assert await s.fourth.say("echo first") == "first"
        assert s.cancelled == []
        await s.other.say("arrivals take")
        assert await read_line(s.client.stream) == f"moved {s.other.slot}"
        assert await read_line(s.client.stream) == "cancelled 5"


async def test_a_cancel_is_over_when_its_client_is_lost_on_the_way(tmp_path: Path) -> None:
    """Both workers die: the canceller is not kept waiting for a client that nobody has."""
    async with (
        scene(tmp_path, workers=3, cancel_wait_timeout=0) as s,
        trio.open_nursery() as nursery,
    ):
        await s.other.say("arrivals hold")
        await s.client.stream.send_all(b"move-and-die 2\n")
        assert await read_line(s.third.stream) == ""
        nursery.start_soon(s.cancel_by, s.elsewhere)
        assert await s.beside.say("echo first") == "first"
        assert s.cancelled == []
        await s.other.say("arrivals die")
        assert await read_line(s.client.stream) == ""


async def test_the_source_dies_when_it_has_sent_the_client(tmp_path: Path) -> None:
    """The client is on its way, arrives and goes on; the worker's others are lost with it."""
    async with scene(tmp_path) as s:
        await s.other.say("arrivals hold")
        await s.client.stream.send_all(b"move-and-die\n")
        assert await read_line(s.third.stream) == ""
        await until(s.server, "poolproxy_worker_restarts_total", 1)
        await s.other.say("arrivals take")
        assert await read_line(s.client.stream) == f"moved {s.other.slot}"
        assert await s.client.say("echo alive") == "alive"


async def test_a_client_is_lost_that_is_refused_when_its_source_is_dead(tmp_path: Path) -> None:
    """It has nowhere to go back to: its connection ends."""
    async with scene(tmp_path) as s:
        await s.other.say("arrivals hold")
        await s.client.stream.send_all(b"move-and-die\n")
        await until(s.server, "poolproxy_worker_restarts_total", 1)
        await s.other.say("arrivals refuse")
        assert await read_line(s.client.stream) == ""
        await until(s.server, MOVES("lost"), 1)


async def test_the_target_dies_before_it_has_the_client(tmp_path: Path) -> None:
    """The client goes on where it was, and a cancel request that was held back finds it there."""
    async with scene(tmp_path) as s, trio.open_nursery() as nursery:
        await s.other.say("arrivals hold")
        await s.begin_move()
        nursery.start_soon(s.cancel_by, s.third)
        await s.fourth.say("echo first")
        assert await s.other.say("arrivals die") == ""
        heard = {await read_line(s.client.stream), await read_line(s.client.stream)}
        assert heard == {"stays", "cancelled 5"}
        await until(s.server, MOVES("refused"), 1)


async def test_the_target_dies_as_soon_as_it_has_the_client(tmp_path: Path) -> None:
    """It may have read of it: the client is lost as all that worker's, and does not go on elsewhere."""
    async with scene(tmp_path) as s:
        await s.other.say("arrivals take-and-die")
        await s.client.stream.send_all(b"move\n")
        assert await read_line(s.client.stream) == ""
        await until(s.server, MOVES("done"), 1)


async def test_a_client_that_leaves_on_its_way_is_forgotten(tmp_path: Path) -> None:
    """The next worker finds the end of its connection and says so."""
    async with scene(tmp_path) as s:
        await s.other.say("arrivals hold")
        await s.begin_move()
        await s.client.close()
        await s.other.say("arrivals take")
        await until(s.server, "poolproxy_clients", 4)


async def test_a_replaced_worker_gets_no_new_clients_and_leaves_with_its_last(
    tmp_path: Path,
) -> None:
    """A successor takes its slot first; counts of both are shown under it, and nobody dies of it."""
    async with serving(Server(tmp_path, workers=1)) as server:
        client = await server.connect()
        await until(server, ROUNDS, 7)
        server.write(worker_max_lifetime=0.01)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(server, 'poolproxy_workers{state="leaving"}', 1)
        assert (await server.metrics())['poolproxy_workers{state="ready"}'] == 1
        other = await server.connect()
        assert await other.say("echo successor") == "successor"
        await until(server, ROUNDS, 14)
        await other.close()
        assert await client.say("echo old") == "old"
        server.write(worker_max_lifetime=0, max_client_conn=50)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(server, "poolproxy_max_client_conn", 50)
        await client.close()
        await until(server, 'poolproxy_workers{state="leaving"}', 0)
        metrics = await server.metrics()
        assert metrics["poolproxy_worker_restarts_total"] == 0
        assert metrics["poolproxy_worker_replacements_total"] >= 1
        deaths = [
            n for name, n in metrics.items() if name.startswith("poolproxy_worker_deaths_total")
        ]
        assert not any(deaths)


async def test_a_server_goes_with_its_client_and_ends_with_it(tmp_path: Path) -> None:
    """The permit is the next worker's; when nobody takes the pair any more PostgreSQL sees its end."""
    (postgres,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = postgres.socket.getsockname()
    async with postgres, scene(tmp_path) as s:
        assert await s.client.say(f"server {host} {port}") == "up"
        backend = await postgres.accept()
        assert await s.client.say("move-with 1") == f"moved {s.other.slot}"
        assert await s.client.say("move-with 1") == f"moved {s.third.slot}"
        await s.other.say("arrivals refuse")
        assert await s.client.say("move-with 1") == "stays"
        await s.other.say("arrivals hold")
        await s.client.stream.send_all(b"move-with-and-die 1\n")
        await until(s.server, "poolproxy_worker_restarts_total", 1)
        with trio.move_on_after(0.1) as nothing:
            await backend.receive_some()
        assert nothing.cancelled_caught
        await s.other.say("arrivals refuse")
        assert await read_line(s.client.stream) == ""
        async with await postgres.accept() as canceller:
            assert len(await canceller.receive_some()) == 12 + len("secret77")
        assert await backend.receive_some() == b""
        await backend.aclose()
        await until(s.server, "poolproxy_permits_returned_total", 1)


async def test_nobody_takes_anothers_server_along(tmp_path: Path) -> None:
    """The client of a worker that does not hold that permit stays where it is."""
    async with scene(tmp_path) as s:
        assert await s.client.say("move-with 1") == "stays"
