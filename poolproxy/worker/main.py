"""The worker process from start to end.

It begins as nobody: which worker it is comes with the first message. So a process can be started, with all
that takes long, before it is needed (``acceptor.spare``).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import TypeVar

import trio

from poolproxy import log as logs
from poolproxy.ipc.channel import Channel, ChannelClosed
from poolproxy.ipc.codec import IpcError
from poolproxy.ipc.messages import Begin, Bye, Configure, Message
from poolproxy.worker.control import listen
from poolproxy.worker.janitor import keep_house, tell_departures
from poolproxy.worker.reload import set_up_log
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)


SPARE = "poolproxy-spare"  # names of processes, as ps and top show them; 15 bytes at most
NAME = "poolproxy-w{}"

T = TypeVar("T", bound=Message)


def run(fd: int) -> int:
    """Serve on the inherited channel; the exit status says whether it ended as asked."""
    # The terminal's Ctrl-C goes to the whole process group; only the acceptor decides what it means.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(fd, False)
    logs.set_up()
    _call_us(SPARE)
    return trio.run(_main, Channel(socket.socket(fileno=fd)))


async def _main(channel: Channel) -> int:
    try:
        slot = (await _told(channel, Begin)).slot
        logs.set_up(worker=slot)
        _call_us(NAME.format(slot))
        configure = await _told(channel, Configure)
    except ChannelClosed:
        return 0  # the acceptor is gone, or has no use for a spare
    except IpcError as error:
        log.error("a worker can't begin: %s", error)
        return 1
    worker = Worker(channel, slot, configure)
    set_up_log(worker)
    async with trio.open_nursery() as nursery:
        worker.nursery = nursery
        nursery.start_soon(channel.flush_forever)
        nursery.start_soon(worker.engine.run)
        nursery.start_soon(keep_house, worker)
        nursery.start_soon(tell_departures, worker)
        nursery.start_soon(listen, worker)
        channel.post(worker.ready())
        await worker.left.wait()
        channel.post(Bye("left"))
        with trio.move_on_after(1):
            await channel.flush()
        nursery.cancel_scope.cancel()
    return 0


async def _told(channel: Channel, kind: type[T]) -> T:
    """The first message, or the second, which must be one of these."""
    message, _ = await channel.receive()
    if not isinstance(message, kind):
        raise IpcError(f"{type(message).__name__} instead of {kind.__name__}")
    return message


def _call_us(name: str) -> None:
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(name)
    except OSError:
        pass  # it is for the eyes only
