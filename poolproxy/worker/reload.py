"""A new configuration in a running worker."""

from __future__ import annotations

import logging

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Configure
from poolproxy.relay.context import Pool
from poolproxy.settings.config import PoolSettings
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

CHANGED = "database configuration changed"
# When one of these differs, servers that are connected now are not what clients should get.
CONNECTION_SETTINGS = ("host", "port", "dbname", "user", "password", "connect_query", "startup")

REMOVED = PoolerError(
    "database removed",
    sqlstate="57P01",
    hint="The database is no longer in the configuration.",
    reason="database_removed",
)


def reload(worker: Worker, configure: Configure) -> None:
    """Take the configuration over as a whole: the acceptor has found no mistake in it."""
    worker.configure(configure)
    for pool in list(worker.pools.values()):
        settings = worker.config.pool(pool.key.database, pool.key.user)
        if settings is None or settings.user != pool.key.user:
            _remove(worker, pool)
        else:
            _change(worker, pool, settings)
    for client in worker.clients.values():
        client.settings = worker.config.client(client.pool.key.database, client.user)
    worker.channel.post(worker.ready())


def _remove(worker: Worker, pool: Pool) -> None:
    for client in [c for c in worker.clients.values() if c.pool is pool]:
        client.fail(REMOVED)
    for server in list(pool.servers):
        server.end("database removed")
    worker.wake_logins(pool.key)


def _change(worker: Worker, pool: Pool, settings: PoolSettings) -> None:
    before, shared = pool.settings, pool.statements
    pool.configure(settings, worker.config.settings)
    for server in pool.servers:
        server.expires_at = server.connected_at + settings.server_lifetime
    if any(getattr(before, name) != getattr(settings, name) for name in CONNECTION_SETTINGS):
        pool.welcome = ()
        _replace_servers(pool)
    elif pool.statements is not shared:
        _replace_servers(pool)  # one that does not know the clients' statements would fail them


def _replace_servers(pool: Pool) -> None:
    for server in list(pool.servers):
        server.doomed = CHANGED
    for server in list(pool.idle):
        server.end(CHANGED)
