"""SHOW CLIENTS, SERVERS, SOCKETS, ACTIVE_SOCKETS and FDS: each worker makes the rows of its connections."""

from __future__ import annotations

import attrs

from poolproxy.admin.column import Type, column, columns_of
from poolproxy.admin.command import Show


@attrs.frozen
class Connection:
    """A client or a server connection."""

    type: str = column(Type.TEXT, "C for a client, S for a server.")
    user: str = column(
        Type.TEXT, "The user that the client has logged in as, or the server is used as."
    )
    database: str = column(Type.TEXT, "The database, as clients call it.")
    replication: str = column(Type.TEXT, "none, logical or physical.")
    state: str = column(
        Type.TEXT, "active, waiting or idle for a client; active, tested or idle for a server."
    )
    addr: str = column(
        Type.TEXT, "The address of the client, or of PostgreSQL; unix for a Unix socket."
    )
    port: int = column(Type.INT, "The port there.")
    local_addr: str = column(Type.TEXT, "The address on this side.")
    local_port: int = column(Type.INT, "The port on this side.")
    connect_time: str = column(Type.TEXT, "When the connection was made.")
    request_time: str = column(Type.TEXT, "When the last request came.")
    wait: int = column(Type.INT, "How long a waiting client has waited, in seconds.")
    wait_us: int = column(Type.INT, "Its microseconds.")
    close_needed: bool = column(Type.INT, "1 if the server is closed when it is free.")
    ptr: str = column(Type.TEXT, "The name of the connection in the log.")
    link: str = column(
        Type.TEXT, "The name of the server or client that it is linked with; else empty."
    )
    remote_pid: int = column(
        Type.INT, "The process id of a client at the Unix socket, or of the backend."
    )
    tls: str = column(Type.TEXT, "Version and cipher of TLS; else empty.")
    application_name: str = column(Type.TEXT, "The client's application_name, or the server's now.")
    prepared_statements: int = column(Type.INT, "Named prepared statements that it has.")
    id: int = column(Type.INT, "The number of the connection: of clients for KILL_CLIENT.")


@attrs.frozen
class Socket(Connection):
    """The same, with what is kept of its data."""

    recv_pos: int = column(Type.INT, "Bytes that are kept of a client without a server.")
    pkt_pos: int = column(Type.INT, "Always 0.", default=0)
    pkt_remain: int = column(Type.INT, "Bytes to come of the message that is half way through.")
    send_pos: int = column(Type.INT, "Always 0.", default=0)
    send_remain: int = column(Type.INT, "Bytes that the kernel has not taken yet.")
    pkt_avail: int = column(Type.INT, "Always 0.", default=0)
    send_avail: int = column(Type.INT, "Always 0.", default=0)


@attrs.frozen
class Descriptor:
    """A file descriptor of a client or a server. Secrets are not shown."""

    fd: int = column(Type.INT, "The descriptor's number in its worker.")
    task: str = column(Type.TEXT, "client or server.")
    user: str = column(Type.TEXT, "The user.")
    database: str = column(Type.TEXT, "The database.")
    addr: str = column(Type.TEXT, "The address of the other side.")
    port: int = column(Type.INT, "The port there.")
    cancel: int = column(Type.BIGINT, "Always 0: cancel keys are not shown.", default=0)
    link: int = column(
        Type.INT, "The descriptor of the server or client that it is linked with, 0 if none."
    )
    client_encoding: str | None = column(Type.TEXT, "The parameter's value.")
    std_strings: str | None = column(Type.TEXT, "The value of standard_conforming_strings.")
    datestyle: str | None = column(Type.TEXT, "The parameter's value.")
    timezone: str | None = column(Type.TEXT, "The parameter's value.")
    password: str | None = column(Type.TEXT, "Always NULL.", default=None)
    scram_client_key: str | None = column(Type.BYTES, "Always NULL.", default=None)
    scram_server_key: str | None = column(Type.BYTES, "Always NULL.", default=None)


CLIENTS = Show(
    "CLIENTS", columns_of(Connection), "The clients that have logged in, this console included."
)
SERVERS = Show("SERVERS", columns_of(Connection), "The server connections that are logged in.")
SOCKETS = Show("SOCKETS", columns_of(Socket), "Both, with what is kept of their data.")
ACTIVE_SOCKETS = Show("ACTIVE_SOCKETS", columns_of(Socket), "Those that are not idle.")
FDS = Show(
    "FDS",
    columns_of(Descriptor),
    "The file descriptors. PgBouncer's -R takes them over; poolproxy only lists them.",
    admin_only=True,
)
