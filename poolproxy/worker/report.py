"""The worker's metrics, gathered when they are asked for: gauges are counted, never kept."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

from poolproxy.ipc.messages import Snapshot
from poolproxy.metrics.schema import CANCEL_STATES, CLIENT_STATES, SERVER_STATES, STATE_KINDS
from poolproxy.metrics.snapshot import encode
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.relay.guard import pinned_by
from poolproxy.relay.tls import TlsConnection
from poolproxy.worker.worker import Worker

# Pools in one message. Reading 200 takes the acceptor 5 ms, and between two messages it serves others.
ROWS = 200


def report(worker: Worker, request: int) -> None:
    """Send a snapshot; a queue that is full drops it, as nothing hangs on one."""
    if worker.channel.full:
        return
    now = time.monotonic()
    metrics = worker.metrics
    metrics.clients = len(worker.clients) + worker.logging_in
    metrics.clients_logging_in = worker.logging_in
    clients = worker.clients.values()
    metrics.tls_clients = sum(map(_is_encrypted, clients))
    metrics.relayed_clients = len(worker.pumps)
    metrics.tls_servers = sum(
        isinstance(server, TlsConnection)
        for pool in worker.pools.values()
        for server in pool.servers
    )
    metrics.busy = time.process_time()
    metrics.relay_rounds = worker.engine.rounds
    states: dict[Pool, Counter[str]] = {pool: Counter() for pool in worker.pools.values()}
    pinned: dict[Pool, Counter[str]] = {pool: Counter() for pool in worker.pools.values()}
    for client in clients:
        pinned[client.pool][pinned_by(client)] += 1
        state = "active" if client.server else "waiting" if client.wait_since else "idle"
        states[client.pool][state] += 1
    cancels = _cancels(worker)
    closing = Counter(worker.closings.values())
    for pool in worker.pools.values():
        stats = pool.statistics()
        stats.clients = {state: states[pool][state] for state in CLIENT_STATES}
        stats.pinned = {kind: pinned[pool][kind] for kind in STATE_KINDS}
        servers = Counter(server.state for server in pool.servers)
        servers["login"] = pool.opening
        servers["closing"] = closing[pool.key]
        stats.servers = {state: servers[state] for state in SERVER_STATES}
        stats.cancels = {state: cancels[pool][state] for state in CANCEL_STATES}
        stats.cancel_connections = cancels[pool]["connections"]
        since = pool.waiting_since()
        stats.maxwait = now - since if since else 0.0
    changed, dropped = worker.reported.changes(pool.stats for pool in worker.pools.values())
    while len(changed) > ROWS:
        worker.channel.post(Snapshot(0, encode(metrics, changed[:ROWS], dropped)))
        changed, dropped = changed[ROWS:], []
    worker.channel.post(Snapshot(request, encode(metrics, changed, dropped)))
    metrics.loop_lag_max = 0.0


def _is_encrypted(client: Client) -> bool:
    told = client.relayed
    return isinstance(client, TlsConnection) if told is None else told.tls != ""


def _cancels(worker: Worker) -> defaultdict[Pool, Counter[str]]:
    """By pool how many cancel requests of clients wait and are active, and the ``connections`` for all."""
    found: defaultdict[Pool, Counter[str]] = defaultdict(Counter)
    for pool, wish in worker.canceller.queued():
        found[pool]["waiting"] += wish.asked
    for flight in worker.canceller.flights:
        state = "active" if flight.connected else "waiting"
        found[flight.pool][state] += sum(wish.asked for wish in flight.wishes)
        found[flight.pool]["connections"] += flight.connected
    return found
