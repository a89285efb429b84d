"""TCP, and what of the protocol can be set."""

from __future__ import annotations

import attrs

from poolproxy.settings.enums import Reload
from poolproxy.settings.field import setting
from poolproxy.settings.values import (
    BOOLEAN,
    PARAMETERS,
    Plain,
    count,
    seconds,
    size,
    whole_seconds,
)

# What Linux accepts in TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT (tcp(7), linux/tcp.h).
MOST_KEEPALIVE_SECONDS = 32767
MOST_KEEPALIVE_PROBES = 127


@attrs.frozen(kw_only=True, slots=False)
class Network:
    """TCP, and what of the protocol can be set."""

    tcp_keepalive: bool = setting(
        True,
        section="TCP",
        parse=BOOLEAN,
        reload=Reload.NEW,
        doc="Let the kernel probe idle connections of clients and servers.",
    )
    tcp_keepidle: int = setting(
        0,
        parse=whole_seconds(MOST_KEEPALIVE_SECONDS),
        reload=Reload.NEW,
        doc="Idle time before the first probe; 0 is the system's default.",
    )
    tcp_keepintvl: int = setting(
        0,
        parse=whole_seconds(MOST_KEEPALIVE_SECONDS),
        reload=Reload.NEW,
        doc="Time between probes; 0 is the system's default.",
    )
    tcp_keepcnt: int = setting(
        0,
        parse=count(0, MOST_KEEPALIVE_PROBES),
        reload=Reload.NEW,
        doc="Probes without answer until a connection is given up; 0 is the system's default.",
    )
    tcp_user_timeout: float = setting(
        0.0,
        parse=seconds(plain=Plain.MILLISECONDS),
        reload=Reload.NEW,
        doc="How long sent data may stay unacknowledged; 0 is the system's default. A bare "
        'number counts seconds as everywhere, but milliseconds in a pgbouncer.ini: 5000 is "5s".',
    )
    tcp_socket_buffer: int = setting(
        0,
        parse=size(most=2**30),
        reload=Reload.NEW,
        doc="Size of the kernel's send and receive buffers; 0 is the system's default.",
    )
    max_packet_size: int = setting(
        2**31 - 1,
        section="Protocol",
        parse=size(least=1024),
        reload=Reload.NEW,
        doc="Longest message that is let through; a longer one ends the connection.",
    )
    disable_pqexec: bool = setting(
        False,
        parse=BOOLEAN,
        reload=Reload.NEW,
        doc="Disconnect clients that send a simple query, which may have several statements in it: that "
        "makes some ways of SQL injection impossible. Only clients that use nothing but the extended "
        "protocol work then; psql and replication are not among them.",
    )
    track_extra_parameters: tuple[str, ...] = setting(
        ("IntervalStyle",),
        parse=PARAMETERS,
        reload=Reload.RESTART,
        doc="Session parameters that follow a client from server to server, beyond DateStyle, "
        "client_encoding, TimeZone, standard_conforming_strings and application_name. Only "
        "parameters that PostgreSQL reports can be followed after the start-up.",
    )
    ignore_startup_parameters: tuple[str, ...] = setting(
        (),
        parse=PARAMETERS,
        reload=Reload.NEW,
        doc="Start-up parameters to drop instead of applying them, such as extra_float_digits. "
        "options in this list drops all inside options that is not tracked.",
    )
    application_name_add_host: bool = setting(
        False,
        parse=BOOLEAN,
        reload=Reload.NEW,
        doc="Add the client's address to its application_name.",
    )
