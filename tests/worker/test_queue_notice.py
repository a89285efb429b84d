"""Clients that wait long are told so, once in a wait."""

from __future__ import annotations

import socket
from time import monotonic

from poolproxy.ipc.messages import WaitReason, WhyWait
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.wire.read import MessageReader
from poolproxy.worker.control import obey
from poolproxy.worker.janitor import tick
from tests.worker.house import House, house

SELECT = query("select 1")
DONE = message(ord("C"), b"SELECT 1\0") + ready_for_query()


def asked(h: House) -> int:
    return sum(isinstance(heard, WhyWait) for heard in h.heard())


def answer(h: House) -> None:
    obey(h.worker, WaitReason(h.pool.key, "pool_size", 1, "", 2), [])


def notices(app: socket.socket) -> list[str]:
    """The DETAILs of the notices that have come, which are all that has come."""
    try:
        data = app.recv(1 << 16)
    except BlockingIOError:
        return []
    reader = MessageReader(1 << 16)
    reader.feed(data)
    found = []
    while (received := reader.next_message()) is not None:
        code, body = received
        assert code == ord("N")
        fields = {chr(item[0]): item[1:].decode() for item in body.split(b"\0") if item}
        assert (fields["S"], fields["C"]) == ("NOTICE", "00000")
        assert fields["M"] == (
            "No server connection available in postgres backend, client being queued"
        )
        found.append(fields["D"])
    return found


def test_a_client_hears_of_its_wait_once() -> None:
    """When the time is up and the ledger has said why; who came later hears later."""
    with house({"query_wait_notify": "5s"}) as h:
        first, first_app = h.client(SELECT)
        second, second_app = h.client(SELECT)
        h.heard()
        tick(h.worker, first.wait_since + 4)
        assert asked(h) == 0
        now = monotonic()
        first.wait_since = now - 5
        tick(h.worker, now)
        assert asked(h) == 1
        answer(h)
        (detail,) = notices(first_app)
        assert "number 1 of 2" in detail
        assert "pool_size (1)" in detail
        assert notices(second_app) == []
        tick(h.worker, now + 1)
        assert asked(h) == 0
        second.wait_since = now - 6
        tick(h.worker, now + 1)
        assert asked(h) == 1
        answer(h)
        assert notices(first_app) == []
        assert "number 2 of 2" in notices(second_app)[0]


def test_each_wait_has_its_own_notice() -> None:
    """A client that was served and waits again is told again."""
    with house({"query_wait_notify": "5s"}) as h:
        client, app = h.client(SELECT)
        client.wait_since = monotonic() - 5
        tick(h.worker, monotonic())
        answer(h)
        assert len(notices(app)) == 1
        server, postgres = h.server()
        assert client.server is server
        holder, _ = h.client(SELECT)
        postgres.send(DONE)
        h.turn()
        app.recv(1000)
        assert holder.server is server
        app.send(SELECT)
        h.turn()
        client.wait_since = monotonic() - 5
        answer(h)
        assert len(notices(app)) == 1


def test_who_has_been_served_meanwhile_hears_nothing() -> None:
    """The ledger's answer came too late."""
    with house({"query_wait_notify": "5s"}) as h:
        client, app = h.client(SELECT)
        client.wait_since = monotonic() - 5
        tick(h.worker, monotonic())
        assert asked(h) == 1
        h.server()
        answer(h)
        assert notices(app) == []


def test_zero_tells_nobody() -> None:
    """query_wait_notify = 0."""
    with house({"query_wait_notify": 0}) as h:
        client, app = h.client(SELECT)
        client.wait_since = monotonic() - 50
        tick(h.worker, monotonic())
        assert asked(h) == 0
        answer(h)
        assert notices(app) == []
