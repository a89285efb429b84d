"""What a worker knows of the clients that are on their way from it; see ``worker.client_moves``."""

from __future__ import annotations

import socket

import attrs

from poolproxy.ipc.messages import CancelKey, Shed
from poolproxy.relay.client import Client


@attrs.define
class Departing:
    """``clients``, by id, and their ``keys``: neither read nor forgotten here. ``orders``: what the acceptor
    wants moved, by target; ``choosing``: a task sees to that. ``rests_until``: a client was refused.
    ``unread``: clients that have come, and are read when the acceptor can hear of that; they don't go on.
    ``pipes``, by id: for the clients that are relayed when they have arrived. ``killed``: those that end if
    they come back. ``for_good``: all are to go; ``asked_at``: when other workers were last asked for clients
    that are relayed.
    """

    clients: dict[int, Client] = attrs.Factory(dict)
    keys: set[CancelKey] = attrs.Factory(set)
    orders: dict[int, Shed] = attrs.Factory(dict)
    choosing: bool = False
    rests_until: float = 0.0
    unread: set[int] = attrs.Factory(set)
    pipes: dict[int, socket.socket] = attrs.Factory(dict)
    killed: set[int] = attrs.Factory(set)
    for_good: bool = False
    asked_at: float = 0.0
