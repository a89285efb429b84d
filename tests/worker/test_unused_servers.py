"""Servers of sessions that nobody uses, and where they are in others' way."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import attrs
import pytest

from poolproxy.ipc.messages import (
    Blocked,
    Reclaim,
)
from poolproxy.relay.client import Client
from poolproxy.wire.build import query
from poolproxy.worker import leaving
from poolproxy.worker.control import obey
from poolproxy.worker.janitor import tick
from poolproxy.worker.session import unblock
from tests.worker.session_house import POOL, SessionHouse


@pytest.fixture
def h() -> Iterator[SessionHouse]:
    one = SessionHouse()
    yield one
    one.close()


def waiting_client(h: SessionHouse) -> Client:
    client, app = h.client()
    app.send(query("select 1"))
    h.turn()
    return client


def test_unused_servers_make_room_where_a_limit_is_in_the_way(h: SessionHouse) -> None:
    """As many as clients wait, less the connections that come or go already."""
    idlers = [h.idler() for _ in range(4)]
    for _ in range(2):
        waiting_client(h)
    unblock(h.worker, h.pool)
    assert all(idler.server for idler in idlers)
    h.pool.opening += 1
    obey(h.worker, Blocked(POOL, True), [])
    assert [bool(idler.server) for idler in idlers] == [False, True, True, True]
    tick(h.worker, monotonic())
    assert h.pool.stats.server_closes == {"unused": 1}
    h.pool.opening -= 1
    waiting_client(h)
    tick(h.worker, monotonic())
    assert [bool(idler.server) for idler in idlers] == [False, False, False, True]
    obey(h.worker, Blocked(POOL, False), [])
    waiting_client(h)
    tick(h.worker, monotonic())
    assert h.pool.stats.server_closes == {"unused": 3}


def test_unused_servers_make_room_for_connections_of_their_own(h: SessionHouse) -> None:
    """A log-in that waits for a permit, as one for replication does, can't use an idle server either."""
    special, _ = h.session_server({"geqo": "off"})
    idler = h.idler()
    h.pool.demands |= {8: 1.0, 9: 1.0}
    h.worker.want(h.pool)
    obey(h.worker, Blocked(POOL, True), [])
    assert special.closed
    assert idler.server is None
    h.pool.demands.clear()


def test_the_ledger_takes_unused_servers_back(h: SessionHouse) -> None:
    """Idle ones first, then those that nobody uses, then one that becomes free."""
    idlers = [h.idler() for _ in range(2)]
    idle, _ = h.session_server()
    special, _ = h.session_server({"geqo": "off"})
    obey(h.worker, Reclaim(POOL, 3), [])
    assert idle.closed
    assert special.closed
    assert [bool(idler.server) for idler in idlers] == [False, True]
    assert h.pool.reclaim == 0
    obey(h.worker, Reclaim(POOL, 2), [])
    assert h.pool.reclaim == 1


def test_a_reload_replaces_unused_servers_too(h: SessionHouse) -> None:
    """Who has not used the old server need not begin with it."""
    idler = h.idler()
    special, _ = h.session_server({"geqo": "off"})
    h.reload(pool_mode="transaction")
    assert idler.server is None
    assert special.closed
    assert not idler.closed


def test_unused_servers_do_not_delay_the_end(h: SessionHouse) -> None:
    """SIGINT waits for sessions, but not for those that have not begun."""
    idler = h.idler()
    leaving.begin(h.worker, "servers")
    leaving.look(h.worker)
    assert idler.closed
    assert not h.pool.servers


def test_an_unused_client_is_idle(h: SessionHouse) -> None:
    """client_idle_timeout is for it too, whether it has a server or not."""
    idler = h.idler()
    idler.settings = attrs.evolve(idler.settings, client_idle_timeout=5.0)
    h.worker.idle_limits = True
    tick(h.worker, idler.last_activity + 4.9)
    assert not idler.closed
    tick(h.worker, idler.last_activity + 5.1)
    assert idler.closed
