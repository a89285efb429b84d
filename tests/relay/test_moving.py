"""What travels with a server connection, and that nothing of it is lost on the way."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic

import attrs
import msgspec
import pytest

from poolproxy.ipc.messages import CancelKey, Parameter, ServerState
from poolproxy.pool.hosts import Role
from poolproxy.relay.moving import CHANGED, is_quiet, server_of, server_state
from poolproxy.relay.server import Server
from poolproxy.relay.session import SessionServer
from poolproxy.relay.task import Task
from poolproxy.settings.hosts import Host
from poolproxy.wire.build import message, ready_for_query
from poolproxy.wire.effects import SET
from poolproxy.wire.parameters import Tracker
from poolproxy.wire.statements import statement_name
from tests.relay import harness
from tests.relay.harness import DONE, SELECT, SYNC, Peer, Relay, relay

PARSED, BOUND = message(ord("1"), b""), message(ord("2"), b"")
EXECUTE = message(ord("E"), b"\0\0\0\0\0")
CREATED = message(ord("C"), b"SET\0") + ready_for_query()


def parse(name: bytes, sql: bytes) -> bytes:
    return message(ord("P"), name + b"\0" + sql + b"\0\0\0")


def execution(name: bytes) -> bytes:
    return message(ord("B"), b"\0" + name + b"\0" + bytes(6)) + EXECUTE + SYNC


def ours(sql: bytes) -> bytes:
    return statement_name(sql + b"\0\0\0", "")


def moved(server: Server, there: Relay, generation: int = 1) -> Server:
    """The server in the other worker, as its message says; it is in use there as if it had just logged in."""
    assert is_quiet(server)
    sent = server_state(server, 1)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=ServerState)
    assert state == sent
    server.engine.forget(server.fd)
    sock = socket.socket(fileno=socket.dup(server.fd))
    there._sockets.append(sock)  # closed with the rest
    new = server_of(state, sock, there.context, there.pool, generation)
    there.pool.servers.add(new)
    new.watch()
    new.pass_on(monotonic())
    return new


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Relay, Relay]]:
    """Two workers whose clients share prepared statements."""
    monkeypatch.setattr(harness, "MAX_PREPARED", 200)
    with relay() as here, relay() as there:
        yield here, there


def at(peer: Peer, there: Relay) -> Peer:
    """The same far end; its connection is now the other worker's."""
    return Peer(there, peer.sock)


def test_everything_travels(two: tuple[Relay, Relay]) -> None:
    """A server's second state, made where it has come to, equals its first one."""
    here, there = two
    server, postgres = here.server(TimeZone="UTC", application_name="psql")
    server.keep = True
    server.doomed = "for a reason"
    server.address = (socket.AF_INET6, ("::1", 5432, 0, 0))
    _, app = here.client(TimeZone="UTC", application_name="psql")
    app.send(parse(b"a", b"select 1") + SYNC)
    postgres.receive()
    server.doomed = ""
    postgres.send(PARSED + ready_for_query())
    server.doomed = "for a reason"
    server.back.state.take_over({(SET, b"work_mem"): "SET work_mem"}, was_reset=True)
    here.pool.idle.clear()
    before = server_state(server, 1)
    assert before.prepared == (ours(b"select 1"),)
    sock = socket.socket(fileno=socket.dup(server.fd))
    there._sockets.append(sock)
    new = server_of(before, sock, there.context, there.pool, 1)
    assert attrs.evolve(server_state(new, 1), name=before.name) == before
    assert new.name == f"S-{server.permit}: db/ann@127.0.0.1:5432 pid={server.key.pid}"
    assert new.address == server.address
    assert new.expires_at == server.expires_at
    assert new.back.state.marked


def test_a_session_server_travels(two: tuple[Relay, Relay]) -> None:
    """With what it was opened with: whom it suits is decided by that."""
    here, there = two
    sock, _ = here._pair()
    tracker = here.context.tracker
    wish = (*tracker.values({"TimeZone": "UTC"})[:-1], "geqo\0off")
    server = SessionServer(
        here.context,
        sock,
        permit=7,
        keep=False,
        pool=here.pool,
        key=CancelKey(7, b"5678"),
        address=(socket.AF_UNIX, "/nowhere"),
        host=Host("db", 5432),
        role=Role.PRIMARY,
        values=tracker.values({"TimeZone": "UTC"}),
        name="S-7",
        connected_at=monotonic(),
        welcome=(Parameter("TimeZone", "UTC"),),
        wish=wish,
    )
    server.watch()
    server.values = tracker.values({"TimeZone": "CET"})
    new = moved(server, there)
    assert isinstance(new, SessionServer)
    assert (new.welcome, new.wish, new.initial) == (server.welcome, wish, server.initial)
    assert new in there.pool.aside


def test_prepared_statements_of_two_workers_meet(two: tuple[Relay, Relay]) -> None:
    """What the server has is not parsed again, what it lacks is, and no name means two things."""
    here, there = two
    server, postgres = here.server()
    _, app = here.client()
    for sql in (b"select 1", b"select 2"):
        app.send(parse(sql, sql) + SYNC)
        postgres.receive()
        postgres.send(PARSED + ready_for_query())
    _, other = there.server()
    _, guest = there.client()
    for name, sql in ((b"x", b"select 3"), (b"y", b"select 2")):
        guest.send(parse(name, sql) + SYNC)
        assert other.receive() == parse(ours(sql), sql) + SYNC
        other.send(PARSED + ready_for_query())
    other.close()  # from now on it is the one that has come which serves
    postgres = at(postgres, there)
    new = moved(server, there)
    guest.receive()
    guest.send(execution(b"y"))
    assert postgres.receive().startswith(
        message(ord("B"), b"\0" + ours(b"select 2") + b"\0" + bytes(6))
    )
    postgres.send(BOUND + DONE)
    assert guest.receive().endswith(DONE)
    guest.send(execution(b"x"))
    assert postgres.receive().startswith(message(ord("P"), ours(b"select 3") + b"\0select 3\0\0\0"))
    postgres.send(PARSED + BOUND + DONE)
    assert guest.receive().startswith(BOUND)
    names = [statement.name for statement in new.back.prepared]  # type: ignore[attr-defined]
    assert names == [ours(b"select 1"), ours(b"select 2"), ours(b"select 3")]


def test_the_least_recently_used_one_from_elsewhere_is_closed(
    two: tuple[Relay, Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a statement that only the server has its name is known, and that is enough to close it."""
    here, there = two
    there.pool.max_prepared = 1
    server, postgres = here.server()
    _, app = here.client()
    app.send(parse(b"a", b"select 1") + SYNC)
    postgres.receive()
    postgres.send(PARSED + ready_for_query())
    postgres = at(postgres, there)
    moved(server, there)
    _, guest = there.client()
    guest.send(parse(b"b", b"select 2") + SYNC)
    close = message(ord("C"), b"S" + ours(b"select 1") + b"\0")
    assert postgres.receive() == close + parse(ours(b"select 2"), b"select 2") + SYNC


@pytest.mark.parametrize("state", ["active", "transaction", "task", "cancel", "unsent", "closed"])
def test_what_is_not_quiet_stays(two: tuple[Relay, Relay], state: str) -> None:
    """Not while anything is owed, open or under way."""
    here, _ = two
    server, postgres = here.server()
    assert is_quiet(server)
    if state in ("active", "transaction"):
        _, app = here.client()
        app.send(SELECT)
        if state == "transaction":
            postgres.send(message(ord("C"), b"BEGIN\0") + ready_for_query(ord("T")))
    elif state == "task":
        here.pool.idle.clear()
        server.run(Task(["select 1"], lambda errors: None, monotonic()))
    elif state == "cancel":
        server.cancels += 1
    elif state == "unsent":
        server.out = b"x"
    else:
        server.end("closed")
    assert not is_quiet(server)


def test_another_configuration_dooms_it(two: tuple[Relay, Relay]) -> None:
    """A server of an earlier configuration is closed where it comes to, as it is free."""
    here, there = two
    server, _ = here.server()
    new = moved(server, there, generation=2)
    assert new.closed
    assert [end.reason for end in there.host.ends] == [CHANGED]


def test_other_tracked_parameters_doom_it(two: tuple[Relay, Relay]) -> None:
    """Values are told apart by name; a worker that tracks others does not know what this one lacks."""
    here, there = two
    server, _ = here.server(TimeZone="UTC")
    there.context.tracker = Tracker(["IntervalStyle"])
    new = moved(server, there)
    assert dict(there.context.tracker.items(new.values)) == {"TimeZone": "UTC"}
    assert new.closed


@pytest.mark.parametrize("size", [0, 1, 200])
def test_the_message_is_small(two: tuple[Relay, Relay], size: int) -> None:
    """Texts of statements stay behind, so with the most statements by default it fits any channel."""
    here, _ = two
    server, _ = here.server()
    pool = here.pool.shared
    kept = [pool.get(b"select %d" % n + b" " * 10_000) for n in range(size)]
    server.back.prepared.update(dict.fromkeys(kept))  # type: ignore[attr-defined]
    assert len(msgspec.msgpack.encode(server_state(server, 1))) < 1000 + 40 * size


def test_a_statement_of_another_place_is_replaced_when_it_is_superseded(
    two: tuple[Relay, Relay],
) -> None:
    """A client that has prepared it under another search_path than it has now, and comes, changes nothing."""
    _, there = two
    shared, tail = there.pool.shared, b"select * from t\0\0\0"
    statement = shared.get(tail, "first")
    assert shared.known(statement.name, tail, "second") is statement
    shared.supersede([statement])
    assert shared.get(tail, "first") is not statement
