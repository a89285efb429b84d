"""A new configuration in a running worker."""

from __future__ import annotations

import logging
from time import monotonic

from poolproxy import log as logs
from poolproxy.errors import ConfigError, PoolerError
from poolproxy.ipc.messages import Configure
from poolproxy.relay.context import Pool
from poolproxy.relay.moving import CHANGED
from poolproxy.relay.replication import close_all
from poolproxy.relay.session import let_go
from poolproxy.settings.config import PoolSettings
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

# When one of these differs, servers that are connected now are not what clients should get.
CONNECTION_SETTINGS = (
    "hosts",
    "load_balance_hosts",
    "target_session_attrs",
    "dbname",
    "user",
    "password",
    "password_command",
    "connect_query",
    "startup",
)

REMOVED = PoolerError(
    "database removed",
    sqlstate="57P01",
    hint="The database is no longer in the configuration.",
    reason="database_removed",
)


def reload(worker: Worker, configure: Configure) -> None:
    """Take the configuration over as a whole: the acceptor has found no mistake in it."""
    before = worker.contexts.identity
    worker.configure(configure)
    set_up_log(worker)
    tls_changed = worker.contexts.identity != before
    for pool in list(worker.pools.values()):
        settings = worker.config.pool_of((pool.key.database, pool.key.user))
        if settings is None:
            pool.unwanted = True
            end_all(worker, pool, REMOVED)
        else:
            _change(worker, pool, settings, tls_changed=tls_changed)
    for client in worker.clients.values():
        client.settings = worker.config.client(client.pool.key.database, client.user)
    worker.channel.post(worker.ready())


def set_up_log(worker: Worker) -> None:
    """Log as the configuration says; a file is opened anew."""
    try:
        logs.set_up(worker.config.settings, worker.metrics.worker)
    except ConfigError as error:
        # The acceptor could open it, so the log goes on as it was, and ends with us at the worst.
        for mistake in error.mistakes:
            log.error("%s", mistake)


def end_all(worker: Worker, pool: Pool, error: PoolerError) -> None:
    """Disconnect all clients and servers of the pool at once."""
    for client in [c for c in worker.clients.values() if c.pool is pool]:
        client.fail(error)
    for server in list(pool.servers):
        server.end(error.message)
    worker.wake_logins(pool.key)


def reconnect(pool: Pool) -> None:
    """Replace all servers of the pool, each when it is free, and forget what was learned from them."""
    pool.welcome = ()
    _outdate(pool)
    close_all(pool, CHANGED)


def _outdate(pool: Pool) -> None:
    pool.outdated = monotonic()  # for those that are being opened, or are on their way
    replace_servers(pool, CHANGED)


def _change(worker: Worker, pool: Pool, settings: PoolSettings, *, tls_changed: bool) -> None:
    before, shared, session_mode = pool.settings, pool.statements, pool.session_mode
    pool.configure(settings, worker.config.settings)
    for server in pool.servers:
        server.expires_at = server.connected_at + settings.server_lifetime
    tls_changed = tls_changed and not all(host.is_unix for host in settings.hosts)
    changed = any(getattr(before, name) != getattr(settings, name) for name in CONNECTION_SETTINGS)
    if changed or tls_changed:
        reconnect(pool)
    elif pool.statements is not shared or pool.session_mode is not session_mode:
        # One that does not know the clients' statements would fail them, and one that was opened for a
        # client of session mode is for nobody else.
        _outdate(pool)


def replace_servers(pool: Pool, reason: str) -> None:
    """Close the pool's servers: those that nobody uses at once, the others as they become free."""
    for server in list(pool.servers):
        server.doomed = server.doomed or reason
    for server in pool.resting():
        server.end(reason)
    let_go(pool, len(pool.servers))
