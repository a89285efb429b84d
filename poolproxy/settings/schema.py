"""The settings of the proxy itself: table [poolproxy].

The class is the table: reading, the sample file, the reference and every message are derived
from these fields. Names, meanings and defaults are PgBouncer's (https://www.pgbouncer.org/config.html)
unless the text says otherwise. Attributes hold times in seconds and sizes in bytes.
"""

from __future__ import annotations

import attrs

from poolproxy.settings.sections.authentication import Authentication
from poolproxy.settings.sections.client_tls import ClientTls
from poolproxy.settings.sections.clients import Clients
from poolproxy.settings.sections.listening import Listening
from poolproxy.settings.sections.network import Network
from poolproxy.settings.sections.operation import Operation
from poolproxy.settings.sections.pools import Pools
from poolproxy.settings.sections.processes import Processes
from poolproxy.settings.sections.server_tls import ServerTls
from poolproxy.settings.sections.servers import Servers


# attrs puts the fields of the last base first.
@attrs.frozen(kw_only=True)
class Settings(
    Operation,
    Network,
    ServerTls,
    ClientTls,
    Authentication,
    Clients,
    Servers,
    Pools,
    Processes,
    Listening,
):
    """Table [poolproxy]."""
