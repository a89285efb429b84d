"""Servers for clients of session pools that log in, and what is taken back from those that don't use them.

Such a client is to have a server of its own from the start, so that it can be told the true process id.
It is not worth anybody's wait: who can't have one now logs in without, and gets one when it needs it.
So a log-in waits here only for its turn, as a pool makes one connection attempt at a time, and never in a
longer queue than there are permits to be had.
"""

from __future__ import annotations

from poolproxy.ipc.messages import Blocked
from poolproxy.pool.ledger.news import Sends
from poolproxy.pool.ledger.state import PoolState


def late(pool: PoolState, room: int | None) -> list[tuple[int, int]]:
    """Take all but the first ``room`` out of the queue, each with its worker; None: there is room for all."""
    found = [] if room is None else list(pool.logins.items())[room:]
    for client, _ in found:
        del pool.logins[client]
    return found


def tell_blocked(pool: PoolState, blocked: bool) -> Sends:
    """Tell the workers whose clients wait whether it is a limit that keeps them waiting."""
    waiting = set(pool.wants) if pool.limits.session_mode else set()
    now = waiting if blocked else set()
    # Who has withdrawn its want does not believe in it any more.
    news = {*((worker, True) for worker in now - pool.blocked)}
    news |= {(worker, False) for worker in (pool.blocked - now) & waiting}
    pool.blocked = now
    return [(worker, Blocked(pool.key, state)) for worker, state in sorted(news)]
