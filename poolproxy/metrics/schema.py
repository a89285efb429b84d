"""Every metric of poolproxy: a field here is a metric everywhere.

To add one, add a field and increment it. Snapshots, totals over workers, Prometheus, the
dashboard and docs/metrics.md follow (the last two by running their generators).
"""

# ruff: noqa: RUF009
# (a function call as a default: each is an attrs field with a factory, which ruff can't see)

from __future__ import annotations

import attrs

from poolproxy.metrics.registry import (
    Merge,
    counter,
    gauge,
    histogram,
    info,
    labelled_counter,
    state_gauge,
    time_sum,
)

CLIENT_STATES = ("active", "idle", "waiting")
SERVER_STATES = ("active", "idle", "testing", "being_canceled", "login", "closing")
CANCEL_STATES = ("waiting", "active")
STATE_KINDS = ("set", "listen", "prepare", "cursor", "temp", "load")
WORKER_STATES = ("starting", "ready", "leaving")


@attrs.define(eq=False)
class PoolMetrics:
    """What a worker counts for one pool. The field names are those of PgBouncer's SHOW STATS."""

    database: str
    user: str

    xact_count: int = counter(
        "pool_transactions",
        "Transactions that have ended, committed or not.",
        panel="Transactions",
    )
    query_count: int = counter(
        "pool_queries",
        "Queries that have ended; a pipeline up to its Sync counts as one.",
        panel="Queries",
    )
    bytes_received: int = counter(
        "pool_client_received_bytes",
        "Bytes received from clients, without TLS overhead.",
        unit="bytes",
        panel="Traffic from clients",
    )
    bytes_sent: int = counter(
        "pool_client_sent_bytes",
        "Bytes sent to clients, without TLS overhead.",
        unit="bytes",
        panel="Traffic to clients",
    )
    server_assignment_count: int = counter(
        "pool_server_assignments",
        "Times a client was given a server connection.",
        panel="Server assignments and log-ins",
    )
    client_parse_count: int = counter(
        "pool_client_parses",
        "Named prepared statements that clients have made, in transaction and statement mode.",
        panel="Prepared statements",
    )
    server_parse_count: int = counter(
        "pool_server_parses",
        "Named prepared statements that poolproxy has made on server connections for them.",
        panel="Prepared statements",
    )
    bind_count: int = counter(
        "pool_binds",
        "Binds of named prepared statements that were forwarded to server connections.",
        panel="Prepared statements",
    )
    client_login_count: int = counter(
        "pool_client_logins",
        "Clients that have logged in.",
        panel="Server assignments and log-ins",
    )

    wait_time: float = time_sum("Time clients have waited for a server connection.")
    wait_hist: list[int] = histogram(
        "pool_wait_seconds",
        "Time from a client's need of a server connection to having one.",
        total="wait_time",
        panel="Wait for a server",
    )
    query_time: float = time_sum("Time from the arrival of queries to the end of their replies.")
    query_hist: list[int] = histogram(
        "pool_query_seconds",
        "Time from the arrival of a query to the end of its reply, the wait for a server included.",
        total="query_time",
        panel="Query time",
    )
    xact_time: float = time_sum("Time from the first query of transactions to their end.")
    xact_hist: list[int] = histogram(
        "pool_transaction_seconds",
        "Time from the first query of a transaction to its end, idle time within it included.",
        total="xact_time",
        panel="Transaction time",
    )
    connect_time: float = time_sum("Time spent on connecting to servers and logging in there.")
    connect_hist: list[int] = histogram(
        "pool_server_connect_seconds",
        "Time from connect() to a logged-in server connection; failed attempts are not counted.",
        total="connect_time",
        panel="Server connect time",
    )

    waits_ended_by_moves: int = counter(
        "pool_waits_ended_by_moves",
        "Clients that waited and were served by a server connection that came from another worker.",
        panel="Waits ended by a moved connection",
    )

    errors: dict[str, int] = labelled_counter(
        "pool_errors",
        "Errors that poolproxy itself sent to clients, by the reason.",
        label="reason",
        panel="Errors",
    )
    session_logins: dict[str, int] = labelled_counter(
        "pool_session_logins",
        "Clients that logged in in session mode, by the server connection that they got then: equal (idle,"
        " with the same start-up parameters), opened (for the client), adapted (idle, with others), later"
        " (none).",
        label="server",
        values=("equal", "opened", "adapted", "later"),
        panel="Log-ins in session mode",
    )
    client_disconnects: dict[str, int] = labelled_counter(
        "pool_client_disconnects",
        "Logged-in clients that have gone, by the reason.",
        label="reason",
        panel="Client disconnects",
    )
    server_closes: dict[str, int] = labelled_counter(
        "pool_server_closes",
        "Server connections that have ended, by the reason.",
        label="reason",
        panel="Server closes",
    )
    violations: dict[str, int] = labelled_counter(
        "pool_violations",
        "Messages of servers that broke the protocol, by the kind: unasked (it answers nothing), "
        "unexpected (its type has no place there), malformed. Each has cost its connection.",
        label="kind",
        values=("unasked", "unexpected", "malformed"),
        panel="Protocol violations by servers",
    )
    abandoned: dict[str, int] = labelled_counter(
        "pool_abandoned_work",
        "Clients that went away amid a query or transaction, by what became of the server "
        "connection: reused or closed.",
        label="outcome",
        values=("reused", "closed"),
        panel="Abandoned work",
    )

    state_changes: dict[str, int] = labelled_counter(
        "pool_session_state_changes",
        "Transactions after which a server connection was left with session state, by its kind; "
        "in transaction and statement mode.",
        label="kind",
        values=STATE_KINDS,
        panel="Session state left by clients",
    )
    state_resets: int = counter(
        "pool_session_resets",
        "Times a server connection was cleaned because of it.",
        panel="Session state left by clients",
    )

    clients: dict[str, int] = state_gauge(
        "pool_clients",
        "Logged-in clients: active ones have a server, waiting ones need one.",
        label="state",
        values=CLIENT_STATES,
        panel="Clients by state",
    )
    servers: dict[str, int] = state_gauge(
        "pool_servers",
        "Server connections, from before connect() until PostgreSQL has closed its end. Those in"
        " being_canceled are free, but a cancel request for them is still on its way.",
        label="state",
        values=SERVER_STATES,
        panel="Servers by state",
    )
    cancels: dict[str, int] = state_gauge(
        "pool_cancel_requests",
        "Cancel requests of clients for queries of this pool: waiting ones have no connection to PostgreSQL"
        " yet, active ones wait there until it has acted on them.",
        label="state",
        values=CANCEL_STATES,
        panel="Cancel requests under way",
    )
    cancel_connections: int = gauge(
        "pool_cancel_connections",
        "Connections to PostgreSQL by which a cancel request is sent, for clients or for what clients have"
        " left behind. They count against no limit.",
        panel="Cancel requests under way",
    )
    pinned: dict[str, int] = state_gauge(
        "pool_pinned_clients",
        "Clients that keep their server connection for its session state, by the kind that was first.",
        label="reason",
        values=STATE_KINDS,
        panel="Pinned clients",
    )
    maxwait: float = gauge(
        "pool_max_wait_seconds",
        "How long the client that waits longest has been waiting; 0 if none waits.",
        unit="seconds",
        merge=Merge.MAX,
        panel="Longest present wait",
    )


@attrs.define(eq=False)
class WorkerMetrics:
    """What a worker counts for itself. ``worker`` is its slot, 0 to N-1: a successor takes it over."""

    worker: int

    clients: int = gauge(
        "worker_clients",
        "Client sockets that the worker holds, those logging in included.",
        panel="Clients per worker",
    )
    clients_logging_in: int = gauge(
        "worker_clients_logging_in",
        "Client sockets that have not finished logging in.",
        panel="Clients logging in",
    )
    loop_lag_max: float = gauge(
        "worker_loop_lag_max_seconds",
        "The event loop's greatest delay since the last snapshot.",
        unit="seconds",
        merge=Merge.MAX,
        panel="Greatest event-loop lag",
    )
    loop_lag: float = time_sum("Sum of the event loop's delays.")
    loop_lag_hist: list[int] = histogram(
        "worker_loop_lag_seconds",
        "How much later than asked for the event loop ran a timer.",
        total="loop_lag",
        panel="Event-loop lag",
    )
    busy: float = counter(
        "worker_cpu_seconds",
        "Processor time of the worker, user and system.",
        unit="seconds",
        panel="Worker CPU",
    )
    cancels: dict[str, int] = labelled_counter(
        "worker_cancel_requests",
        "Cancel requests from clients, by their outcome.",
        label="outcome",
        panel="Cancel requests",
    )
    login_failures: dict[str, int] = labelled_counter(
        "worker_login_failures",
        "Clients that could not log in, by the reason. Not by user: the name is the peer's choice.",
        label="reason",
        panel="Log-in failures",
    )
    tls_clients: int = gauge(
        "worker_tls_clients",
        "Logged-in clients whose connection is encrypted.",
        panel="TLS connections",
    )
    relayed_clients: int = gauge(
        "worker_relayed_clients",
        "Logged-in clients whose connection this worker has while another one, the home of their pool, "
        "serves and counts them.",
        panel="Relayed clients",
    )
    tls_servers: int = gauge(
        "worker_tls_servers",
        "Server connections that are encrypted.",
        panel="TLS connections",
    )
    tls_failures: dict[str, int] = labelled_counter(
        "worker_tls_handshake_failures",
        "Clients whose TLS handshake has failed, by the reason: certificate (theirs, or ours to them), "
        "protocol, no_alpn, eof or timeout.",
        label="reason",
        values=("certificate", "protocol", "no_alpn", "eof", "timeout"),
        panel="TLS handshake failures",
    )
    bad_packets: int = counter(
        "worker_bad_packets",
        "Clients closed because what they sent is not PostgreSQL's protocol.",
        panel="Bad packets",
    )
    relay_rounds: int = counter(
        "worker_relay_rounds",
        "Batches of ready sockets that the relay has handled.",
        panel="Relay rounds",
    )


@attrs.define(eq=False)
class LedgerMetrics:
    """What the acceptor's ledger knows of one pool, over all workers, at the time of the scrape."""

    database: str
    user: str

    permits: int = gauge(
        "pool_permits",
        "Server connections that the pool may hold now; PostgreSQL never sees more.",
        panel="Permits against pool_size",
    )
    pool_size: int = gauge(
        "pool_size",
        "The pool's limit on server connections, without its reserve.",
        panel="Permits against pool_size",
    )
    reserve_used: int = gauge(
        "pool_reserve_used",
        "Permits above pool_size, out of the reserve.",
        panel="Reserve used",
    )
    waiting: int = gauge(
        "pool_waiting_clients",
        "Clients for which a worker has asked the ledger for a server connection.",
        panel="Clients waiting at the ledger",
    )


@attrs.define(eq=False)
class ProxyMetrics:
    """What the acceptor counts."""

    accepted: dict[str, int] = labelled_counter(
        "accepted_connections",
        "Client connections accepted, by the listening address.",
        label="listener",
        panel="Accepted connections",
    )
    refused: int = counter(
        "refused_connections",
        "Clients refused because max_client_conn was reached.",
        panel="Refused connections",
    )
    accept_errors: dict[str, int] = labelled_counter(
        "accept_errors",
        "Failed accept() calls, by the error's name.",
        label="error",
        panel="Accept errors",
    )
    clients: int = gauge(
        "clients",
        "Accepted client sockets that are still open, over all workers.",
        panel="Clients against max_client_conn",
    )
    max_client_conn: int = gauge(
        "max_client_conn",
        "The setting max_client_conn.",
        panel="Clients against max_client_conn",
    )
    workers: dict[str, int] = state_gauge(
        "workers",
        "Worker processes by state.",
        label="state",
        values=WORKER_STATES,
        panel="Workers",
    )
    worker_restarts: int = counter(
        "worker_restarts",
        "Workers started in the place of one that had ended.",
        panel="Worker restarts",
    )
    worker_replacements: int = counter(
        "worker_replacements",
        "Workers that were told to go because another one takes their place (worker_max_lifetime).",
        panel="Worker restarts",
    )
    worker_deaths: dict[str, int] = labelled_counter(
        "worker_deaths",
        "Workers that ended without being asked to, by the cause.",
        label="cause",
        values=("exit", "signal", "killed", "silent"),
        panel="Worker deaths",
    )
    server_moves: dict[str, int] = labelled_counter(
        "server_moves",
        "Server connections that a worker has let go for another worker, by the outcome: taken, returned "
        "(nobody needed it any more), refused (by the receiver), lost (the receiver died).",
        label="outcome",
        values=("taken", "returned", "refused", "lost"),
        panel="Server connections that moved",
    )
    server_move_time: float = time_sum("Time server connections were on their way between workers.")
    server_move_hist: list[int] = histogram(
        "server_move_seconds",
        "Time from the arrival of a server connection at the acceptor to the receiver's answer.",
        total="server_move_time",
        panel="Time of a server connection's move",
    )
    permits_granted: int = counter(
        "permits_granted",
        "Permits to hold a server connection that the ledger has given out.",
        panel="Permits",
    )
    permits_returned: int = counter(
        "permits_returned",
        "Permits that have come back, in whatever way.",
        panel="Permits",
    )
    permits_timed_out: int = counter(
        "permits_timed_out",
        "Permits that came back only because server_close_timeout passed; part of the returned ones. "
        "For these PostgreSQL may have seen one connection more than the limit.",
        panel="Permits returned by timeout",
    )
    client_moves: dict[str, int] = labelled_counter(
        "client_moves",
        "Clients that went to another worker, by the outcome: done, refused (they stay where they were) or "
        "lost.",
        label="outcome",
        values=("done", "refused", "lost"),
        panel="Client moves",
    )
    imbalance: float = gauge(
        "worker_imbalance",
        "How busy the busiest worker has been of late, by the mean of all; 1 if they are all the same.",
        panel="Imbalance",
    )
    messages_dropped: int = counter(
        "messages_dropped",
        "Messages between acceptor and workers dropped because a queue was full.",
        panel="Dropped messages",
    )
    build: dict[str, str] = info(
        "build", "The version of poolproxy and Python, and what is compiled.", panel="Build"
    )
    config: dict[str, str] = info(
        "config", "The generation and hash of the configuration in use.", panel="Configuration"
    )
    reload_successful: int = gauge(
        "config_last_reload_successful",
        "1 if the last attempt to load the configuration succeeded, else 0.",
        panel="Last reload successful",
    )
    reload_time: float = gauge(
        "config_last_reload_success_timestamp_seconds",
        "Unix time at which the configuration in use was loaded.",
        unit="seconds",
        panel="Configuration loaded",
    )
    start_time: float = gauge(
        "start_time_seconds",
        "Unix time at which the acceptor started.",
        unit="seconds",
        panel="Started",
    )
    max_fds: int = gauge(
        "max_fds",
        "Open files that the acceptor may have (RLIMIT_NOFILE).",
        panel="File descriptor limit",
    )


CLASSES: tuple[type, ...] = (ProxyMetrics, WorkerMetrics, LedgerMetrics, PoolMetrics)
