"""Sending clients away one by one, so that each hears why and none loses an answer for it."""

from __future__ import annotations

import os
import select
import socket
from time import monotonic

from poolproxy.errors import PoolerError
from poolproxy.relay.client import Client
from poolproxy.relay.closing import Closing
from poolproxy.worker.worker import Worker

GOODBYE = 2.0  # seconds
LULL = 0.1  # seconds without a word from a client, after which it is told without having asked


def tick(worker: Worker, now: float) -> None:
    """Called by the janitor."""
    for closing in [closing for closing in worker.goodbyes if now >= closing.deadline]:
        closing.end(clean=False)
    for client in list(worker.parting):
        if client.parting is not None and now - client.last_activity > LULL:
            send_away(worker, client, client.parting)


def part(worker: Worker, client: Client, error: PoolerError, now: float) -> None:
    """Send away a client of which nothing is under way.

    One that had an answer just now is not told at once: its library may still be reading that, and would
    take an error right behind it for a mere notice (libpq does).
    """
    if now - client.last_activity > LULL:
        send_away(worker, client, error)
    else:
        client.part(error)
        worker.parting.add(client)


def stay(worker: Worker, client: Client) -> None:
    """A client that was to be sent away may stay; not one that has lost a session with its server."""
    if not client.pool.session_mode:
        client.parting = None
        worker.parting.discard(client)


def send_away(worker: Worker, client: Client, error: PoolerError) -> None:
    """Close the client so that it hears why, although it may be sending its next query just now.

    A socket that is closed before all was read is reset, and the client's library may never look at the
    error before it. So a duplicate stays open until the client has closed its end, or for GOODBYE seconds.
    """
    sock = socket.socket(fileno=os.dup(client.sock.fileno()))
    sock.setblocking(False)
    client.fail(error)
    see_off(worker, sock)


def see_off(worker: Worker, sock: socket.socket) -> None:
    """End the connection of a client that has been told all; takes the socket."""
    closing = Closing(
        worker.engine,
        sock,
        monotonic() + GOODBYE,
        lambda clean: worker.goodbyes.discard(closing),
    )
    worker.goodbyes.add(closing)
    closing.shutdown()


def may_go(client: Client) -> bool:
    """Whether nothing of this client is under way, as far as we can see."""
    front = client.front
    if client.wait_since or client.held or client.raw or client.drop or client.out:
        return False
    server = client.server
    if server is not None and server.endless:
        return True  # a stream of replication has no end; its client goes on where it was
    if front.left or front.head or not (server is None or (server.back.at_rest and not server.out)):
        return False
    poll = select.poll()
    poll.register(client.sock, select.POLLIN)
    return not poll.poll(0)  # it has sent something that we have not read yet
