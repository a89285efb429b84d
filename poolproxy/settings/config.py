"""A whole configuration, and what it means for one pool and for one client.

Precedence is PgBouncer's: a user's setting goes before the database's, that before the proxy's.
Pools obey the *pool user*, the one that logs in to PostgreSQL: the database's forced user if it
has one, else the user that the client logged in as. Clients obey the user they logged in as.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from poolproxy.errors import Mistake
from poolproxy.settings.entries import (
    LONGEST_DATABASE,
    DatabaseSettings,
    PeerSettings,
    UserSettings,
)
from poolproxy.settings.enums import AuthType, LoadBalance, PoolMode, StatePolicy, TargetSession
from poolproxy.settings.hosts import Host, pair
from poolproxy.settings.schema import Settings

T = TypeVar("T")

# The entry that stands for every database without one of its own.
TEMPLATE = "*"
# Names of consoles, PgBouncer's and ours; no database may have them.
RESERVED = frozenset({"pgbouncer", "poolproxy"})

# Names come from clients, so what is remembered of them has an end. Resolving takes a few
# microseconds: forgetting everything now and then costs less than keeping an order of age.
REMEMBERED = 1024

_STARTUP = ("client_encoding", "datestyle", "timezone", "application_name")
_NOBODY = UserSettings()


@attrs.frozen(kw_only=True)
class PoolSettings:
    """All that a pool needs. Times are seconds; 0 is "no limit" except for ``server_lifetime``.

    ``user`` logs in to PostgreSQL; ``forced`` tells that the database names it. ``password`` is
    the database's (plain), else the user's (plain, md5 or SCRAM secret); without one the user's
    secret is looked for in auth_file. ``hosts`` has at least one. ``startup`` goes into the start-up
    packet. ``idle_timeout``: it is given up when nobody has used it for so long.
    """

    database: str
    user: str
    forced: bool
    hosts: tuple[Host, ...]
    load_balance_hosts: LoadBalance
    target_session_attrs: TargetSession
    dbname: str
    password: str | None = attrs.field(repr=False)
    password_command: str
    pool_mode: PoolMode
    session_state: StatePolicy
    pool_size: int
    min_pool_size: int
    reserve_pool_size: int
    max_db_connections: int
    max_user_connections: int
    server_lifetime: float
    connect_query: str
    startup: tuple[tuple[str, str], ...]
    query_timeout: float
    transaction_timeout: float
    idle_transaction_timeout: float
    idle_timeout: float


@attrs.frozen
class Lookup:
    """Who asks for a user's secret, where (a database of the configuration), and how."""

    database: str
    user: str
    query: str


@attrs.frozen(kw_only=True)
class ClientSettings:
    """What binds one client. Times are seconds; 0 is "no limit"."""

    query_wait_timeout: float
    client_idle_timeout: float
    max_db_client_connections: int
    max_user_client_connections: int


# Compared by identity: two equal configurations are still two generations.
@attrs.frozen(eq=False)
class Config:
    """A configuration without mistakes; ``source`` is the name of the file it came from.

    ``notes``: what its operator should know of it all the same. ``idle``: what the file says of settings of
    PgBouncer's that do nothing here; None if it is not in PgBouncer's format.
    """

    settings: Settings
    databases: Mapping[str, DatabaseSettings]
    users: Mapping[str, UserSettings]
    source: str
    notes: tuple[Mistake, ...] = ()
    peers: Mapping[str, PeerSettings] = attrs.field(factory=dict)
    idle: Mapping[str, str] | None = None
    _pools: dict[tuple[str, str], PoolSettings] = attrs.field(factory=dict, init=False, repr=False)
    _clients: dict[tuple[str, str], ClientSettings] = attrs.field(
        factory=dict, init=False, repr=False
    )

    def database(self, name: str) -> DatabaseSettings | None:
        """The entry for what a client calls ``name``, with its dbname filled in."""
        entry = self.databases.get(name)
        if entry is None and name not in RESERVED and _fits(name):
            entry = self.databases.get(TEMPLATE)
        if entry is None or entry.dbname is not None:
            return entry
        return attrs.evolve(entry, dbname=name)

    def pool(self, database: str, login_user: str) -> PoolSettings | None:
        """The pool for a client that asks for ``database`` as ``login_user``; None: no database."""
        key = (database, login_user)
        if key in self._pools:
            return self._pools[key]
        entry = self.database(database)
        if entry is None:
            return None
        return _remember(self._pools, key, lambda: self._pool(database, entry, login_user))

    def client(self, database: str, login_user: str) -> ClientSettings:
        """What binds a client that asks for ``database``, which need not exist."""
        key = (database, login_user)
        if key in self._clients:
            return self._clients[key]
        return _remember(self._clients, key, lambda: self._client(database, login_user))

    def pool_of(self, key: tuple[str, str]) -> PoolSettings | None:
        """The pool of a database whose servers log in as this user; None if it is not to be any more.

        Where the database has a forced user that is either its pool, or the one for its auth_query.
        """
        database, pool_user = key
        pool = self.pool(database, pool_user)
        if pool is None or pool.user == pool_user:
            return pool
        return self._lookup_pools(database).get((database, pool_user))

    def auth_type(self, database: str, login_user: str) -> AuthType:
        """How a client must prove that it is ``login_user``; neither need exist."""
        entry = self.database(database) or DatabaseSettings()
        user = self.users.get(login_user, _NOBODY)
        return _first(user.auth_type, entry.auth_type, self.settings.auth_type)

    def auth_types(self) -> set[AuthType]:
        """All that some client may be asked for."""
        found = {entry.auth_type for entry in self.databases.values()}
        found |= {user.auth_type for user in self.users.values()}
        return {self.settings.auth_type} | {one for one in found if one is not None}

    def lookup(self, database: str) -> Lookup | None:
        """How users of this database are looked up that no file knows; None if they are not.

        Names that clients make up are no reason to connect anywhere: the template's users are looked up
        in auth_dbname or not at all, unless auth_query_anywhere is set.
        """
        entry = self.databases.get(database)
        own = entry or self.databases.get(TEMPLATE) or DatabaseSettings()
        ours = self.settings
        user = _first(own.auth_user, ours.auth_user)
        may = entry is not None or (
            ours.auth_query_anywhere and self.database(database) is not None
        )
        here = database if may else ""
        where = own.auth_dbname or ours.auth_dbname or here
        if not user or not where or database in RESERVED:
            return None
        return Lookup(where, user, own.auth_query or ours.auth_query)

    def _lookup_pools(self, database: str) -> dict[tuple[str, str], PoolSettings]:
        """The pools that only auth_query uses: those of databases with another, forced user. ``database``
        need not have an entry.
        """
        found = {}
        for name in {**self.databases, database: None}:
            lookup = self.lookup(name)
            entry = self.database(lookup.database) if lookup is not None else None
            if lookup is not None and entry is not None and entry.user not in (None, lookup.user):
                key = (lookup.database, lookup.user)
                plain = attrs.evolve(entry, user=None, password=None, password_command=None)
                found[key] = self._pool(lookup.database, plain, lookup.user)
        return found

    def _pool(self, database: str, entry: DatabaseSettings, login_user: str) -> PoolSettings:
        ours = self.settings
        name = login_user if entry.user is None else entry.user
        user = self.users.get(name, _NOBODY)
        # The database's own goes before the user's, be it a password or a command.
        password = entry.password or (None if entry.password_command else user.password)
        command = entry.password_command or (None if entry.password else user.password_command)
        pool_size = _first(user.pool_size, entry.pool_size, ours.default_pool_size)
        min_pool_size = _first(entry.min_pool_size, ours.min_pool_size)
        reserve = _first(user.reserve_pool_size, entry.reserve_pool_size, ours.reserve_pool_size)
        return PoolSettings(
            database=database,
            user=name,
            forced=entry.user is not None,
            hosts=pair(entry.host or (ours.unix_socket_dir,), entry.port),
            load_balance_hosts=entry.load_balance_hosts,
            target_session_attrs=entry.target_session_attrs,
            dbname=entry.dbname or database,
            password=password,
            password_command=command or "",
            pool_mode=_first(user.pool_mode, entry.pool_mode, ours.pool_mode),
            session_state=_first(user.session_state, entry.session_state, ours.session_state),
            pool_size=pool_size,
            # A user's own pool_size may be smaller than what its database keeps open.
            min_pool_size=min(min_pool_size, pool_size or min_pool_size),
            reserve_pool_size=reserve if ours.reserve_pool_timeout else 0,
            max_db_connections=entry.max_db_connections or ours.max_db_connections,
            max_user_connections=user.max_user_connections or ours.max_user_connections,
            server_lifetime=entry.server_lifetime or ours.server_lifetime,
            connect_query=entry.connect_query or "",
            startup=tuple((key, value) for key in _STARTUP if (value := getattr(entry, key))),
            query_timeout=user.query_timeout or ours.query_timeout,
            transaction_timeout=user.transaction_timeout or ours.transaction_timeout,
            idle_transaction_timeout=user.idle_transaction_timeout or ours.idle_transaction_timeout,
            idle_timeout=(
                ours.pool_idle_timeout if database in self.databases else ours.autodb_idle_timeout
            ),
        )

    def _client(self, database: str, login_user: str) -> ClientSettings:
        ours = self.settings
        entry = self.database(database) or DatabaseSettings()
        user = self.users.get(login_user, _NOBODY)
        return ClientSettings(
            query_wait_timeout=_first(
                user.query_wait_timeout, entry.query_wait_timeout, ours.query_wait_timeout
            ),
            client_idle_timeout=user.client_idle_timeout or ours.client_idle_timeout,
            max_db_client_connections=(
                entry.max_db_client_connections or ours.max_db_client_connections
            ),
            max_user_client_connections=(
                user.max_user_client_connections or ours.max_user_client_connections
            ),
        )


def _fits(database: str) -> bool:
    # Clients may send any bytes; those that are not UTF-8 arrive as surrogates.
    return 0 < len(database.encode(errors="surrogateescape")) <= LONGEST_DATABASE


def _first(*values: T | None) -> T:
    """The first value that is given; the proxy's own comes last and always is."""
    return next(value for value in values if value is not None)


def _remember(known: dict[tuple[str, str], T], key: tuple[str, str], make: Callable[[], T]) -> T:
    if len(known) >= REMEMBERED:
        known.clear()
    known[key] = made = make()
    return made
