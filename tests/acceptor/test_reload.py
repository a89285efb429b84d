"""In which order a reload reaches the workers."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from poolproxy.acceptor.hub import Hub
from poolproxy.acceptor.workers import Worker
from poolproxy.ipc.channel import Channel, pair
from poolproxy.ipc.messages import Configure, Permit, PoolKey, ServerClosed, ServerFailed, Want
from poolproxy.settings.entries import DatabaseSettings
from tests.acceptor.test_reload_settings import BASE, loaded

POOL = PoolKey("db", "ann")
NO_PROCESS: Any = None


async def test_what_a_reload_grants_is_for_the_host_of_now(nursery: trio.Nursery) -> None:
    """Clients wait for a host that fails: the worker knows of the next one when it may make an attempt."""
    ours, theirs = pair()
    hub, heard = Hub(loaded(BASE), nursery), Channel(theirs)
    worker = Worker(1, 0, NO_PROCESS, Channel(ours), 0.0, 0.0)
    hub.workers.add(worker)
    hub.host.worker_up(worker)
    hub.host.want(worker, Want(POOL, 1, 0.0, False, False))
    hub.host.server_failed(worker, ServerFailed(1, "connect failed", "", False))
    hub.host.server_closed(worker, ServerClosed(1, True))
    before = [message for message, _ in heard.rest()]
    databases = {"db": DatabaseSettings(host=("other.example",))}
    hub.configure(loaded(attrs.evolve(BASE, databases=databases)))
    after = [type(message) for message, _ in heard.rest()]
    heard.close()
    worker.channel.close()
    assert Permit(1, POOL, keep=False) in before
    assert after.index(Configure) < after.index(Permit)
