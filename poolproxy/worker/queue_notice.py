"""The notice to clients that have waited for query_wait_notify.

What keeps them waiting only the ledger knows, as limits hold over all workers: it is asked when a notice is
due. A waiting client's stream is between two messages, so a NoticeResponse may be put there.
"""

from __future__ import annotations

from time import monotonic

from poolproxy.ipc.messages import WaitReason, WhyWait
from poolproxy.pool.notice import QUEUED, details
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.wire.build import notice_response
from poolproxy.worker.worker import Worker


def ask(worker: Worker, pool: Pool, now: float) -> None:
    """Ask why the pool's clients wait, if one of them is to be told."""
    limit = worker.config.settings.query_wait_notify
    if limit and any(_is_due(client, now - limit) for client in pool.waiting):
        worker.channel.post(WhyWait(pool.key))


def tell(worker: Worker, why: WaitReason) -> None:
    """Send each client its notice, once in a wait."""
    pool = worker.pools.get(why.pool)
    limit = worker.config.settings.query_wait_notify
    if pool is None or not limit:
        return
    now = monotonic()
    for place, client in enumerate(list(pool.waiting), 1):
        if _is_due(client, now - limit):
            client.notified = client.wait_since
            detail, hint = details(place, len(pool.waiting), now - client.wait_since, why)
            client.write(notice_response(QUEUED, detail, hint))


def _is_due(client: Client, since: float) -> bool:
    return client.wait_since <= since and client.notified != client.wait_since
