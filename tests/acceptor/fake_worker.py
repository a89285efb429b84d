"""A worker for tests: speaks the channel, and does for its clients what a line of theirs says.

A client is greeted with ``SLOT ID`` (or ``refused``). Then each line is a command:
``echo TEXT``, ``die`` (at once), ``login DATABASE USER`` (answered with the limit or ``in``),
``up PID DATABASE USER`` (log in with this cancel key), ``cancel PID`` (answered ``done``),
``server HOST PORT`` (want a permit, connect, answer ``up``), ``move TARGET`` (to that worker, or to any; the
answer is ``moved SLOT`` or ``stays``), ``move-with PERMIT`` (with this server), the same with ``-and-die``,
``arrivals HOW`` (what to do with clients that
come: ``take``, ``refuse``, ``die``, ``hold`` until the next such order, ``take-and-die``),
``console COMMAND`` (answered with its tag, or the error), and ``orders HOW`` (what to do with those of the
console: ``hold`` until told to ``obey``; ``await`` one that is held). ``--behave`` makes it a bad one.
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


def server_state(permit: int) -> m.ServerState:
    key, times, nothing = key_of("77"), (0.0, 0.0, 0.0), ((), (), (), (), ())
    return m.ServerState(
        permit, POOL, 1, False, "S", key, "host", 1, "", 1, ("/",), *times, *nothing, False, "", None
    )  # fmt: skip


class FakeWorker:
    def __init__(self, channel: Channel, behave: str) -> None:
        self.channel = channel
        self.slot = -1
        self.behave = behave
        self.clients: dict[int, trio.SocketStream] = {}
        self.answers: dict[object, trio.Event] = {}
        self.said: dict[int, str] = {}
        self.address = ("", 0)
        self.servers: list[socket.socket] = []
        self.leaving = False
        self.moving: dict[int, trio.SocketStream] = {}
        self.keys: dict[int, m.CancelKey] = {}
        self.held: list[tuple[m.ClientArrival, int]] = []
        self.arrivals = "take"
        self.orders: list[m.Command] = []
        self.obeys = True
        self.ordered = trio.Event()
        self.telling = trio.Lock()
        self.nursery: trio.Nursery

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            nursery.start_soon(self.channel.flush_forever)
            try:
                while not (self.leaving and not self.clients):
                    message, fds = await self.channel.receive()
                    await self.obey(message, fds, nursery)
                self.channel.post(m.Bye("left"))
            except ChannelClosed:
                pass
            nursery.cancel_scope.cancel()

    async def obey(self, message: m.Message, fds: list[int], nursery: trio.Nursery) -> None:
        match message:
            case m.Begin(slot):
                self.slot = slot
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
                self.said[client] = limit
                self.answers.pop(client).set()
            case m.CancelDone(request):
                self.answers.pop(("cancel", request)).set()
            case m.Cancel(request, key) if key in map(self.keys.get, self.moving):
                self.channel.post(m.CancelMissed(request))
            case m.Cancel(request, key):
                self.channel.post(m.CancelDone(request))
                for client, stream in list(self.clients.items()):
                    if self.keys.get(client) == key:
                        await self.tell(stream, b"cancelled %d\n" % key.pid)
            case m.ClientArrival():
                self.held.append((message, fds[0]))
                for fd in fds[1:]:
                    os.close(fd)
                await self.arrive()
            case m.ClientMoved(client, refused):
                stream = self.moving.pop(client)
                if refused:
                    self.clients[client] = stream
                    nursery.start_soon(self.stay, client, stream)
                else:
                    await stream.aclose()
            case m.Retire():
                self.leaving = True
            case m.RelayEnds(clients):
                for client in clients:
                    await self.tell(self.clients[client], b"relayed no longer\n")
            case m.Unrelay(clients, target):
                for client in clients:
                    await self.tell(self.clients[client], b"wanted by %d\n" % target)
            case m.Hold(request):
                self.channel.post(m.Done(request))
            case m.Command():
                self.orders.append(message)
                self.ordered.set()
                await self.carry_out()
            case m.ConsoleEnd(client, tag, error):
                self.said[client] = error or tag
                self.answers.pop(client).set()
            case m.Permit(permit):
                self.channel.post(m.Want(POOL, 0, 0.0, False, False))
                server = socket.create_connection(self.address)
                self.servers.append(server)
                self.channel.post(m.ServerOpening(permit, *self.address), [os.dup(server.fileno())])
                self.channel.post(m.ServerUp(permit, key_of("77"), 0.001, (m.Parameter("a", "b"),)))
                self.answers.pop("server").set()

    async def serve(self, accepted: m.Accepted, fd: int) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
        if not accepted.surplus or await self.has_room(accepted.id):
            await self.go_on(accepted.id, stream, b"%d %d\n" % (self.slot, accepted.id))
            return
        async with stream:
            try:
                await stream.send_all(b"refused\n")
            except trio.BrokenResourceError:
                pass
        self.channel.post(m.ClientsGone((accepted.id,)))

    async def has_room(self, client: int) -> bool:
        self.answers[client] = answered = trio.Event()
        self.channel.post(m.FindRoom(client, last=True))
        await answered.wait()
        return not self.said[client]

    async def tell(self, stream: trio.SocketStream, text: bytes) -> None:
        async with self.telling:
            await stream.send_all(text)

    async def commands(self, client: int, stream: trio.SocketStream) -> bool:
        """Serve it; False if it has moved away."""
        buffer = b""
        async for data in stream:
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                words = line.decode().split()
                if words[0].startswith("move"):
                    self.move(client, stream, words)
                    return False
                await self.tell(stream, (await self.command(client, words)).encode())
        return True

    def move(self, client: int, stream: trio.SocketStream, words: list[str]) -> None:
        self.moving[client] = stream
        self.clients.pop(client)
        key = self.keys[client]
        with_server = words[0].startswith("move-with")
        number = int(words[1]) if len(words) > 1 else 0
        target = 0 if with_server else number
        relayed = m.Relayed("", 1) if words[0] == "move-relayed" else None
        state = m.ClientState(
            client, POOL, "alice", False, False, key, (), None, "", 0, 0.0, 0.0, 0.0, None,
            m.ClientSecrets(b"", b"", None, None, 0.0), relayed,
        )  # fmt: skip
        fds = [os.dup(stream.socket.fileno())]
        sockets, server = (client,), None
        if with_server:
            fds.append(os.open(os.devnull, os.O_RDONLY))  # nobody of us looks at what it is
            sockets, server = (client, number), server_state(number)
        self.channel.post(m.ClientMove(sockets, target, state, server), fds)
        if words[0].endswith("and-die"):
            os._exit(9)

    async def arrive(self) -> None:
        if self.arrivals == "die":
            os._exit(9)
        while self.held and self.arrivals != "hold":
            message, fd = self.held.pop()
            client = message.state.id
            if self.arrivals == "refuse":
                os.close(fd)
                self.channel.post(m.ClientArrived(client, "refused"))
                continue
            self.channel.post(m.ClientArrived(client, ""))
            if self.arrivals == "take-and-die":
                os._exit(9)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
            self.keys[client] = message.state.key
            self.clients[client] = stream
            try:
                # Before the next message is read: that may be a cancel request for it.
                await self.tell(stream, b"moved %d\n" % self.slot)
            except trio.BrokenResourceError:
                pass  # seen when it is read
            self.nursery.start_soon(self.go_on, client, stream, b"")

    async def carry_out(self) -> None:
        while self.orders and self.obeys:
            order = self.orders.pop()
            stream = self.clients.get(int(order.argument)) if order.verb == "KILL_CLIENT" else None
            if stream is not None:
                await self.tell(stream, b"killed\n")
            self.channel.post(m.Done(order.request, int(stream is not None)))

    async def stay(self, client: int, stream: trio.SocketStream) -> None:
        await self.go_on(client, stream, b"stays\n")

    async def go_on(self, client: int, stream: trio.SocketStream, word: bytes) -> None:
        self.clients[client] = stream
        try:
            await self.tell(stream, word)
            if not await self.commands(client, stream):
                return
        except trio.BrokenResourceError:
            pass
        await stream.aclose()
        self.clients.pop(client)
        self.channel.post(m.ClientsGone((client,)))

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
                return f"{self.said[client] or 'in'}\n"
            case ["up", pid, database, user]:
                pool = m.PoolKey(database, user)
                self.keys[client] = key_of(pid)
                self.channel.post(m.ClientUp(client, key_of(pid), pool, user))
                return "ok\n"
            case ["cancel", pid]:
                self.answers["cancel", client] = answered
                self.channel.post(m.CancelRequest(client, key_of(pid)))
                await answered.wait()
                return "done\n"
            case ["relay", "ends"]:  # for everybody, as far as this worker knows
                self.channel.post(m.RelayEnds(tuple(range(100))))
                return "ok\n"
            case ["unrelay"]:
                self.channel.post(m.Unrelay(tuple(range(100))))
                return "ok\n"
            case ["arrivals", how]:
                self.arrivals = how
                await self.arrive()
                return "ok\n"
            case ["console", *text]:
                self.answers[client] = answered
                self.channel.post(m.ConsoleCommand(client, " ".join(text)))
                await answered.wait()
                return f"{self.said[client]}\n"
            case ["orders", "await"]:
                await self.ordered.wait()
                return "ok\n"
            case ["orders", how]:
                self.obeys = how == "obey"
                await self.carry_out()
                return "ok\n"
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
    options = parser.parse_args()
    if options.behave == "broken":
        print("fake worker: broken", file=sys.stderr)
        sys.exit(5)
    channel = Channel(socket.socket(fileno=options.fd))
    trio.run(FakeWorker(channel, options.behave).run)


if __name__ == "__main__":
    main()
