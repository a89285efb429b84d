"""Shared prepared statements against PostgreSQL: what the client gets to see."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.said import named, without_first
from poolproxy.wire.statements import Statements
from tests.system.protocol_client import (
    SYNC,
    bind,
    call,
    close,
    describe,
    message,
    parse,
    query,
    text,
)
from tests.wire.pooled import Backing, Differential, Pooled, errors
from tests.wire.prepared_traffic import (
    EXECUTE,
    ask,
    column,
)


@pytest.mark.parametrize("seed", range(48))
def test_answers_are_those_of_a_direct_connection(
    connect: Callable[[], socket.socket], seed: int
) -> None:
    """Random batches on changing servers, with evictions and errors: the same answers as without us."""
    choose = random.Random(seed)
    statements, limit = Statements(), 1 + seed % 3
    servers = [Backing(connect(), PreparedBackend(statements, limit)) for _ in range(3)]
    clients = [(connect(), Pooled(choose)) for _ in range(3)]
    differential = Differential(choose, servers, clients)
    for _ in range(60):
        differential.step()


def test_duplicate_name(server: Backing, client: Pooled) -> None:
    """A second Parse of a name gets PostgreSQL's 42P05 with that name, and the session goes on."""
    client.run(server, parse("mine", "SELECT 1") + SYNC)
    answers = client.run(server, parse("mine", "SELECT 2") + SYNC)
    assert errors(answers) == [b'C42P05\0Mprepared statement "mine" already exists']
    assert not server.back.tainted
    assert column(client.run(server, bind("mine") + EXECUTE + SYNC)) == ["1"]


@pytest.mark.parametrize(
    ("batch", "sqlstate"),
    [
        (parse("mine", "SELECT 2") + SYNC, "42P05"),
        (parse("mine", "selec") + SYNC, "42601"),
        (parse("mine", "SELECT nothing") + SYNC, "42703"),
        (query("SELECT 1/0") + parse("mine", "SELECT 2") + SYNC, "25P02"),
        (query("SELECT 1/0") + parse("mine", "COMMIT") + SYNC, "42P05"),
        (parse("other", "SELECT 3") + parse("mine", "SELECT 2") + bind("") + SYNC, "42P05"),
        (parse("mine", "SELECT 2") + SYNC + bind("other") + SYNC, "26000"),
        (close("mine") + parse("mine", "SELECT 2") + parse("mine", "SELECT 3") + SYNC, "42P05"),
    ],
    ids=["text", "syntax", "column", "failed", "commit", "amid", "unknown", "closed"],
)
def test_duplicate_name_of_a_spoilt_statement(
    connect: Callable[[], socket.socket], client: Pooled, batch: bytes, sqlstate: str
) -> None:
    """The name stays taken on a server that can't be given its statement any more, as on a direct
    connection: in an open transaction, which the error fails, and with any text.
    """
    sock, statements = connect(), Statements()
    one, two = (Backing(connect(), PreparedBackend(statements, 100)) for _ in range(2))
    ask(sock, query("CREATE TABLE spoilt (n int)"))
    make = parse("mine", "SELECT n FROM spoilt") + SYNC
    assert client.run(one, make) == ask(sock, make)
    ask(sock, query("DROP TABLE spoilt"))
    steps = query("BEGIN") + batch + query("SELECT 4") + query("ROLLBACK")
    answers = client.run(two, steps)
    assert answers == ask(sock, steps)
    *_, refused, after = errors(answers)
    assert refused.startswith(b"C" + sqlstate.encode())
    assert after.startswith(b"C25P02")
    assert not two.back.tainted
    again = close("mine") + parse("mine", "SELECT 5") + bind("mine") + EXECUTE + SYNC
    assert column(client.run(two, again)) == ["5"]


PARSE_USE = parse("mine", "SELECT 2") + bind("mine") + EXECUTE + SYNC


@pytest.mark.parametrize("sql", ["DISCARD ALL", " deallocate/**/all;"])
@pytest.mark.parametrize("name", ["", "sweeps"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", SYNC + PARSE_USE),
        (b"", PARSE_USE),
        (b"", SYNC + bind("mine") + EXECUTE + SYNC + PARSE_USE),
        (parse("new", "SELECT 3"), bind("new") + SYNC),
        (b"", SYNC + bind("") + SYNC + PARSE_USE),
        (query("BEGIN") + query("SELECT 1/0"), SYNC + query("ROLLBACK") + PARSE_USE),
        (bind("nothing") + SYNC, SYNC + PARSE_USE),
    ],
    ids=["next segment", "same segment", "gone", "new", "unnamed stays", "refused", "error"],
)
def test_names_wait_for_what_takes_all_away(
    connect: Callable[[], socket.socket],
    server: Backing,
    client: Pooled,
    sql: str,
    name: str,
    before: bytes,
    after: bytes,
) -> None:
    """In the extended protocol, amid a pipeline: what follows meets names as on a direct connection."""
    sock = connect()
    make = parse("mine", "SELECT 1") + SYNC
    assert client.run(server, make) == ask(sock, make)
    batch = before + parse(name, sql) + bind(name) + EXECUTE + after
    assert client.run(server, batch) == ask(sock, batch)
    assert not server.back.tainted


def test_unknown_name(server: Backing, client: Pooled) -> None:
    """A name that was never prepared gets PostgreSQL's 26000 with that name."""
    answers = client.run(server, bind("nothing") + EXECUTE + SYNC)
    assert errors(answers) == [b'C26000\0Mprepared statement "nothing" does not exist']
    assert not server.back.tainted


@pytest.mark.parametrize("name", ['with "quotes"', "Ümläut", "with space", "x" * 63, "'", "S"])
def test_odd_names(connect: Callable[[], socket.socket], client: Pooled, name: str) -> None:
    """Any name can be prepared, used, deallocated by SQL, and is then unknown."""
    server = Backing(connect(), PreparedBackend(Statements(), 100))
    quoted = name.replace('"', '""')
    use = bind(name) + EXECUTE + SYNC
    assert column(client.run(server, parse(name, "SELECT 1") + SYNC + use)) == ["1"]
    answers = client.run(server, query(f'DEALLOCATE "{quoted}"'))
    assert answers == [("C", b"DEALLOCATE\0"), ("Z", b"I")]
    assert errors(client.run(server, use))[0].startswith(b"C26000")


def test_parameter_types_make_another_statement(server: Backing, client: Pooled) -> None:
    """The same text with other parameter types is another statement on the server."""
    for name, oid in (("number", 23), ("word", 25)):
        body = text(name) + text("SELECT pg_typeof($1)") + struct.pack("!HI", 1, oid)
        client.run(server, message("P", body) + SYNC)
    for name, kind in (("number", "integer"), ("word", "text")):
        answers = client.run(server, bind(name, b"1") + EXECUTE + SYNC)
        assert column(answers) == [kind]
    assert len(server.back.prepared) == 2


@pytest.fixture
def owner(connect: Callable[[], socket.socket]) -> Iterator[Callable[[str], object]]:
    """Runs SQL on a connection of its own, about the table ``planned``."""
    sock = connect()
    ask(sock, query("create table planned as select 1 as one"))
    try:
        yield lambda sql: ask(sock, query(sql))
    finally:
        ask(sock, query("drop table planned"))


@pytest.fixture
def widen(owner: Callable[[str], object]) -> Callable[[], object]:
    """Alters the table ``planned``."""
    return partial(owner, "alter table planned add two int default 2")


def test_cached_plan_does_not_stick(
    server: Backing, client: Pooled, widen: Callable[[], object]
) -> None:
    """Where DDL has spoilt a plan the client gets PostgreSQL's error, and then the statement a new one."""
    use = bind("all") + EXECUTE + SYNC
    client.run(server, parse("all", "SELECT * FROM planned") + SYNC + use)
    widen()
    assert errors(client.run(server, use))[0].startswith(b"C0A000")
    assert not errors(client.run(server, use))
    assert not server.back.tainted
    assert len(client.names.statements) == 1


@pytest.mark.parametrize("knows_what_failed", [True, False])
def test_who_was_told_the_columns_learns_of_the_change(
    server: Backing, widen: Callable[[], object], knows_what_failed: bool
) -> None:
    """Each client that described the statement gets PostgreSQL's error once, whoever had it before."""
    use = bind("all") + describe("", "P") + EXECUTE + SYNC
    clients = [Pooled(random.Random(seed)) for seed in range(3)]
    for each in clients:
        each.run(server, parse("all", "SELECT * FROM planned") + describe("all") + SYNC + use)
    widen()
    for each in clients:
        server.back.names = each.names
        server.back.said = use if knows_what_failed else None
        assert errors(each.run(server, use))[0].startswith(b"C0A000")
        assert not errors(each.run(server, use))
    assert not server.back.tainted


def test_what_has_been_done_is_not_asked_for_again() -> None:
    """Of a pipeline only its first segment can be repeated, and that only from its first Bind on."""
    use = bind("all") + describe("", "P") + EXECUTE + SYNC
    assert without_first(use, 0) == use
    assert without_first(parse("all", "SELECT 1") + use, 1) == use
    for before in (query("INSERT"), use, call(1258)):
        assert without_first(before + use, 0) is None
    assert named(use, 2) == (b"all", True)
    assert named(bind("all") + EXECUTE + SYNC, 1) == (b"all", True)
    assert named(bind("x") + EXECUTE + bind("all") + EXECUTE + SYNC, 1) == (b"all", False)


@pytest.fixture
def other(connect: Callable[[], socket.socket], server: Backing) -> Backing:
    """Another server connection of the same pool."""
    return Backing(connect(), PreparedBackend(server.back.pool, 100))


CHANGES = {
    "columns": ("SELECT * FROM planned", "alter table planned add two int default 2"),
    "names": ("SELECT * FROM planned", "alter table planned rename one to uno"),
    "type": ("SELECT one FROM planned", "alter table planned alter one type text"),
    "parameter": (
        "SELECT 'x' FROM planned WHERE one = $1",
        "alter table planned alter one type text",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("is_there", [False, True])
def test_who_was_told_the_columns_gets_no_others_elsewhere(
    server: Backing,
    other: Backing,
    client: Pooled,
    owner: Callable[[str], object],
    change: str,
    is_there: bool,
) -> None:
    """A statement that another server connection knows otherwise, or only since the DDL, is refused there as
    by PostgreSQL: the transaction has failed; the client sees it once.
    """
    sql, ddl = CHANGES[change]
    values = (b"1",) if "$1" in sql else ()
    use = bind("all", *values) + EXECUTE + SYNC
    client.run(server, parse("all", sql) + describe("all") + SYNC + use)
    owner(ddl)
    if is_there:
        Pooled(random.Random(2)).run(other, parse("its", sql) + SYNC)
    answers = client.run(other, query("BEGIN") + use)
    assert errors(answers)[0].startswith(b"C0A000\0Mcached plan must not change result type")
    assert answers[-1] == ("Z", b"E")
    client.run(other, query("ROLLBACK"))
    assert not errors(client.run(other, use))
    assert not errors(client.run(other, close("all") + parse("all", sql) + SYNC + use))
    assert not other.back.tainted


def test_who_was_told_the_columns_gets_the_same_elsewhere(
    server: Backing, other: Backing, client: Pooled, owner: Callable[[str], object]
) -> None:
    """A table that was made anew with the same columns is no other one; a server is asked once."""
    use = bind("all") + EXECUTE + SYNC
    client.run(server, parse("all", "SELECT * FROM planned") + describe("all") + SYNC)
    owner("drop table planned; create table planned as select 7 as one")
    assert column(client.run(other, use + use)) == ["7", "7"]
    assert len(set(other.back.prepared.values())) == 1
    assert other.back.prepared == server.back.prepared


def test_who_was_told_the_columns_waits_for_a_table_in_vain(
    server: Backing, other: Backing, client: Pooled, owner: Callable[[str], object]
) -> None:
    """Where the column is gone by then the client gets its error, and the rest of its batch is skipped."""
    use = bind("all") + EXECUTE
    client.run(server, parse("all", "SELECT one FROM planned") + describe("all") + SYNC)
    owner("alter table planned rename one to uno")
    answers = client.run(other, use + use + SYNC + query("SELECT 5"))
    assert [code for code, _ in answers] == ["E", "Z", "T", "D", "C", "Z"]
    assert errors(answers)[0].startswith(b"C42703")


def test_who_prepares_anew_gets_a_new_plan_everywhere(
    connect: Callable[[], socket.socket],
    server: Backing,
    client: Pooled,
    widen: Callable[[], object],
) -> None:
    """After one error and a Parse no server connection refuses the statement any more."""
    make, use = parse("all", "SELECT * FROM planned") + describe("all") + SYNC, bind("all")
    servers = [
        server,
        *(Backing(connect(), PreparedBackend(server.back.pool, 9)) for _ in range(2)),
    ]
    client.run(server, make)
    for each in servers:
        client.run(each, use + EXECUTE + SYNC)
    widen()
    assert errors(client.run(server, use + EXECUTE + SYNC))[0].startswith(b"C0A000")
    client.run(server, close("all") + make)
    for each in servers:
        assert not errors(client.run(each, use + EXECUTE + SYNC))
