"""The settings of one database, of one user, of one peer: tables [databases.NAME], [users.NAME], [peers.N].

None is "not given here": the next wider scope decides, see :mod:`poolproxy.settings.config`.
"""

# ruff: noqa: RUF009 - setting() makes an attrs field, which ruff cannot see

from __future__ import annotations

import attrs

from poolproxy.settings.addresses import PORT
from poolproxy.settings.enums import (
    AuthType,
    LoadBalance,
    PoolMode,
    Reload,
    StatePolicy,
    TargetSession,
)
from poolproxy.settings.field import setting
from poolproxy.settings.hosts import ONE_HOST, SERVER_HOSTS, SERVER_PORTS
from poolproxy.settings.values import GIVEN, NAME_OR_NONE, choice, count, name, seconds

# NAMEDATALEN - 1 for databases; for users what PgBouncer takes, as some log-in services have
# longer names than PostgreSQL's roles.
LONGEST_DATABASE = 63
LONGEST_USER = 127

# PgBouncer reads 0 for these as "not given". It is kept, as files in use rely on it.
_ZERO = "; 0 is the same as leaving it out"


@attrs.frozen(kw_only=True)
class DatabaseSettings:
    """Table [databases.NAME]; NAME is what clients ask for, "*" is any not listed."""

    dbname: str | None = setting(
        None,
        parse=name(LONGEST_DATABASE),
        reload=Reload.NEW,
        doc="Name of the database at the server; left out, it is the name that clients ask for.",
    )
    host: tuple[str, ...] | None = setting(
        None,
        parse=SERVER_HOSTS,
        reload=Reload.NEW,
        doc="PostgreSQL's host name, address, or folder of its Unix socket; left out, it is "
        "unix_socket_dir. Of a list, with commas or as an array, another one is tried where one fails.",
    )
    port: tuple[int, ...] = setting(
        (5432,),
        parse=SERVER_PORTS,
        reload=Reload.NEW,
        doc="PostgreSQL's port; of several hosts, one for all or a list with one for each.",
    )
    load_balance_hosts: LoadBalance = setting(
        LoadBalance.ROUND_ROBIN,
        parse=choice(LoadBalance),
        reload=Reload.NEW,
        doc="Which of several hosts a new server connection goes to: round-robin takes the next one "
        "each time; disable stays with one until it fails.",
    )
    target_session_attrs: TargetSession = setting(
        TargetSession.ANY,
        parse=choice(TargetSession),
        reload=Reload.NEW,
        doc="What a host must be to be used, in libpq's words: any; read-write, it takes writes by "
        "default; read-only, it does not; primary; standby; prefer-standby, a standby if there is one. "
        "Not in PgBouncer.",
    )
    user: str | None = setting(
        None,
        parse=name(LONGEST_USER),
        reload=Reload.NEW,
        doc="Log in to PostgreSQL as this user, whoever the client is; all clients share one pool.",
    )
    password: str | None = setting(
        None,
        parse=GIVEN,
        reload=Reload.NEW,
        secret=True,
        doc="Password for PostgreSQL; left out, it is the user's own.",
    )
    password_command: str | None = setting(
        None,
        parse=GIVEN,
        reload=Reload.NEW,
        doc="Command that prints the password for PostgreSQL, such as a token of a cloud; run without a "
        "shell, with PGHOST, PGPORT, PGUSER and PGDATABASE set. Not in PgBouncer.",
    )
    auth_type: AuthType | None = setting(
        None,
        parse=choice(AuthType),
        reload=Reload.NEW,
        doc="How clients of this database prove who they are. Not in PgBouncer.",
    )
    auth_user: str | None = setting(
        None,
        parse=NAME_OR_NONE,
        reload=Reload.NEW,
        doc="User that runs auth_query for clients of this database.",
    )
    auth_query: str | None = setting(
        None,
        parse=GIVEN,
        reload=Reload.NEW,
        doc="Finds the users of this database.",
    )
    auth_dbname: str | None = setting(
        None,
        parse=name(LONGEST_DATABASE),
        reload=Reload.NEW,
        doc="Database of this configuration in which this database's auth_query runs.",
    )
    pool_size: int | None = setting(
        None,
        parse=count(),
        doc="Server connections for each user; left out, default_pool_size; 0 is no limit.",
    )
    min_pool_size: int | None = setting(
        None,
        parse=count(),
        doc="Server connections kept open for each user's pool.",
    )
    reserve_pool_size: int | None = setting(
        None,
        parse=count(),
        doc="Further server connections for a pool in which a client has waited for "
        "reserve_pool_timeout.",
    )
    pool_mode: PoolMode | None = setting(
        None,
        parse=choice(PoolMode),
        reload=Reload.NEW,
        doc="When a server connection goes back to its pool.",
    )
    session_state: StatePolicy | None = setting(
        None,
        parse=choice(StatePolicy),
        reload=Reload.NEW,
        doc="What to do when a client leaves something in a server connection that outlives its "
        "transaction.",
    )
    max_db_connections: int | None = setting(
        None,
        parse=count(),
        doc="Server connections over all users" + _ZERO + ".",
    )
    max_db_client_connections: int | None = setting(
        None,
        parse=count(),
        doc="Client connections" + _ZERO + ".",
    )
    server_lifetime: float | None = setting(
        None,
        parse=seconds(),
        doc="Age at which an unused server connection is closed" + _ZERO + ".",
    )
    query_wait_timeout: float | None = setting(
        None,
        parse=seconds(),
        doc="How long a client waits for a server connection; 0 is no limit.",
    )
    connect_query: str | None = setting(
        None,
        parse=GIVEN,
        reload=Reload.NEW,
        doc="Run once on each new server connection; its errors are logged and ignored.",
    )
    client_encoding: str | None = setting(
        None, parse=GIVEN, reload=Reload.NEW, doc="Start-up parameter of server connections."
    )
    datestyle: str | None = setting(
        None, parse=GIVEN, reload=Reload.NEW, doc="Start-up parameter of server connections."
    )
    timezone: str | None = setting(
        None, parse=GIVEN, reload=Reload.NEW, doc="Start-up parameter of server connections."
    )
    application_name: str | None = setting(
        None, parse=GIVEN, reload=Reload.NEW, doc="Start-up parameter of server connections."
    )


@attrs.frozen(kw_only=True)
class UserSettings:
    """Table [users.NAME].

    Pools obey the user that logs in to PostgreSQL, which is the database's ``user`` where it has
    one; ``query_wait_timeout``, ``client_idle_timeout``, ``max_user_client_connections`` and
    ``password`` concern the user that the client logs in as.
    """

    password: str | None = setting(
        None,
        parse=GIVEN,
        reload=Reload.NEW,
        secret=True,
        doc="The user's plain password, md5 or SCRAM secret; goes before auth_file. A plain one "
        "also serves for PostgreSQL. Not in PgBouncer.",
    )
    password_command: str | None = setting(
        None,
        parse=GIVEN,
        reload=Reload.NEW,
        doc="As of a database, for all server connections of this user. Not in PgBouncer.",
    )
    auth_type: AuthType | None = setting(
        None,
        parse=choice(AuthType),
        reload=Reload.NEW,
        doc="How clients prove that they are this user, whatever the database. Not in PgBouncer.",
    )
    pool_mode: PoolMode | None = setting(
        None,
        parse=choice(PoolMode),
        reload=Reload.NEW,
        doc="When a server connection goes back to its pool.",
    )
    session_state: StatePolicy | None = setting(
        None,
        parse=choice(StatePolicy),
        reload=Reload.NEW,
        doc="What to do when a client leaves something in a server connection that outlives its "
        "transaction.",
    )
    pool_size: int | None = setting(
        None,
        parse=count(),
        doc="Server connections for each database; 0 is no limit.",
    )
    reserve_pool_size: int | None = setting(
        None,
        parse=count(),
        doc="Further server connections for a pool in which a client has waited for "
        "reserve_pool_timeout.",
    )
    max_user_connections: int | None = setting(
        None,
        parse=count(),
        doc="Server connections over all databases" + _ZERO + ".",
    )
    max_user_client_connections: int | None = setting(
        None,
        parse=count(),
        doc="Client connections" + _ZERO + ".",
    )
    query_timeout: float | None = setting(
        None, parse=seconds(), doc="Time for one query" + _ZERO + "."
    )
    query_wait_timeout: float | None = setting(
        None,
        parse=seconds(),
        doc="How long a client waits for a server connection; 0 is no limit.",
    )
    idle_transaction_timeout: float | None = setting(
        None,
        parse=seconds(),
        doc="How long a client may be idle inside a transaction" + _ZERO + ".",
    )
    transaction_timeout: float | None = setting(
        None, parse=seconds(), doc="Time for one transaction" + _ZERO + "."
    )
    client_idle_timeout: float | None = setting(
        None,
        parse=seconds(),
        doc="How long a client may be idle outside of a transaction" + _ZERO + ".",
    )


@attrs.frozen(kw_only=True)
class PeerSettings:
    """Table [peers.N]; N is the peer_id of another instance, or our own."""

    host: str | None = setting(
        None,
        parse=ONE_HOST,
        doc="Its host name, address, or the folder of its Unix socket; must be given.",
    )
    port: int = setting(6432, parse=PORT, doc="Its listen_port.")
    pool_size: int | None = setting(
        None,
        parse=count(),
        doc="Cancel requests that may be on their way to it at one time; left out, default_pool_size; "
        "0 is no limit.",
    )
