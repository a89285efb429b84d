"""All commands. To add one, write it and name it here: parser, HELP and docs/console.md follow."""

from __future__ import annotations

from collections.abc import Iterator

from poolproxy.admin import command
from poolproxy.admin.command import Call, Order, Show
from poolproxy.admin.orders import ORDERS as _ORDERS
from poolproxy.admin.shows import hosts, nothing, peers, sockets, stats
from poolproxy.admin.shows.config import CONFIG, WORKER_CONFIG
from poolproxy.admin.shows.databases import DATABASES
from poolproxy.admin.shows.help import HELP, PRETENCES
from poolproxy.admin.shows.ledger import LEDGER
from poolproxy.admin.shows.lists import LISTS
from poolproxy.admin.shows.pools import POOLS
from poolproxy.admin.shows.prepared import PREPARED_STATEMENTS
from poolproxy.admin.shows.session_state import SESSION_STATE
from poolproxy.admin.shows.state import STATE, VERSION
from poolproxy.admin.shows.users import USERS
from poolproxy.admin.shows.workers import WORKERS

SHOWS: dict[str, Show] = {
    show.name: show
    for show in (
        *(HELP, CONFIG, DATABASES, sockets.FDS, POOLS, sockets.CLIENTS, sockets.SERVERS),
        *(sockets.SOCKETS, sockets.ACTIVE_SOCKETS, LISTS, USERS, peers.PEERS, peers.PEER_POOLS),
        *(hosts.DNS_HOSTS, nothing.DNS_ZONES, nothing.MEM),
        *(stats.STATS, stats.STATS_TOTALS, stats.STATS_AVERAGES, stats.TOTALS, STATE, VERSION),
        *(WORKERS, WORKER_CONFIG, LEDGER, hosts.HOSTS, PREPARED_STATEMENTS, SESSION_STATE),
        *PRETENCES,
    )
}
ORDERS: dict[str, Order] = {order.verb: order for order in _ORDERS}


def parse(text: str) -> Call | None:
    """The command in ``text``, None if it is empty; raises PoolerError for what is none."""
    return command.parse(text, SHOWS, ORDERS)


def help_text() -> str:
    """What SHOW HELP tells: a line for each command, a tab before it."""
    return "".join(f"\n\t{line}" for line in _lines())


def _lines() -> Iterator[str]:
    names = [show.name for show in SHOWS.values() if not show.hidden]
    for start in range(0, len(names), 6):
        yield "SHOW " + "|".join(names[start : start + 6])
    for order in ORDERS.values():
        yield f"{order.verb} {order.argument.value}".rstrip()
