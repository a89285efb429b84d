"""Cancel requests for clients of this worker: for what they run, or wait for.

A request comes by the acceptor, and what it is to cancel by the client's own connection. It may have come
before the request and not have been read yet, so it is read first; where the client itself has just come
that is done when it may be. What a relayed client has sent may still be at the worker that has its
connection, which passes it on with its lane's next tick, if no turn of others is in the way: where nothing is
found to cancel it is looked once more after ``LATE``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from poolproxy.ipc.messages import Cancel, CancelDone, CancelKey, CancelMissed
from poolproxy.relay.cancelling import cancel_wait
from poolproxy.relay.client import Client
from poolproxy.relay.lane import LONGEST_TICK
from poolproxy.relay.server import Server
from poolproxy.worker.cancel import NOTHING, WAITING, Wish
from poolproxy.worker.worker import Worker

LATE = 4 * LONGEST_TICK  # seconds

# Is told the outcome, as of :mod:`poolproxy.worker.cancel`.
Told: TypeAlias = Callable[[str], None]


def obey(worker: Worker, message: Cancel) -> None:
    """Cancel what a client does, and say when that is done; or that the client is here no more."""

    def done(outcome: str) -> None:
        counts = worker.metrics.cancels
        counts[outcome] = counts.get(outcome, 0) + 1
        worker.channel.post(CancelDone(message.request))

    def missed() -> None:
        worker.channel.post(CancelMissed(message.request))

    cancel_client(worker, message.key, done, missed)


def cancel_client(
    worker: Worker, key: CancelKey, done: Told, missed: Callable[[], None] = lambda: None
) -> None:
    """Cancel what the client with this key runs or waits for. ``missed``: it is on its way to another one."""
    client = worker.keys.get(key)
    if key in worker.departing.keys:
        missed()
    elif client is None or _is_busy(client):
        _cancel(worker, client, done)
    elif client.id in worker.departing.unread:
        worker.start(_when_read, worker, key, done, missed)
    else:
        if client.reading:
            worker.engine.read_now(client.fd)
        if client.relayed is None or _is_busy(client):
            _cancel(worker, client, done)
        else:
            worker.start(_look_again, worker, key, done, missed)


async def _when_read(
    worker: Worker, key: CancelKey, done: Told, missed: Callable[[], None]
) -> None:
    await worker.channel.flush()
    cancel_client(worker, key, done, missed)


async def _look_again(
    worker: Worker, key: CancelKey, done: Told, missed: Callable[[], None]
) -> None:
    await trio.sleep(LATE)
    client = worker.keys.get(key)
    if client is None:
        missed()  # it may have moved on
    else:
        _cancel(worker, client, done)


def _is_busy(client: Client) -> bool:
    """Whether there is something to cancel."""
    server = client.server
    return bool(client.wait_since or (server is not None and server.back.owed))


def _cancel(worker: Worker, client: Client | None, done: Told) -> None:
    server = client.server if client is not None else None
    if client is not None and client.wait_since:
        cancel_wait(client)
        done(WAITING)
    elif client is None or server is None or not server.back.owed:
        done(NOTHING)
    else:
        wish = Wish(lambda: _runs(server, client), done, asked=True)
        worker.canceller.request(server, wish)


def _runs(server: Server, client: Client) -> bool:
    return server.client is client and bool(server.back.owed)
