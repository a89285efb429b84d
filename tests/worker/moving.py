"""A client that goes from one worker to another, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from poolproxy.ipc.messages import (
    ClientArrival,
    ClientArrived,
    ClientMove,
    ClientMoved,
)
from poolproxy.relay.client import Client
from poolproxy.relay.client_state import is_quiet
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.worker import client_moves
from poolproxy.worker.control import obey
from tests.worker.house import House, house

SELECT = query("select 1")
DONE = message(ord("C"), b"SELECT 1\0") + ready_for_query()
SYNC = message(ord("S"), b"")
PARSE = message(ord("P"), b"mine\0select 1\0\0\0") + SYNC
BIND = message(ord("B"), b"\0mine\0\0\0\0\0\0\0") + message(ord("E"), b"\0\0\0\0\0") + SYNC
PARSED = b"1\0\0\0\4" + ready_for_query()


@contextmanager
def two(proxy: dict[str, Any] | None = None, **database: Any) -> Iterator[tuple[House, House]]:
    """Two workers with the same configuration."""
    with ExitStack() as stack:
        yield (
            stack.enter_context(house(proxy, database)),
            stack.enter_context(house(proxy, database)),
        )


def sent(source: House, client: Client) -> tuple[ClientMove, list[int]]:
    """Have the client sent; what the acceptor gets."""
    assert is_quiet(client)
    assert client_moves.send(source.worker, client, 0)
    while True:
        received = source.acceptor.receive_nowait()
        assert received is not None
        if isinstance(received[0], ClientMove):
            return received[0], received[1]


def move(source: House, target: House, client: Client) -> Client:
    """What the acceptor does for a client that arrives; the client as it is there."""
    told, fds = sent(source, client)
    obey(target.worker, ClientArrival(told.sockets, told.state, told.server), fds)
    assert target.heard() == [ClientArrived(client.id, "")]
    obey(source.worker, ClientMoved(client.id, ""), [])
    return target.worker.clients[client.id]
