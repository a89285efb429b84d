"""What the ledger has to know of the configuration."""

from __future__ import annotations

from collections.abc import Container

from poolproxy.ipc.messages import PoolKey
from poolproxy.pool.ledger import LimitsOf, PoolLimits
from poolproxy.settings.config import TEMPLATE, Config, PoolSettings
from poolproxy.settings.enums import PoolMode, TargetSession
from poolproxy.settings.hosts import Host, pair


def limits_of(config: Config, closed: Container[str] = ()) -> LimitsOf:
    """How the ledger learns the limits of a pool from ``config``. Databases in ``closed`` have no
    min_pool_size.
    """
    ours = config.settings

    def limits(key: PoolKey) -> PoolLimits | None:
        pool = config.pool_of((key.database, key.user))
        if pool is None:
            return None  # the database is gone or has got another forced user
        return PoolLimits(
            pool_size=pool.pool_size,
            min_pool_size=0 if key.database in closed else pool.min_pool_size,
            reserve_pool_size=pool.reserve_pool_size,
            reserve_pool_timeout=ours.reserve_pool_timeout,
            max_db_connections=pool.max_db_connections,
            max_user_connections=pool.max_user_connections,
            server_login_retry=ours.server_login_retry,
            forced_user=pool.forced,
            session_mode=pool.pool_mode is PoolMode.SESSION,
            failover=has_choice(pool),
            target=repr((pool.hosts, pool.dbname, pool.startup, pool.connect_query)),
        )

    return limits


def has_choice(pool: PoolSettings) -> bool:
    """Whether it takes more than connecting to say where the pool's servers are."""
    return len(pool.hosts) > 1 or pool.target_session_attrs is not TargetSession.ANY


def hosts_of(config: Config) -> set[Host]:
    """All hosts of all databases, and the peers."""
    default = (config.settings.unix_socket_dir,)
    lists = (pair(entry.host or default, entry.port) for entry in config.databases.values())
    peers = {Host(peer.host or "", peer.port) for peer in config.peers.values()}
    return {host for hosts in lists for host in hosts} | peers


def standing_pools(config: Config) -> list[PoolKey]:
    """The pools that min_pool_size fills before any client comes."""
    found = []
    for name in config.databases:
        pool = config.pool(name, "") if name != TEMPLATE else None
        if pool is not None and pool.forced and pool.min_pool_size:
            found.append(PoolKey(name, pool.user))
    return found
