"""Session state that clients of transaction and statement mode have left on a server: see
``wire.session_state`` for how it is seen, and the setting ``session_state`` for what is done.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from poolproxy.relay.preparing import PreparingClient
from poolproxy.relay.task import RESET_FAILED, Task
from poolproxy.settings.enums import StatePolicy
from poolproxy.wire.door import Door

if TYPE_CHECKING:
    from poolproxy.relay.client import Client
    from poolproxy.relay.context import Pool
    from poolproxy.relay.server import Server
    from poolproxy.wire.parameters import Tracker, Values

log = logging.getLogger(__name__)

NOT_RESETTABLE = "session state that can't be reset"
# Pairs of an application and a kind of state that are logged for one pool: names come from clients.
MOST_LOGGED = 256


def tracked_names(tracker: Tracker, values: Values) -> frozenset[bytes]:
    """The parameters that PostgreSQL reports and that follow clients, as ``wire.effects`` names them."""
    return frozenset(name.lower().encode() for name, _ in tracker.items(values))


def keeps(server: Server, client: Client) -> bool:
    """Count what the client has left, now that its transaction is over; whether it keeps the server."""
    state, policy = server.back.state, server.pool.settings.session_state
    present = {kind for kind, _ in state.dirt}
    for kind, phrase in state.untold.items():
        if kind in present:
            counts = server.pool.stats.state_changes
            counts[kind] = counts.get(kind, 0) + 1
            _log_once(client, kind, phrase, policy)
    state.untold.clear()
    return policy is StatePolicy.PIN and bool(present)


def pinned_by(client: Client) -> str:
    """The kind of session state for which the client keeps its server; "" if it keeps none for that."""
    pool, server = client.pool, client.server
    if server is None or pool.session_mode or pool.settings.session_state is not StatePolicy.PIN:
        return ""
    return server.back.state.kept


def _log_once(client: Client, kind: str, phrase: str, policy: StatePolicy) -> None:
    values = dict(client.context.tracker.items(client.values))
    application = values.get("application_name", "")
    logged = client.pool.logged_states
    if (application, kind) in logged or len(logged) >= MOST_LOGGED:
        return
    logged.add((application, kind))
    log.warning(
        "%s: application %r leaves session state behind (%s), session_state = %s; logged once",
        client.name,
        application,
        phrase,
        policy.value,
    )


def clean(server: Server, now: float) -> None:
    """Take away what was left, as far as the setting wants that, and pass the server on."""
    state, tracker, pool = server.back.state, server.context.tracker, server.pool
    # A client's RESET has also struck what other clients were given at their start-up.
    forgotten = state.was_reset and bool(tracker.others(server.values))
    allowed = pool.settings.session_state is StatePolicy.ALLOW
    sql = state.cleaning(dirt=not allowed, parameters=forgotten)
    if sql is None:
        server.end(NOT_RESETTABLE)
        return
    if not sql or server.doomed:
        state.forget()
        server.pass_on(now)
        return
    resets = forgotten or (state.resets and not allowed)
    connect_query = pool.settings.connect_query
    again = [connect_query] if connect_query and resets else []  # it may have set parameters

    def then(errors: int) -> None:
        if errors and len(task.queries) == len(again):
            server.end(RESET_FAILED)
            return
        state.forget()
        pool.stats.state_resets += 1
        if resets:
            server.values = tracker.default(server.values)
        server.pass_on(monotonic())

    task = Task([sql, *again], then, now, failure=RESET_FAILED)
    server.run(task)


def client_class(pool: Pool) -> type[PreparingClient]:
    """What a client of transaction or statement mode is made of."""
    # Also where statements are not shared now: a reload can change that.
    return GuardedClient if pool.settings.session_state is StatePolicy.ERROR else PreparingClient


class GuardedClient(PreparingClient):
    """A client whose statements are refused if they would leave session state behind."""

    __slots__ = ("door",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.door = Door(tracked_names(self.context.tracker, self.values))

    def begin(self, early: bytes) -> None:
        super().begin(self._passed(early))

    def received(self, data: bytes) -> None:
        passed = self._passed(data)
        if passed or not data:
            super().received(passed)

    def _passed(self, data: bytes) -> bytes:
        strict = self.pool.settings.session_state is StatePolicy.ERROR
        data = self.door.feed(data, strict=strict)
        if self.door.refused:
            errors = self.pool.stats.errors
            errors["session_state"] = errors.get("session_state", 0) + self.door.refused
            self.door.refused = 0
        return data
