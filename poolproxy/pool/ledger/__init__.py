"""Who may hold how many server connections, over all workers. Pure; runs in the acceptor."""

from poolproxy.pool.ledger.books import LimitsOf, UnknownPermit
from poolproxy.pool.ledger.coming import Connections
from poolproxy.pool.ledger.ledger import Ledger
from poolproxy.pool.ledger.limits import Blocker, PoolLimits
from poolproxy.pool.ledger.news import Sends
from poolproxy.pool.ledger.state import PoolStatistics

__all__ = [
    "Blocker",
    "Connections",
    "Ledger",
    "LimitsOf",
    "PoolLimits",
    "PoolStatistics",
    "Sends",
    "UnknownPermit",
]
