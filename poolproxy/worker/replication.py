"""A server of its own for a replication client; see ``relay.replication``.

Unlike a client of session mode it can't do without, so it waits for a permit as clients wait that have a
query. The permit that is granted can't be used for an idle server, so one of these makes way where a limit
might be reached.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import trio

from poolproxy.errors import PoolerError
from poolproxy.relay.context import Pool
from poolproxy.relay.replication import ReplicationServer
from poolproxy.relay.server import Server
from poolproxy.wire.read import ErrorFields
from poolproxy.worker.options import Wishes
from poolproxy.worker.session import Claim, Own
from poolproxy.worker.worker import Worker

REPLICATION, LOGICAL = "replication", "database"
GIVEN_BACK = "given to another worker or pool"


class ReplicationClaim(Claim):
    """What becomes of it says nothing about the pool's ordinary servers."""

    kind = ReplicationServer

    def blames(self, sqlstate: str, from_server: bool) -> bool:
        return from_server

    def refusal(self, fields: ErrorFields) -> PoolerError:
        return PoolerError(
            fields.message,
            sqlstate=fields.sqlstate,
            hint="This is how poolproxy's own log-in to the database server has ended for this replication"
            " connection: the role needs REPLICATION, and pg_hba.conf may need a line for it.",
            reason="server_login_refused",
        )

    def deliver(self, server: Server, now: float) -> None:
        if isinstance(server, ReplicationServer) and not self.over:
            server.logical = self.own.parameters.get(REPLICATION) == LOGICAL
            self.server = server
        else:
            server.pass_on(now)
        self.settled.set()


async def own_server(
    worker: Worker, pool: Pool, client: int, wanted: Wishes, check: Callable[[], object]
) -> ReplicationServer:
    """A server that is opened for this client; waits for it. Raises PoolerError if PostgreSQL refuses it.

    ``check`` raises PoolerError when there is nothing to wait for any more.
    """
    tracker = worker.context.tracker
    parameters = {**wanted.parameters, REPLICATION: wanted.replication}
    own = Own(parameters, tracker.nothing, tracker.nothing)
    since = monotonic()
    while True:
        check()
        claim = worker.claims[client] = ReplicationClaim(own)
        pool.demands[client] = since
        make_way(worker, pool)
        worker.want(pool)
        worker.hurried -= (
            1  # others hurry for it now: the acceptor, and the task that opens the server
        )
        try:
            await claim.settled.wait()
        except trio.Cancelled:
            claim.give_up()
            raise
        finally:
            worker.hurried += 1
            pool.demands.pop(client, None)
            del worker.claims[client]
        if claim.error is not None:
            raise claim.error
        if isinstance(claim.server, ReplicationServer) and not claim.server.closed:
            return claim.server


def next_claim(worker: Worker, pool: Pool) -> Claim | None:
    """Whom a permit of the pool is for, if not for an ordinary server: who waits longest comes first."""
    client = min(pool.demands, key=pool.demands.__getitem__, default=None)
    if client is None or pool.demands[client] > pool.waiting_since():
        return None
    del pool.demands[client]
    return worker.claims[client]


def make_way(worker: Worker, pool: Pool) -> None:
    """Close idle servers for replication clients that still wait for a permit."""
    if pool.demands:
        closing = sum(key == pool.key for key in worker.closings.values())
        for server in pool.resting()[: max(0, len(pool.demands) - closing)]:
            server.end(GIVEN_BACK)


def refuse_all(worker: Worker, pool: Pool, error: PoolerError) -> None:
    """The pool's server can't be logged in to."""
    for client in list(pool.demands):
        worker.claims[client].refuse(error)
