"""The relay of replication connections."""

from __future__ import annotations

import socket
from time import monotonic

import pytest

from poolproxy.ipc.messages import CancelKey
from poolproxy.relay.replication import (
    ReplicationBackend,
    ReplicationClient,
    ReplicationServer,
    close_all,
)
from poolproxy.settings.hosts import Host
from poolproxy.wire.backend import Violation
from poolproxy.wire.build import message, query, ready_for_query
from tests.relay.harness import DONE, Peer, Relay, relay

COPY_BOTH = message(ord("W"), b"\0\0\0")
DATA = message(ord("d"), b"w" + bytes(40))
STATUS = message(ord("d"), b"r" + bytes(33))
COPY_DONE = message(ord("c"), b"")
ENDED = message(ord("C"), b"COPY 0\0") * 2 + ready_for_query()


def connect(r: Relay, *, lost: bool = False) -> tuple[ReplicationClient, Peer, Peer]:
    """A client that has logged in with a server of its own; ``lost``: that has ended in the meantime."""
    (ours, app), (theirs, postgres) = r._pair(), r._pair()
    server = ReplicationServer(
        r.context,
        theirs,
        permit=1,
        keep=False,
        pool=r.pool,
        key=CancelKey(1, b"5678"),
        address=(socket.AF_UNIX, "/nowhere"),
        host=Host("127.0.0.1", 5432),
        role=None,
        values=r.context.tracker.nothing,
        name="S-1",
        connected_at=monotonic(),
        welcome=(),
        wish=None,
    )
    r.pool.servers.add(server)
    server.watch()
    client = ReplicationClient(
        r.context,
        ours,
        id=1,
        pool=r.pool,
        user="ann",
        key=CancelKey(1, b"1234"),
        values=r.context.tracker.nothing,
        settings=r.config.client("db", "ann"),
        peer="127.0.0.1",
        port=1,
        connected_at=monotonic(),
    )
    if not lost:
        client.have(server)
    client.begin(b"")
    return client, Peer(r, app), Peer(r, postgres)


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_both_sides_copy_at_once(mode: str) -> None:
    """Whatever the order, in any pieces; afterwards commands go on, on the same server."""
    with relay({}, {"pool_mode": mode}) as r:
        client, app, postgres = connect(r)
        server = client.server
        app.send(query("START_REPLICATION 0/0"))
        assert postgres.receive() == query("START_REPLICATION 0/0")
        postgres.send(COPY_BOTH + DATA[:7])
        assert app.receive() == COPY_BOTH + DATA[:7]
        app.send(STATUS[:3])
        postgres.send(DATA[7:])
        app.send(STATUS[3:] + STATUS)
        assert (app.receive(), postgres.receive()) == (DATA[7:], STATUS * 2)
        app.send(COPY_DONE)
        postgres.send(DATA + COPY_DONE + ENDED)
        assert app.receive() == DATA + COPY_DONE + ENDED
        assert server is client.server is not None
        assert server.back.at_rest
        app.send(query("IDENTIFY_SYSTEM"))
        postgres.send(DONE)
        assert app.receive() == DONE
        assert client.server is server
        assert not r.host.ends


@pytest.mark.parametrize("half", [b"", query("IDENTIFY_SYSTEM"), STATUS[:9]])
def test_the_server_ends_with_its_client(half: bytes) -> None:
    """It is nobody else's, whatever it was doing; it is cancelled if it was at work."""
    with relay() as r:
        client, app, _ = connect(r)
        app.send(half)
        assert not client.unused
        waiting, _ = r.client()
        app.close()
        assert [(one.reason, one.busy) for one in r.host.ends] == [
            ("replication client has left", half.startswith(b"Q"))
        ]
        assert not r.pool.idle
        assert waiting.server is None


def test_a_client_whose_server_is_lost_before_it_begins() -> None:
    """It gets no server of the pool's in its place."""
    with relay() as r:
        r.server()
        _, app, _ = connect(r, lost=True)
        assert app.is_closed()
        assert len(r.pool.idle) == 1


def test_all_of_a_pool_can_be_closed() -> None:
    """Their clients are told why; ordinary servers stay."""
    with relay() as r:
        r.server()
        _, app, _ = connect(r)
        close_all(r.pool, "enough")
        assert app.error().message == "enough"
        assert len(r.pool.idle) == 1


def test_what_answers_nothing_is_a_violation() -> None:
    """CopyBothResponse too, and whatever an ordinary server may not send."""
    for code in "WG?":
        with pytest.raises(Violation):
            ReplicationBackend().feed(message(ord(code), b"\0\0\0"))
