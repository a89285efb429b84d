"""Cancel keys for clients."""

from __future__ import annotations

import os

from poolproxy.ipc.messages import CancelKey
from poolproxy.wire.peering import SHORT, marked
from poolproxy.worker.worker import Worker


def new_key(worker: Worker, secret_size: int, pid: int = 0) -> CancelKey:
    """A key that no client of this worker has; ``pid``: the process id that it is to have, 0 for any.

    With a peer_id short keys have no room for the process id.
    """
    peer_id = worker.config.settings.peer_id
    if peer_id and secret_size <= SHORT:
        pid = 0
    while True:
        number = pid or int.from_bytes(os.urandom(4), "big") >> 1
        secret = os.urandom(secret_size)
        if peer_id:
            number, secret = marked(number, secret, peer_id)
        key = CancelKey(number, secret)
        # Servers of different hosts, or one after the other, can have the same process id.
        if key not in worker.keys:
            return key
