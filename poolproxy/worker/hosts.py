"""Where a worker's servers are: addresses of names, roles of servers, and what becomes of servers when these
change.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import TYPE_CHECKING

import trio

from poolproxy.ipc.messages import Resolve, Resolved
from poolproxy.pool.hosts import Role, role_of
from poolproxy.relay.server import MOVED, Address, Server
from poolproxy.settings.hosts import Host
from poolproxy.wire.build import query
from poolproxy.wire.codes import DATA_ROW, ERROR_RESPONSE, READY_FOR_QUERY
from poolproxy.wire.read import data_row, error_fields
from poolproxy.worker.streams import Stream

if TYPE_CHECKING:
    from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

ROLE_QUERY = (
    "SELECT pg_catalog.pg_is_in_recovery(), "
    "pg_catalog.current_setting('default_transaction_read_only')"
)
REMEMBERED_NAMES = 1024  # with where they lead


class RoleUnknown(Exception):
    """The server did not say whether it is a primary."""


async def addresses(worker: Worker, host: Host) -> list[Address]:
    """Where to connect to for ``host``, in order; none if its name can't be resolved."""
    if host.is_unix:
        return [(socket.AF_UNIX, host.socket_path)]
    if _is_address(host.name):
        return [_address(host.name, host.port)]
    found = await _resolve(worker, host.name)
    return [_address(address, host.port) for address in found.addresses]


def _address(text: str, port: int) -> Address:
    return (socket.AF_INET6 if ":" in text else socket.AF_INET), (text, port)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _resolve(worker: Worker, name: str) -> Resolved:
    """Ask the acceptor, once for all who want to know at one time."""
    asked = worker.resolving.get(name)
    if asked is None:
        asked = worker.resolving[name] = Asked()
        worker.channel.post(Resolve(name))
    await asked.answered.wait()
    assert asked.answer is not None
    return asked.answer


class Asked:
    """A name that the acceptor has been asked about."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer: Resolved | None = None


def resolved(worker: Worker, message: Resolved) -> None:
    """The acceptor has told what a name stands for: servers elsewhere are closed when they are free."""
    asked = worker.resolving.pop(message.name, None)
    if asked is not None:
        asked.answer = message
        asked.answered.set()
    if not message.addresses:
        return
    _remember(worker, message)
    for pool in worker.pools.values():
        for server in list(pool.servers):
            leave_if_elsewhere(worker, server)


def _remember(worker: Worker, message: Resolved) -> None:
    """For servers that are being opened, or are on their way."""
    worker.places.pop(message.name, None)
    if len(worker.places) >= REMEMBERED_NAMES:
        del worker.places[next(iter(worker.places))]
    worker.places[message.name] = message.addresses


def is_elsewhere(worker: Worker, server: Server) -> bool:
    """Whether the name of the server's host does not lead to its address any more.

    The acceptor tells all workers of each change, before it passes on a server that was opened after that.
    """
    places, where = worker.places.get(server.host.name), server.address[1]
    return places is not None and isinstance(where, tuple) and where[0] not in places


def leave_if_elsewhere(worker: Worker, server: Server) -> None:
    """Close it as soon as it is free, if it is where its host's name does not lead to any more."""
    if is_elsewhere(worker, server):
        server.doom(MOVED)


async def ask_role(stream: Stream) -> Role:
    """Ask a logged-in server what it is: PostgreSQL before 14 does not report it. Raises RoleUnknown."""
    await stream.send(query(ROLE_QUERY))
    role: Role | None = None
    while True:
        code, body = await stream.message()
        if code == DATA_ROW:
            values = data_row(body)
            if len(values) == 2:
                role = role_of(in_recovery=values[0] == b"t", read_only=values[1] == b"on")
        elif code == ERROR_RESPONSE:
            raise RoleUnknown(error_fields(body).message)
        elif code == READY_FOR_QUERY:
            if role is None:
                raise RoleUnknown("its answer has no row")
            return role
