"""The worker process from start to end."""

from __future__ import annotations

import logging
import os
import signal
import socket

import trio

from poolproxy import log as logs
from poolproxy.ipc.channel import Channel, ChannelClosed
from poolproxy.ipc.codec import IpcError
from poolproxy.ipc.messages import Bye, Configure
from poolproxy.worker.control import listen
from poolproxy.worker.janitor import keep_house, tell_departures
from poolproxy.worker.reload import set_up_log
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)


def run(fd: int, slot: int) -> int:
    """Serve on the inherited channel; the exit status says whether it ended as asked."""
    # The terminal's Ctrl-C goes to the whole process group; only the acceptor decides what it means.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(fd, False)
    logs.set_up(worker=slot)
    return trio.run(_main, Channel(socket.socket(fileno=fd)), slot)


async def _main(channel: Channel, slot: int) -> int:
    try:
        message, _ = await channel.receive()
    except (ChannelClosed, IpcError) as error:
        log.error("worker %d has no configuration: %s", slot, error)
        return 1
    if not isinstance(message, Configure):
        log.error("worker %d was told %s before its configuration", slot, type(message).__name__)
        return 1
    worker = Worker(channel, slot, message)
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
