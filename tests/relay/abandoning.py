"""A client that has gone amid its work, for tests of what becomes of its server."""

from __future__ import annotations

from poolproxy.relay.server import Server
from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.harness import Peer, Relay

READY = ready_for_query()
ROW = message(ord("d"), b"copied\n")
COPY = query("copy t from stdin")
BATCH = (
    message(ord("P"), b"\0insert\0\0\0") + message(ord("B"), bytes(8)) + message(ord("E"), bytes(5))
)
PARSED = message(ord("1"), b"")
BOUND = message(ord("2"), b"")


def abandoned(r: Relay, *parts: tuple[bytes, bytes]) -> tuple[Server, Peer]:
    """A server whose client has sent and got these, then left."""
    server, postgres = r.server()
    _, app = r.client()
    for sent, answer in parts:
        app.send(sent)
        assert postgres.receive() == sent
        postgres.send(answer)
    app.close()
    return server, postgres
