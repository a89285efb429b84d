"""The workers' reports, the acceptor's own counts, and how a scrape gets fresh ones."""

from __future__ import annotations

import hashlib
import logging
import platform
import time

import attrs
import trio

import poolproxy
from poolproxy.acceptor.workers import State, Worker, Workers
from poolproxy.ipc.messages import Collect, PoolKey
from poolproxy.metrics.merge import Totals
from poolproxy.metrics.schema import ProxyMetrics
from poolproxy.metrics.snapshot import decode
from poolproxy.settings.files import LoadedConfig

log = logging.getLogger("poolproxy.acceptor")

# A worker that is busy for longer is shown with its last report, at most a second old.
COLLECT_SECONDS = 0.5


@attrs.define(eq=False)
class Collection:
    """A scrape that waits for these workers' snapshots."""

    missing: set[int]
    complete: trio.Event = attrs.Factory(trio.Event)


class Reports:
    """Totals over all workers that ever were, and what the acceptor itself counts."""

    def __init__(self) -> None:
        self.proxy = ProxyMetrics()
        self.totals = Totals()
        self._collections: dict[int, Collection] = {}
        self._last_request = 0
        self.proxy.start_time = time.time()
        self.proxy.build["version"] = poolproxy.__version__
        self.proxy.build["python"] = platform.python_version()

    def loaded(self, loaded: LoadedConfig, generation: int) -> None:
        """A configuration was put into use."""
        text = f"{loaded.text}\0{loaded.auth_text}".encode()
        self.proxy.config["generation"] = str(generation)
        self.proxy.config["hash"] = hashlib.sha256(text).hexdigest()[:12]
        self.proxy.max_client_conn = loaded.config.settings.max_client_conn
        self.proxy.reload_successful = 1
        self.proxy.reload_time = time.time()

    def snapshot(self, worker: Worker, request: int, data: bytes) -> list[PoolKey]:
        """A worker's report has come, asked for or not. Returns the pools that no worker has any more."""
        unused: list[PoolKey] = []
        try:
            unused = [PoolKey(*name) for name in self.totals.update(worker.number, decode(data))]
        except ValueError as error:
            log.error("%s sent a report that can't be read: %s", worker, error)
        self._arrived(worker.number, request)
        return unused

    def worker_gone(self, worker: Worker) -> None:
        """Keep the counts of the dead; no scrape waits for it."""
        self.totals.retire(worker.number)
        for request in list(self._collections):
            self._arrived(worker.number, request)

    async def collect(self, workers: Workers) -> None:
        """Ask all workers for a report and wait for those that answer soon."""
        asked = [w for w in workers if w.state in (State.READY, State.LEAVING)]
        collection = Collection({worker.number for worker in asked})
        self._last_request += 1
        request = self._last_request
        self._collections[request] = collection
        try:
            for worker in asked:
                self.ask(worker, request)
            with trio.move_on_after(COLLECT_SECONDS):
                if asked:
                    await collection.complete.wait()
        finally:
            del self._collections[request]

    def ask(self, worker: Worker, request: int = 0) -> None:
        """Ask one worker for a report; dropped if its queue is full."""
        if worker.channel.full:
            self.proxy.messages_dropped += 1
        else:
            worker.channel.post(Collect(request))

    def _arrived(self, worker: int, request: int) -> None:
        collection = self._collections.get(request)
        if collection is not None:
            collection.missing.discard(worker)
            if not collection.missing:
                collection.complete.set()
