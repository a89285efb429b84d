"""Where clients come in."""

from __future__ import annotations

import attrs

from poolproxy.settings.addresses import LISTEN_HOSTS, MODE, PORT, SOCKET_DIR
from poolproxy.settings.enums import Reload
from poolproxy.settings.field import setting
from poolproxy.settings.values import BOOLEAN, TEXT, count

# What has room in a cancel key, see wire.peering.
MOST_PEER_ID = 0x3FFF


@attrs.frozen(kw_only=True, slots=False)
class Listening:
    """Where clients come in."""

    listen_addr: tuple[str, ...] = setting(
        ("127.0.0.1",),
        section="Listening",
        ini_default=(),
        parse=LISTEN_HOSTS,
        doc='TCP addresses to listen on; "*" is every address, an empty list is no TCP. In a '
        "pgbouncer.ini the default is none.",
    )
    listen_port: int = setting(
        6432,
        parse=PORT,
        doc="TCP port, and the number in the name of the Unix socket.",
    )
    listen_backlog: int = setting(
        128,
        parse=count(1, 65535),
        doc="Connections that the kernel keeps ready for the accept loop.",
    )
    so_reuseport: bool = setting(
        False,
        parse=BOOLEAN,
        reload=Reload.RESTART,
        doc="Let other instances listen on the same TCP addresses and port (SO_REUSEPORT); the kernel "
        "shares the clients out. Each instance has limits of its own, and peer_id lets cancel requests "
        "find the right one. It takes no more than one instance to use all cores.",
    )
    peer_id: int = setting(
        0,
        parse=count(0, MOST_PEER_ID),
        reload=Reload.NEW,
        doc="Number of this instance in a group of which [peers] has the others: cancel requests that "
        "reach the wrong one are passed on. 0 is no group.",
    )
    tcp_defer_accept: bool = setting(
        False,
        ini_default=True,
        parse=BOOLEAN,
        reload=Reload.RESTART,
        doc="Let the kernel keep TCP connections back until their first bytes have come, so that silent ones "
        "cost nothing. In a pgbouncer.ini it is the default.",
    )
    unix_socket_dir: str = setting(
        "/tmp",
        parse=SOCKET_DIR,
        doc='Folder of the Unix socket to listen on, "" for none. Databases without a host are '
        "looked for here, too.",
    )
    unix_socket_mode: int = setting(
        0o777,
        parse=MODE,
        doc="Access mode of the Unix socket.",
    )
    unix_socket_group: str = setting(
        "",
        parse=TEXT,
        doc='Group that owns the Unix socket; "" leaves it to the system.',
    )
