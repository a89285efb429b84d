"""Queries and transactions in the statistics of a pool; one statement alone is counted another way, see
``WorkerPool.singles``.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from poolproxy.metrics.registry import BOUNDS

if TYPE_CHECKING:
    from poolproxy.relay.server import Server


def count_query(server: Server, now: float) -> None:
    """A query of the server has ended."""
    took = now - server.query_since
    server.query_since = 0.0
    stats = server.pool.stats
    stats.query_count += 1
    stats.query_time += took
    stats.query_hist[bisect_left(BOUNDS, took)] += 1


def count_transaction(server: Server, took: float, now: float) -> None:
    """A transaction has ended, and with it the query that still ran."""
    if server.query_since:
        count_query(server, now)
    stats = server.pool.stats
    stats.xact_count += 1
    stats.xact_time += took
    stats.xact_hist[bisect_left(BOUNDS, took)] += 1
