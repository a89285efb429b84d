"""A client's first named statements beside what takes all statements away, in any pieces, on PostgreSQL."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.relay.harness import Peer, relay
from tests.system.protocol_client import SYNC, bind, execute, parse, query, run
from tests.wire.prepared_traffic import (
    EXECUTE,
    Answer,
    ask,
    column,
    direct_connections,
    shown,
    whole_messages,
)

PREPARING = {"max_prepared_statements": 200}
PATIENCE = 15.0  # seconds

MINE = parse("mine", "select 41")
USE = bind("mine") + EXECUTE + SYNC
ALL = "deallocate all"
FAIL = run("select 1/0")
BATCHES = {
    "next": run(ALL) + MINE + USE + USE,
    "discard": run("discard all") + MINE + USE + USE,
    "query": query("Deallocate All") + MINE + USE + USE,
    "synced": run(ALL) + SYNC + MINE + USE + USE,
    "named": parse("sweep", ALL) + bind("sweep") + EXECUTE + MINE + USE + USE,
    "behind others": run("select 1") + run(ALL) + run("select 2") + MINE + USE + USE,
    "before it": run("select 1") + MINE + run(ALL) + USE + MINE + USE,
    "twice": run(ALL) + MINE + run(ALL) + MINE + USE + USE,
    "bound before": parse("", ALL) + bind("") + MINE + EXECUTE + USE + MINE + USE,
    "parsed before": parse("", ALL) + MINE + bind("") + EXECUTE + USE + MINE + USE,
    "of one": parse("", "deallocate mine") + MINE + bind("") + EXECUTE + USE + MINE + USE,
    "not of one": parse("", "select 1 as deallocate") + MINE + bind("") + EXECUTE + USE + USE,
    "error before": bind("nothing") + run(ALL) + MINE + SYNC + MINE + USE,
    "error between": run(ALL) + FAIL + MINE + SYNC + USE + MINE + USE,
    "error behind": run(ALL) + MINE + FAIL + SYNC + USE + MINE + USE,
    "error, synced": FAIL + SYNC + run(ALL) + MINE + USE + USE,
}
BEGIN, ROLLBACK = query("begin"), query("rollback")
PORTAL = parse("", ALL) + bind("", portal="p")
IN_BLOCK = {
    "block": BEGIN + run(ALL) + MINE + USE + query("commit") + USE,
    "block, synced": BEGIN + run(ALL) + SYNC + MINE + USE + USE + ROLLBACK + USE,
    "block, portal": (BEGIN + PORTAL + SYNC + MINE + execute("p") + USE + ROLLBACK + MINE + USE),
    "failed block": BEGIN + FAIL + SYNC + run(ALL) + MINE + SYNC + ROLLBACK + MINE + USE,
    "begun in it": run("begin") + run(ALL) + MINE + USE + run("commit") + USE,
}


@pytest.fixture(autouse=True)
def _prepared() -> None:
    """In place of the one for every test of the relay: without sharing there is nothing to see."""


@pytest.fixture
def connect(postgres: PostgresServer) -> Iterator[Callable[[], socket.socket]]:
    """Makes direct connections."""
    with direct_connections(postgres) as make:
        yield make


def idle(sock: socket.socket) -> socket.socket:
    """As the relay wants it."""
    sock.setblocking(False)
    return sock


def messages(batch: bytes) -> list[bytes]:
    pieces = []
    for _, body in whole_messages(batch):
        size = len(body) + 5
        pieces.append(batch[:size])
        batch = batch[size:]
    return pieces


def cuts(batch: bytes) -> Iterator[list[bytes]]:
    """Ways to send it."""
    pieces = messages(batch)
    yield [batch]
    yield pieces
    yield [bytes((byte,)) for byte in batch]
    for place in range(1, len(pieces)):
        yield [b"".join(pieces[:place]), b"".join(pieces[place:])]
    for piece in range(len(pieces)):  # amid a message
        before, one, behind = (
            b"".join(pieces[:piece]),
            pieces[piece],
            b"".join(pieces[piece + 1 :]),
        )
        yield [before + one[: len(one) // 2], one[len(one) // 2 :] + behind]


def talk(peer: Peer, pieces: list[bytes]) -> list[Answer]:
    """Send these, each of which the relay reads alone; what is shown."""
    awaited = sum(code in "SQ" for code, _ in whole_messages(b"".join(pieces)))
    data = b""
    for piece in pieces:
        peer.send(piece)
    deadline = monotonic() + PATIENCE
    while monotonic() < deadline:
        peer.relay.engine.turn()
        data += peer.receive()
        if sum(code == "Z" for code, _ in whole_messages(data)) == awaited:
            return shown(data)
    raise AssertionError(f"no more than {whole_messages(data)}")


@pytest.mark.parametrize(
    ("mode", "batch"),
    [
        pytest.param(mode, batch, id=f"{mode}, {name}")
        for mode in ("transaction", "statement")
        for name, batch in {**BATCHES, **(IN_BLOCK if mode == "transaction" else {})}.items()
    ],
)
def test_first_name_beside_what_takes_all_away(
    connect: Callable[[], socket.socket], mode: str, batch: bytes
) -> None:
    """A statement that the server has from another client: what is sent, in whatever pieces, is answered as
    by PostgreSQL itself.
    """
    direct = connect()
    want = ask(direct, batch)
    with relay(PREPARING, {"pool_mode": mode}) as r:
        r.connected(idle(connect()))
        _, other = r.client()
        for pieces in cuts(batch):
            talk(other, [MINE + USE])
            client, app = r.client()
            got = talk(app, pieces)
            assert got == want, pieces
            client.leave("done")
            talk(other, [parse("", "deallocate all") + bind("") + EXECUTE + SYNC])


@pytest.mark.parametrize("before", [b"", MINE + SYNC], ids=["no name", "a name"])
@pytest.mark.parametrize("sql", ["select 7", "select 7 as deallocate"])
def test_unnamed_statement_in_two_pieces(
    connect: Callable[[], socket.socket], before: bytes, sql: str
) -> None:
    """One that is cut amid its Parse, with no Bind before its Sync, follows its client to another server."""
    with relay(PREPARING) as r:
        r.connected(idle(connect()))
        _, app = r.client()
        _, holder = r.client()
        if before:
            talk(app, [before])
        whole = parse("", sql) + SYNC
        talk(app, [whole[:12], whole[12:]])
        talk(holder, [query("begin")])
        r.connected(idle(connect()))
        assert column(talk(app, [bind("") + EXECUTE + SYNC])) == ["7"]
