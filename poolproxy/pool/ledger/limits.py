"""What bounds a pool, as the ledger needs to know it."""

from __future__ import annotations

import enum

import attrs


@attrs.frozen(kw_only=True)
class PoolLimits:
    """The limits of one pool; names and meaning are PgBouncer's, times are seconds.

    0 means unlimited for the sizes, and switches ``reserve_pool_timeout`` off. ``target`` stands
    for where and how the pool's servers are reached: when it changes on a reload, what was
    learned from the old server (welcome parameters, failures) is forgotten. ``session_mode``: workers
    may hold servers that their clients have had since their log-in and do not use yet. ``failover``: a log-in
    that has failed may succeed soon, at another host or in another role, so the first ones are repeated
    sooner than server_login_retry says.
    """

    pool_size: int = 20
    min_pool_size: int = 0
    reserve_pool_size: int = 0
    reserve_pool_timeout: float = 5.0
    max_db_connections: int = 0
    max_user_connections: int = 0
    server_login_retry: float = 15.0
    forced_user: bool = False
    target: str = ""
    session_mode: bool = False
    failover: bool = False


class Blocker(enum.Enum):
    """The limit that forbids one more server connection."""

    POOL = "pool_size"
    DATABASE = "max_db_connections"
    USER = "max_user_connections"
