"""How many server connections a configuration can open in the worst case.

This is the figure to hold against PostgreSQL's max_connections. It is an upper bound: every
known user uses every database at once. Requests to cancel a query come on top; PostgreSQL does
not count their connections.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

from poolproxy.settings.config import TEMPLATE, Config, PoolSettings
from poolproxy.settings.enums import AuthType


@attrs.frozen
class Share:
    """What one database can open; ``connections`` None is no limit, ``why`` tells the reckoning."""

    database: str
    connections: int | None
    why: str


@attrs.frozen
class Capacity:
    """Server connections in the worst case; ``total`` None is no limit.

    The shares may sum up to more than ``total``: then, and where there is no limit, ``note``
    names the setting that bounds it or would.
    """

    total: int | None
    shares: tuple[Share, ...]
    note: str

    def __str__(self) -> str:
        lines = [f"server connections in the worst case: {_text(self.total)}"]
        for share in self.shares:
            lines.append(f"  {share.database}: {_text(share.connections)} ({share.why})")
        if self.note:
            lines.append(f"  {self.note}")
        return "\n".join(lines)


def worst_case(config: Config, userlist_names: Iterable[str]) -> Capacity:
    """The most server connections that ``config`` can have open at one time.

    ``userlist_names`` are the users of auth_file; with those that have a password in the
    configuration they are all that can log in, but for those whom auth_query finds.
    """
    own = (name for name, user in config.users.items() if user.password is not None)
    logins = sorted({*userlist_names, *own})
    pools = {name: _pools(config, name, logins) for name in config.databases}
    shares = tuple(_share(config, name, found) for name, found in pools.items())
    by_database = sum(_or_infinite(share.connections) for share in shares)
    # Whom auth_query finds is not known here.
    by_user = math.inf if any(map(config.lookup, pools)) else _by_user(pools)
    total = min(by_database, by_user)
    note = ""
    if total == math.inf:
        note = _cure(shares)
    elif by_user < by_database:
        note = "max_user_connections bounds the sum"
    return Capacity(None if total == math.inf else int(total), shares, note)


def _pools(config: Config, database: str, logins: list[str]) -> list[PoolSettings]:
    """The pools of a database entry, one for each user that logs in to PostgreSQL."""
    forced = config.databases[database].user
    lookup = config.lookup(database)
    anybody = lookup is not None or config.auth_type(database, "") is AuthType.ANY
    # A forced user's pool is the same one whoever the client is.
    users = logins if forced is None else logins[:1] or [""] * anybody
    found = [config.pool(database, user) for user in users]
    if lookup is not None and lookup.database == database and forced not in (None, lookup.user):
        found.append(config.pool_of((database, lookup.user)))
    return [pool for pool in found if pool is not None]


def _share(config: Config, database: str, pools: list[PoolSettings]) -> Share:
    if config.databases[database].user is None and config.lookup(database) is not None:
        return _of_any_user(config, database)
    if not pools:
        return Share(database, 0, "no user can log in")
    if database == TEMPLATE:
        # Its limits hold for each database that clients ask for, and they may ask for any.
        return Share(database, None, "any number of databases")
    total = sum(map(_most, pools))
    plural = "" if len(pools) == 1 else "s"
    why = f"{len(pools)} pool{plural} of {_sizes(pools)}"
    limit = pools[0].max_db_connections
    if limit and limit < total:
        return Share(database, limit, f"{why}, max_db_connections {limit}")
    return Share(database, None if total == math.inf else int(total), why)


def _of_any_user(config: Config, database: str) -> Share:
    limit = config.databases[database].max_db_connections or config.settings.max_db_connections
    why = "users whom auth_query finds"
    if database == TEMPLATE or not limit:
        return Share(database, None, why)
    return Share(database, limit, f"{why}, max_db_connections {limit}")


def _by_user(pools: dict[str, list[PoolSettings]]) -> float:
    """The bound that max_user_connections gives: what each user can open over all databases."""
    most: dict[str, float] = {}
    limits: dict[str, int] = {}
    for database, found in pools.items():
        for pool in found:
            more = math.inf if database == TEMPLATE else _most(pool)
            most[pool.user] = most.get(pool.user, 0) + more
            limits[pool.user] = pool.max_user_connections
    return sum(min(most[user], limits[user] or math.inf) for user in most)


def _most(pool: PoolSettings) -> float:
    """The most that a pool can open by its own limits."""
    own = pool.pool_size + pool.reserve_pool_size if pool.pool_size else math.inf
    return min(own, pool.max_user_connections or math.inf, pool.max_db_connections or math.inf)


def _sizes(pools: list[PoolSettings]) -> str:
    sizes = sorted({_most(pool) for pool in pools})
    least, most = _text(_finite(sizes[0])), _text(_finite(sizes[-1]))
    return least if least == most else f"{least} to {most}"


def _cure(shares: tuple[Share, ...]) -> str:
    unbound = [share.database for share in shares if share.connections is None]
    if unbound == [TEMPLATE]:
        return "to bound it set max_user_connections, or list the databases by name"
    return "to bound it set pool_size, max_db_connections or max_user_connections"


def _or_infinite(number: int | None) -> float:
    return math.inf if number is None else number


def _finite(number: float) -> int | None:
    return None if number == math.inf else int(number)


def _text(number: int | None) -> str:
    return "no limit" if number is None else str(number)
