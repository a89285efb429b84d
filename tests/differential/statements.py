"""SQL for the clients of a differential test, by the row of docs/features.md that promises it.

Each text gives the same answers whatever other clients do: it reads only rows with the life's tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.differential.table import Promise, promise

BASE = "Simple queries; the extended protocol; pipelines up to a Sync"
TRANSACTIONS = "Transactions (`BEGIN`), savepoints"
NAMED = "Named prepared statements of the protocol"
SQL_PREPARE = "`PREPARE` and `EXECUTE` in SQL"
DEALLOCATE = "`DEALLOCATE` of a prepared statement of the protocol"
DEALLOCATE_ALL = "`DEALLOCATE ALL`, `DISCARD ALL`"
TRACKED = (
    "`client_encoding`, `DateStyle`, `TimeZone`, `standard_conforming_strings`,"
    " `application_name`: by `SET` or at start-up"
)
AT_START = "Any other parameter at start-up, by name or in `options` (`-c`)"
SET = "`SET` of any other parameter, `SET ROLE`"
SET_LOCAL = "`SET LOCAL`"
LISTEN = "`LISTEN`"
NOTIFY = "`NOTIFY`"
COPY = "`COPY` in both directions"
TEMPORARY = "Temporary tables"
SESSION_LOCKS = "Session advisory locks (`pg_advisory_lock`)"
LOCKS = "Transaction advisory locks (`pg_advisory_xact_lock`)"
CURSORS = "Cursors, portals with a row limit"
HELD_CURSORS = "Cursors `WITH HOLD`"
LOAD = "`LOAD`"
SEQUENCES = "Session-local sequence state (`currval`)"
LARGE_OBJECTS = "Large objects"
CALLS = "Function calls by the protocol (`PQfn`)"
CANCEL = "Cancelling a query"
TWO_PHASES = "Two-phase commit (`PREPARE TRANSACTION`)"
RESET = "`RESET`, `RESET ALL`, `DISCARD ALL`"

# How the rows begin that are not for random traffic; each has tests of its own, or is refused. Replication
# connections share nothing with others: each has a server connection for itself, from its start to its end.
ELSEWHERE = (
    "Other parameters that PostgreSQL reports, in `track_extra_parameters`",
    "Replication connections",
    "TLS",
)

SETUP = """
    create table tagged (life text, n int, tag text, primary key (life, n));
    create function chatter(tag text) returns text language plpgsql as $$
        begin raise notice 'notice to %', tag; raise warning 'warning to %', tag; return tag; end $$;
"""
SEQUENCE = "create sequence numbers_{n}"

# May stand alone, in a query of several, in the extended protocol.
STATEMENTS: dict[str, tuple[str, ...]] = {
    BASE: (
        "select '{me}'",
        "",
        "select n, '{me}' from generate_series(1, 3) n",
        "insert into tagged values ('{me}', 1, '{me} one')",
        "insert into tagged select '{me}', n, '{me}' from generate_series(2, 4) n returning n, tag",
        "update tagged set tag = tag || '+' where life = '{me}'",
        "delete from tagged where life = '{me}' and n > 2 returning tag",
        "select n, tag from tagged where life = '{me}' order by n",
        "select '{me}', 1 / (n - 3) from generate_series(1, 5) n",
        "selec '{me}'",
        "select '{me}'::int",
        "select '{me}' from nothing",
        "select chatter('{me}')",
        "do $$ begin raise '{me}' using errcode = 'P0042', hint = 'hint to {me}'; end $$",
        "select '{me}', repeat('x', 30000) from generate_series(1, 3)",
        "select '2024-02-01 12:00 UTC'::timestamptz, length('é'), '{me}'",
        r"select 'a\\b', '{me}'",
        "copy (select '{me}', n from generate_series(1, 300) n) to stdout",
        "copy (select '{me}', 1 / (n - 3) from generate_series(1, 5) n) to stdout",
    ),
    TRACKED: (
        "set timezone = 'Asia/Tokyo'",
        "set datestyle = 'German'",
        "set application_name = 'named {me}'",
        "set client_encoding = 'LATIN1'",
        "set standard_conforming_strings = off",
        "select set_config('timezone', 'America/Lima', false)",
        "show datestyle",
        "show application_name",
    ),
    AT_START: ("show work_mem", "show geqo"),
    TRANSACTIONS: ("savepoint s", "rollback to s", "release s"),
    SET: (
        "set enable_sort = off; show enable_sort; reset enable_sort",
        "set role pg_monitor; select current_user, '{me}'; reset role",
    ),
    SET_LOCAL: (
        "set local enable_hashjoin = off",
        "set local timezone = 'Africa/Accra'",
        "set local application_name = 'local {me}'",
    ),
    NOTIFY: ("notify channel_{n}, 'sent by {me}'",),
    SQL_PREPARE: ("prepare sql_{n} as select '{me}'; execute sql_{n}; deallocate sql_{n}",),
    TEMPORARY: (
        "create temp table scratch (tag text) on commit drop",
        "insert into scratch values ('{me}')",
        "select tag || '' from scratch",  # a column of its own would tell the table's number
    ),
    LOCKS: ("select pg_advisory_xact_lock(100 + {n})",),
    CURSORS: (
        "declare scroll cursor for select n, '{me}' from generate_series(1, 9) n",
        "fetch 2 from scroll",
        "close scroll",
    ),
    LOAD: ("load 'plpgsql'",),
    SEQUENCES: ("select setval('numbers_{n}', 7), currval('numbers_{n}'), '{me}'",),
    LARGE_OBJECTS: (
        "select lo_from_bytea(5000 + {n}, '{me}'); select lo_get(5000 + {n});"
        " select lo_unlink(5000 + {n})",
    ),
}

# Only where the row promises more than "in it": these outlive the transaction.
LASTING: dict[str, tuple[str, ...]] = {
    SET: ("set enable_sort = off", "show enable_sort", "set role pg_monitor", "reset role"),
    LISTEN: ("listen channel_{n}", "unlisten *"),
    SQL_PREPARE: ("prepare lasting as select '{me}'", "execute lasting", "deallocate lasting"),
    TEMPORARY: ("create temp table lasting (tag text)", "insert into lasting values ('{me}')"),
    SESSION_LOCKS: ("select pg_advisory_lock({n})", "select pg_advisory_unlock({n})"),
    HELD_CURSORS: (
        "declare held cursor with hold for select n, '{me}' from generate_series(1, 9) n",
        "fetch 2 from held",
        "close held",
    ),
    SEQUENCES: ("select currval('numbers_{n}')", "select setval('numbers_{n}', 8)"),
}

# Whoever prepares one of these shares it with others; $1 is the life's tag.
SHARED = (
    "select $1::text",
    "select $1::text, n from generate_series(1, 3) n",
    "insert into tagged values ($1, 7, 'shared') returning tag",
    "select n, tag from tagged where life = $1 order by n",
    "select $1::text, 1 / (n - 2) from generate_series(1, 3) n",
    "select chatter($1)",
    "update tagged set n = n where life = $1",
    "select $1 from nothing",
    "selec",
)
# Of tables that only this life has. No column is a table's own: it would tell the table's number.
OWN_TABLE = (
    "drop table if exists {own} cascade; create table {own} (n int, tag text);"
    " insert into {own} values (1, '{me}');"
    " create function {own}() returns table (n int, tag text) language sql as"
    " $$ select 1, '{me}' $$"
)
RESHAPED = (
    "select * from {own} union all select * from {own} where false",
    "select n + 1, tag || '' from {own}",
    "insert into {own} (tag) values ('{me}') returning tag || ''",
    "update {own} set n = n where tag = '{me}'",
    "select * from {own}()",
)
DDL = (
    "alter table {own} add column more int default 7",
    "alter table {own} drop column n",
    "alter table {own} alter column n type bigint",
    "alter table {own} alter column n type text",
    "alter table {own} rename column tag to label",
    "drop table {own}",
    "drop table if exists {own}; create table {own} (tag text, n int)",
    "create or replace function {own}() returns table (n int, tag text) language sql as"
    " $$ select 2, '{me}' $$",
    "drop function if exists {own}(); create function {own}() returns table (tag text) language sql"
    " as $$ select '{me}' $$",
)
WITHOUT_VALUE = ("begin", "commit", "rollback", "set timezone = 'Asia/Tokyo'", "")
NAMES = ("a", "b", "C d")
BY_NAME = {
    DEALLOCATE: ("deallocate a", 'deallocate prepare "C d";'),
    DEALLOCATE_ALL: ("deallocate all", "discard all"),
}


def allowed(mode: str, *, in_transaction: bool) -> Sequence[str]:
    """The texts that the table lets a client use there."""
    return [
        *_promised(STATEMENTS, mode, in_transaction=in_transaction),
        *_promised(LASTING, mode, in_transaction=False),
    ]


def deallocations(mode: str, *, in_transaction: bool) -> Sequence[str]:
    """For named statements; simple queries only."""
    return _promised(BY_NAME, mode, in_transaction=in_transaction)


def _promised(
    catalogue: Mapping[str, Sequence[str]], mode: str, *, in_transaction: bool
) -> list[str]:
    places = {Promise.ANYWHERE, Promise.IN_TRANSACTION} if in_transaction else {Promise.ANYWHERE}
    return [
        sql for row, texts in catalogue.items() if promise(row, mode) in places for sql in texts
    ]
