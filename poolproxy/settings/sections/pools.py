"""Pools, and how many connections there may be."""

# ruff: noqa: RUF009 - setting() makes an attrs field, which ruff cannot see

from __future__ import annotations

import attrs

from poolproxy.settings.enums import PoolMode, Reload, StatePolicy
from poolproxy.settings.field import setting
from poolproxy.settings.values import BOOLEAN, choice, count, seconds


@attrs.frozen(kw_only=True, slots=False)
class Pools:
    """Pools, and how many connections there may be."""

    pool_mode: PoolMode = setting(
        PoolMode.SESSION,
        section="Pools and limits",
        parse=choice(PoolMode),
        doc="When a server connection goes back to its pool: when the client leaves (session), "
        "at the end of its transaction, or after each statement (no multi-statement transactions).",
    )
    max_client_conn: int = setting(
        100,
        parse=count(1),
        doc="Client connections over all workers, those still logging in included.",
    )
    default_pool_size: int = setting(
        20,
        parse=count(),
        doc="Server connections for each pair of database and user; 0 is no limit.",
    )
    min_pool_size: int = setting(
        0,
        parse=count(),
        doc="Server connections kept open for each pool that has a client or whose database has "
        "a forced user.",
    )
    reserve_pool_size: int = setting(
        0,
        parse=count(),
        doc="Further server connections for a pool in which a client has waited for "
        "reserve_pool_timeout.",
    )
    reserve_pool_timeout: float = setting(
        5.0,
        parse=seconds(),
        doc="How long a client waits before the reserve is used; 0 turns the reserve off.",
    )
    max_db_connections: int = setting(
        0,
        parse=count(),
        doc="Server connections for each database over all its users; 0 is no limit.",
    )
    max_user_connections: int = setting(
        0,
        parse=count(),
        doc="Server connections for each user over all databases; 0 is no limit.",
    )
    max_db_client_connections: int = setting(
        0,
        parse=count(),
        doc="Client connections for each database; 0 is no limit.",
    )
    max_user_client_connections: int = setting(
        0,
        parse=count(),
        doc="Client connections for each user that clients log in as; 0 is no limit.",
    )
    autodb_idle_timeout: float = setting(
        3600.0,
        parse=seconds(),
        doc="How long a pool without clients and servers is kept, and shown on the console, whose database "
        'only the entry "*" stands for; 0 is for ever. What was counted stays in the metrics.',
    )
    pool_idle_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="The same for pools of databases that are listed; 0 is for ever.",
    )
    server_round_robin: bool = setting(
        False,
        parse=BOOLEAN,
        doc="Take the server connection that has been idle longest instead of the one used last.",
    )
    max_prepared_statements: int = setting(
        200,
        parse=count(),
        reload=Reload.NEW,
        doc="Named prepared statements that a server connection keeps in transaction and statement "
        "mode, where they follow the client from server to server; 0 leaves names to the client.",
    )
    session_state: StatePolicy = setting(
        StatePolicy.RESET,
        parse=choice(StatePolicy),
        reload=Reload.NEW,
        doc="What to do in transaction and statement mode when a client leaves something in a server "
        "connection that outlives its transaction, such as SET or LISTEN: allow counts it, reset "
        "cleans the server connection before the next client gets it, pin lets the client keep it "
        "until it has cleaned up or leaves, error refuses the statement. Not in PgBouncer, which "
        "allows.",
    )
