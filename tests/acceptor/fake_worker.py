"""A worker for tests: speaks the channel, and does for its clients what a line of theirs says.

A client is greeted with ``SLOT ID`` (or ``refused``). Then each line is a command:
``echo TEXT``, ``die`` (at once), ``login DATABASE USER`` (answered with the limit or ``in``),
``up PID DATABASE USER`` (log in with this cancel key), ``cancel PID`` (answered ``done``), and
``server HOST PORT`` (want a permit, connect, answer ``up``). ``--behave`` makes it a bad one.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time

import trio

from poolproxy.ipc import messages as m
from poolproxy.ipc.channel import Channel, ChannelClosed
from poolproxy.ipc.codec import schema
from poolproxy.metrics.schema import WorkerMetrics
from poolproxy.metrics.snapshot import encode

POOL = m.PoolKey("app", "alice")


def key_of(pid: str) -> m.CancelKey:
    return m.CancelKey(int(pid), b"secret" + pid.encode())


class FakeWorker:
    def __init__(self, channel: Channel, slot: int, behave: str) -> None:
        self.channel = channel
        self.slot = slot
        self.behave = behave
        self.clients: dict[int, trio.SocketStream] = {}
        self.answers: dict[object, trio.Event] = {}
        self.limits: dict[int, str] = {}
        self.address = ("", 0)
        self.servers: list[socket.socket] = []
        self.leaving = False

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.channel.flush_forever)
            try:
                while not (self.leaving and not self.clients):
                    message, fds = await self.channel.receive()
                    await self.obey(message, fds, nursery)
            except ChannelClosed:
                pass
            nursery.cancel_scope.cancel()

    async def obey(self, message: m.Message, fds: list[int], nursery: trio.Nursery) -> None:
        match message:
            case m.Configure(generation=generation):
                text = "other" if self.behave == "other-schema" else schema()
                self.channel.post(m.Ready(os.getpid(), generation, text, False))
            case m.Handoff(clients):
                for accepted, fd in zip(clients, fds, strict=True):
                    nursery.start_soon(self.serve, accepted, fd)
            case m.Collect(request) if self.behave != "silent":
                metrics = WorkerMetrics(self.slot)
                metrics.relay_rounds = 7
                self.channel.post(m.Snapshot(request, encode(metrics, [])))
            case m.Leave("clients" | "retire"):
                self.leaving = True
            case m.Leave() if self.behave != "stubborn":
                self.leaving = True
                self.clients.clear()
            case m.Admit(client, limit):
                self.limits[client] = limit
                self.answers.pop(client).set()
            case m.CancelDone(request):
                self.answers.pop(("cancel", request)).set()
            case m.Cancel(request, key):
                self.channel.post(m.CancelDone(request))
                for stream in self.clients.values():
                    await stream.send_all(b"cancelled %d\n" % key.pid)
            case m.Permit(permit):
                self.channel.post(m.Want(POOL, 0, 0.0, False, False))
                server = socket.create_connection(self.address)
                self.servers.append(server)
                self.channel.post(m.ServerOpening(permit, *self.address), [os.dup(server.fileno())])
                self.channel.post(m.ServerUp(permit, key_of("77"), 0.001, (m.Parameter("a", "b"),)))
                self.answers.pop("server").set()

    async def serve(self, accepted: m.Accepted, fd: int) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
        self.clients[accepted.id] = stream
        async with stream:
            try:
                if accepted.refused:
                    await stream.send_all(b"refused\n")
                else:
                    await stream.send_all(b"%d %d\n" % (self.slot, accepted.id))
                    await self.commands(accepted.id, stream)
            except trio.BrokenResourceError:
                pass
        self.clients.pop(accepted.id, None)
        self.channel.post(m.ClientsGone((accepted.id,)))

    async def commands(self, client: int, stream: trio.SocketStream) -> None:
        buffer = b""
        async for data in stream:
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                await stream.send_all((await self.command(client, line.decode().split())).encode())

    async def command(self, client: int, words: list[str]) -> str:
        answered = trio.Event()
        match words:
            case ["echo", text]:
                return f"{text}\n"
            case ["die"]:
                os._exit(9)
            case ["login", database, user]:
                self.answers[client] = answered
                self.channel.post(m.Login(client, database, user))
                await answered.wait()
                return f"{self.limits[client] or 'in'}\n"
            case ["up", pid, database, user]:
                pool = m.PoolKey(database, user)
                self.channel.post(m.ClientUp(client, key_of(pid), pool, user))
                return "ok\n"
            case ["cancel", pid]:
                self.answers["cancel", client] = answered
                self.channel.post(m.CancelRequest(client, key_of(pid)))
                await answered.wait()
                return "done\n"
            case ["server", host, port]:
                self.answers["server"] = answered
                self.address = (host, int(port))
                self.channel.post(m.Want(POOL, 1, time.monotonic(), False, False))
                await answered.wait()
                return "up\n"
        return "what?\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--behave", default="")
    parser.add_argument("--fd", type=int)
    parser.add_argument("--slot", type=int)
    options = parser.parse_args()
    if options.behave == "broken":
        print("fake worker: broken", file=sys.stderr)
        sys.exit(5)
    channel = Channel(socket.socket(fileno=options.fd))
    trio.run(FakeWorker(channel, options.slot, options.behave).run)


if __name__ == "__main__":
    main()
