"""What comes between a server's log-in and its first client."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import attrs

from poolproxy.relay.server import Server
from poolproxy.relay.task import Task

if TYPE_CHECKING:
    from poolproxy.worker.session import Claim

log = logging.getLogger(__name__)


def first_use(server: Server, claim: Claim | None) -> None:
    """Run connect_query, then give the server to the client with this ``claim``, or else to the pool."""

    def use() -> None:
        if claim is None:
            server.pass_on(monotonic())
        else:
            claim.deliver(server, monotonic())

    connect_query = server.pool.settings.connect_query
    if not connect_query or server.endless:
        use()
        return

    def then(errors: int) -> None:
        if errors:
            log.warning("%s connect_query failed: ignored", server.name)
        server.back.state.forget()  # what it has set is there to stay
        use()
        task.used()

    lost = claim.refuse if claim is not None else lambda: None
    task = FirstQuery([connect_query], then, monotonic(), lost=lost)
    server.run(task)


def when_used(server: Server, then: Callable[[], None]) -> None:
    """Do it when somebody has had the chance to use the server: now, or when connect_query is over."""
    if isinstance(server.task, FirstQuery):
        server.task.used = then
    else:
        then()


@attrs.define
class FirstQuery(Task):
    """That of connect_query. ``lost``: the server has ended meanwhile. ``used``: see :func:`when_used`."""

    lost: Callable[[], None] = attrs.field(kw_only=True)
    used: Callable[[], None] = attrs.field(kw_only=True, default=lambda: None)

    def ended(self, server: Server) -> None:
        self.lost()
