"""Shared prepared statements: the bytes that go to the server, and what the client gets to see."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial

import attrs
import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.errors import PoolerError
from poolproxy.wire import prepared
from poolproxy.wire.deallocate import deallocated
from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.said import named, without_first
from poolproxy.wire.statements import STAND_IN, Names, Statements, statement_name
from tests.system.protocol_client import (
    FLUSH,
    SYNC,
    TERMINATE,
    bind,
    call,
    close,
    describe,
    execute,
    message,
    parse,
    query,
    text,
)
from tests.wire.prepared_traffic import (
    EXECUTE,
    Answer,
    Verdict,
    ask,
    column,
    compare,
    direct_connections,
    random_batch,
    shown,
    whole_messages,
)

LIMIT = 2**31 - 1
OURS = (
    "select name from pg_prepared_statements"
    f" where name like 'POOLPROXY%' and name <> '{STAND_IN.name.decode()}' order by 1"
)
THEIRS = "select name from pg_prepared_statements where from_sql is false order by 1"

PARSED, BOUND, CLOSED = message("1"), message("2"), message("3")
DONE = message("C", text("SELECT 1"))


def ours(sql: str) -> bytes:
    """What servers know the statement by."""
    return statement_name(sql.encode() + b"\0\0\0", "")


ONE = ours("SELECT 1").decode()


def ready(status: str = "I") -> bytes:
    return message("Z", status.encode())


def error(sqlstate: str, message_text: str, *more: str) -> bytes:
    fields = ("SERROR", f"C{sqlstate}", f"M{message_text}", *more)
    return message("E", b"".join(map(text, fields)) + b"\0")


@attrs.define
class Rig:
    """A client and a server connection, without a server: the test gives the server's answers."""

    limit: int = 10
    names: Names = attrs.field(factory=Names)
    statements: Statements = attrs.field(factory=Statements)
    back: PreparedBackend = attrs.field(init=False)
    raw: bytes = b""
    shown: bytes = b""

    def __attrs_post_init__(self) -> None:
        self.back = PreparedBackend(self.statements, self.limit)

    def send(self, *data: bytes) -> bytes:
        """What the server gets; what the client gets at once is in ``shown``."""
        self.raw += b"".join(data)
        result = self.back.forward(self.names, self.raw, LIMIT)
        self.raw = self.raw[result.used :]
        self.shown += result.answer
        return b"".join(result.out)

    def answer(self, *data: bytes) -> bytes:
        """What the client has got since the last call."""
        shown, self.shown = self.shown, b""
        return shown + b"".join(self.back.feed(piece)[0] for piece in data)

    def prepare(self, name: str, sql: str) -> None:
        """A round trip that leaves the statement prepared."""
        answers = {"P": PARSED, "C": CLOSED, "S": ready()}
        out = self.send(parse(name, sql), SYNC)
        self.answer(*(answers[code] for code, _ in whole_messages(out)))
        assert self.back.at_rest


def sent(data: bytes) -> list[tuple[str, bytes]]:
    """Type and first name of each message to the server."""
    found = []
    for code, body in whole_messages(data):
        start = {"B": body.find(b"\0") + 1, "D": 1, "C": 1}.get(code, 0)
        found.append((code, body[start : body.find(b"\0", start)] if code in "PBDCQ" else b""))
    return found


# -- against PostgreSQL --------------------------------------------------------------------------------


@pytest.fixture
def connect(postgres: PostgresServer) -> Iterator[Callable[[], socket.socket]]:
    """Makes direct connections."""
    with direct_connections(postgres) as make:
        yield make


@attrs.define(eq=False)
class Backing:
    """A server connection, and what the pooler knows of it."""

    sock: socket.socket
    back: PreparedBackend


@attrs.define(eq=False)
class Pooled:
    """A client that gets one of a few servers for each transaction; its bytes come in pieces."""

    choose: random.Random
    names: Names = attrs.field(factory=Names)
    server: Backing | None = None

    def run(self, server: Backing, batch: bytes) -> list[Answer]:
        """As ``ask``, with ``server`` for as long as the transaction lasts."""
        self.server = server
        back, answers, raw, left = server.back, b"", b"", 0
        pieces = list(_cut(self.choose, batch))
        while pieces or back.owed:
            if pieces:
                raw += pieces.pop(0)
            else:
                answers += self._receive(server)
            server.sock.sendall(raw[:left])
            raw, left = raw[left:], max(0, left - len(raw))
            if not left:
                result = back.forward(self.names, raw, LIMIT)
                raw, left = raw[result.used :], result.left
                server.sock.sendall(b"".join(result.out))
                answers += result.answer
        assert not raw
        assert not left
        assert not back.special
        assert not back.unsettled
        assert not self.names.unsettled
        if back.at_rest:
            self.server = None
        return shown(answers)

    def _receive(self, server: Backing) -> bytes:
        data = server.sock.recv(65536)
        assert data, "PostgreSQL has closed the connection"
        return b"".join(server.back.feed(piece)[0] for piece in _cut(self.choose, data))


def _cut(choose: random.Random, data: bytes) -> Iterator[bytes]:
    while data:
        size = choose.choice((1, 7, 50, len(data), len(data)))
        yield data[:size]
        data = data[size:]


@attrs.define(eq=False)
class Differential:
    """Clients on a few shared servers, each beside a direct connection that is sent the same."""

    choose: random.Random
    servers: list[Backing]
    clients: list[tuple[socket.socket, Pooled]]
    status: dict[Pooled, bytes] = attrs.field(factory=dict)

    def step(self) -> None:
        sock, client = self.choose.choice(self.clients)
        server = client.server or self._free_server()
        batch = random_batch(self.choose)
        want, got = ask(sock, batch), client.run(server, batch)
        verdict = compare(want, got, self.status.get(client, b"I"))
        assert verdict is not Verdict.DIFFERENT, (whole_messages(batch), want, got)
        if verdict is Verdict.REFUSED:
            want = self._clean(sock, client, server)
        self.status[client] = want[-1][1]
        self._check_state(sock, client, server)

    def _free_server(self) -> Backing:
        used = [client.server for _, client in self.clients]
        return self.choose.choice([server for server in self.servers if server not in used])

    def _clean(self, sock: socket.socket, client: Pooled, server: Backing) -> list[Answer]:
        for sql in ("ROLLBACK", "DEALLOCATE ALL"):
            answers = ask(sock, query(sql))
            client.run(server, query(sql))
        return answers

    def _check_state(self, sock: socket.socket, client: Pooled, server: Backing) -> None:
        """What is noted of server and client is what PostgreSQL has."""
        if self.status[client] == b"I":
            assert client.server is None
            real = column(ask(server.sock, query(OURS)))
            assert real == sorted(s.name.decode() for s in server.back.prepared)
            mine = sorted(name.decode() for name in client.names.statements if name)
            assert column(ask(sock, query(THEIRS))) in (mine, ["", *mine])


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


@pytest.fixture
def server(connect: Callable[[], socket.socket]) -> Backing:
    """A server connection that keeps many statements."""
    return Backing(connect(), PreparedBackend(Statements(), 100))


@pytest.fixture
def client() -> Pooled:
    """A client without statements."""
    return Pooled(random.Random(1))


def errors(answers: list[Answer]) -> list[bytes]:
    return [body for code, body in answers if code == "E"]


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


# -- DEALLOCATE in SQL ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("DEALLOCATE a", b"a"),
        ("deallocate prepare A;", b"a"),
        ("/* x * y */ -- z\n deallocate\ta -- end\n;;", b"a"),
        ('DEALLOCATE "a ""b"""', b'a "b"'),
        ("DEALLOCATE prepare", b"prepare"),
        ("DEALLOCATE allof", b"allof"),
        ('DEALLOCATE "all"', b"all"),
        ("DEALLOCATE ALL", None),
        ("DEALLOCATE PREPARE ALL", None),
        ("DEALLOCATE", None),
        ("DEALLOCATE a b", None),
        ("DEALLOCATE a; select 1", None),
        ("DEALLOCATE a -- no\n b", None),
        ('DEALLOCATE ""', None),
        ("DEALLOCATEa", None),
        ("/* DEALLOCATE a", None),
        ("/*" + "*" * 5000 + "--" * 5000, None),
    ],
)
def test_which_name_a_text_deallocates(sql: str, name: bytes | None) -> None:
    """Only where the text does nothing else, whatever stands between its words."""
    assert deallocated(text(sql) + b"\0\0") == name


@pytest.mark.parametrize("name", ["", "d"], ids=["unnamed", "named"])
@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("sql", ['DEALLOCATE "C d"', 'deallocate prepare "C d" ;'])
def test_deallocate_in_the_extended_protocol(
    server: Backing, client: Pooled, sql: str, name: str, described: bool
) -> None:
    """It is answered as by PostgreSQL; the name is free then, and not there a second time."""
    deallocate = bind(name) + (describe("", "P") if described else b"") + EXECUTE + SYNC
    client.run(server, parse("C d", "SELECT 1") + SYNC)
    answers = client.run(server, parse(name, sql) + deallocate)
    codes = ["1", "2", *("n" if described else ""), "C", "Z"]
    assert [code for code, _ in answers] == codes
    assert answers[-2] == ("C", b"DEALLOCATE\0")
    again = errors(client.run(server, deallocate if name else parse(name, sql) + deallocate))
    assert again == [b'C26000\0Mprepared statement "C d" does not exist']
    assert not server.back.tainted
    client.run(server, parse("C d", "SELECT 2") + SYNC)
    assert column(client.run(server, bind("C d") + EXECUTE + SYNC)) == ["2"]


def test_deallocate_is_not_rolled_back(server: Backing, client: Pooled) -> None:
    """As in PostgreSQL: the statement is gone after a ROLLBACK, too."""
    client.run(server, parse("a", "SELECT 1") + SYNC + query("BEGIN"))
    client.run(server, parse("", "DEALLOCATE a") + bind("") + EXECUTE + SYNC + query("ROLLBACK"))
    assert not client.names.statements
    assert errors(client.run(server, bind("a") + EXECUTE + SYNC))[0].startswith(b"C26000")


def test_deallocate_that_is_not_reached(server: Backing, client: Pooled) -> None:
    """Behind an error in its segment, and in a failed transaction, it does nothing."""
    deallocate = parse("", "DEALLOCATE a") + bind("") + EXECUTE + SYNC
    client.run(server, parse("a", "SELECT 1") + SYNC)
    assert errors(client.run(server, bind("nothing") + EXECUTE + deallocate))
    client.run(server, query("BEGIN; SELECT 1/0"))
    assert errors(client.run(server, deallocate))[0].startswith(b"C25P02")
    client.run(server, query("ROLLBACK"))
    assert column(client.run(server, bind("a") + EXECUTE + SYNC)) == ["1"]


def test_deallocate_of_a_statement_of_sql(server: Backing, client: Pooled) -> None:
    """What SQL's PREPARE has made in the transaction is deallocated by PostgreSQL itself."""
    client.run(server, parse("other", "SELECT 1") + SYNC + query("BEGIN; PREPARE a AS SELECT 1"))
    assert not errors(client.run(server, parse("", "DEALLOCATE a") + bind("") + EXECUTE + SYNC))
    assert errors(client.run(server, query("EXECUTE a")))[0].startswith(b"C26000")


def test_a_name_that_goes_before_its_deallocation_is_executed(
    server: Backing, client: Pooled
) -> None:
    """A portal is bound to its DEALLOCATE while the name is there: the error names the client's name."""
    client.run(server, parse("a", "SELECT 1") + SYNC)
    answers = client.run(
        server, parse("", "DEALLOCATE a") + bind("", portal="p") + close("a") + execute("p") + SYNC
    )
    assert errors(answers) == [b'C26000\0Mprepared statement "a" does not exist']
    assert not server.back.tainted


def test_deallocations_that_are_bound_are_bounded(server: Backing, client: Pooled) -> None:
    """Of too many portals in a transaction the last are left to PostgreSQL, which knows no such name."""
    client.run(server, parse("a", "SELECT 1") + parse("d", "DEALLOCATE a") + SYNC + query("BEGIN"))
    portals = [bind("d", portal=str(n)) for n in range(prepared.MOST_PORTALS + 1)]
    client.run(server, b"".join(portals) + SYNC)
    assert len(client.names.portals) == prepared.MOST_PORTALS
    assert errors(client.run(server, execute(str(prepared.MOST_PORTALS)) + SYNC))
    client.run(server, query("ROLLBACK"))
    client.run(server, parse("", "SELECT 1") + bind("") + EXECUTE + SYNC)
    assert not client.names.portals
    assert not client.names.unnamed


@pytest.mark.parametrize(
    "sql",
    [
        "do $$ begin execute 'deallocate all'; end $$",
        f'DEALLOCATE "{ONE}"',
        f"do $$ begin execute 'deallocate \"{ONE}\"'; end $$",
    ],
)
def test_names_touched_behind_our_back(server: Backing, client: Pooled, sql: str) -> None:
    """Who deallocates our names makes the next use fail, once: the server is not reused."""
    use = bind("a") + EXECUTE + SYNC
    client.run(server, parse("a", "SELECT 1") + SYNC)
    client.run(server, query(sql))
    assert errors(client.run(server, use))[0].startswith(b"C26000")
    assert server.back.tainted


def test_name_taken_behind_our_back(server: Backing, client: Pooled) -> None:
    """Who takes the name that a statement is to get makes its Parse fail, once: no reuse."""
    client.run(server, query(f'PREPARE "{ONE}" AS SELECT 2'))
    answers = client.run(server, parse("a", "SELECT 1") + SYNC)
    assert errors(answers)[0].startswith(b"C42P05")
    assert server.back.tainted


def test_many_fakes_are_flushed_out(server: Backing, client: Pooled) -> None:
    """A segment with more messages than may be outstanding goes through, and in order."""
    client.run(server, parse("a", "SELECT 1") + SYNC)
    count = prepared.MAX_OWED
    steps = bind("a") + EXECUTE + (close("a") + parse("a", "SELECT 1")) * count
    answers = client.run(server, steps + bind("a") + EXECUTE + SYNC)
    codes = "".join(code for code, _ in answers)
    assert codes == "2DC" + "31" * count + "2DCZ"


# -- what goes to the server ---------------------------------------------------------------------------


def test_same_statement_is_parsed_once() -> None:
    """A statement that the server has is not sent again: ParseComplete is given at once."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    assert rig.send(parse("b", "SELECT 1")) == b""
    assert rig.answer() == PARSED
    assert sent(rig.send(bind("b"), EXECUTE, SYNC)) == [
        ("B", ours("SELECT 1")),
        ("E", b""),
        ("S", b""),
    ]
    counts = rig.statements
    assert (counts.client_parses, counts.server_parses, counts.binds) == (2, 1, 1)


def test_clients_share_a_statement() -> None:
    """What one client has prepared another client uses under its own name."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    rig.names = Names()
    rig.prepare("z", "SELECT 1")
    assert sent(rig.send(describe("z")))[0] == ("D", ours("SELECT 1"))


def test_missing_statement_is_injected() -> None:
    """A server that lacks the statement gets it first; the client sees no ParseComplete."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    rig.back = PreparedBackend(rig.statements, 10)
    assert sent(rig.send(bind("a"), EXECUTE, SYNC))[:2] == [
        ("P", ours("SELECT 1")),
        ("B", ours("SELECT 1")),
    ]
    assert rig.answer(PARSED + BOUND + DONE + ready()) == BOUND + DONE + ready()
    assert rig.back.at_rest


def test_least_recently_used_is_evicted() -> None:
    """Over the limit the statement that was not used for longest is closed, unseen by the client."""
    rig = Rig(limit=2)
    rig.prepare("a", "SELECT 1")
    rig.prepare("b", "SELECT 2")
    rig.send(bind("a"), EXECUTE, SYNC)
    rig.answer(BOUND + DONE + ready())
    out = rig.send(parse("c", "SELECT 3"), SYNC)
    assert sent(out) == [("C", ours("SELECT 2")), ("P", ours("SELECT 3")), ("S", b"")]
    assert rig.answer(CLOSED + PARSED + ready()) == PARSED + ready()
    assert [statement.name for statement in rig.back.prepared] == [
        ours("SELECT 1"),
        ours("SELECT 3"),
    ]


def test_skipped_eviction_is_undone() -> None:
    """An error before the Close of an eviction: the server still has the statement."""
    rig = Rig(limit=1)
    rig.prepare("a", "SELECT 1")
    rig.send(parse("", "bad"), parse("b", "SELECT 2"), SYNC)
    rig.answer(error("42601", "bad") + ready())
    assert [statement.name for statement in rig.back.prepared] == [ours("SELECT 1")]
    assert list(rig.names.statements) == [b"a"]


def test_answers_come_in_order() -> None:
    """ParseComplete and CloseComplete that are ours come between the server's, where they belong."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    out = rig.send(bind("a"), EXECUTE, close("a"), parse("b", "SELECT 1"), bind("b"), SYNC)
    assert [code for code, _ in sent(out)] == ["B", "E", "B", "S"]
    seen = rig.answer(BOUND, DONE, BOUND, ready())
    assert seen == BOUND + DONE + CLOSED + PARSED + BOUND + ready()


def test_fakes_wait_for_the_end_of_a_cut_message() -> None:
    """No answer of ours lands inside a message of the server that comes in pieces."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    rig.send(bind("a"), EXECUTE, close("a"), SYNC)
    answers = BOUND + message("D", bytes(100)) + DONE + ready()
    pieces = [answers[i : i + 1] for i in range(len(answers))]
    assert rig.answer(*pieces) == answers[: -len(ready())] + CLOSED + ready()


def test_failed_transaction_fakes_nothing() -> None:
    """In a failed transaction a Parse goes to the server, which refuses it; the name stays free."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    rig.send(query("x"))
    rig.answer(error("42601", "bad") + ready("E"))
    out = rig.send(parse("b", "SELECT 1"), SYNC)
    assert [code for code, _ in sent(out)] == ["C", "P", "S"]
    refusal = error("25P02", "current transaction is aborted")
    assert rig.answer(CLOSED + refusal + ready("E")) == refusal + ready("E")
    assert list(rig.names.statements) == [b"a"]
    assert not rig.back.prepared


def test_error_frees_the_name() -> None:
    """A Parse that PostgreSQL refuses leaves neither name nor statement behind."""
    rig = Rig()
    rig.send(parse("a", "bad"), describe("a"), SYNC)
    rig.answer(error("42601", "bad") + ready())
    assert not rig.names.statements
    assert not rig.back.prepared
    assert not rig.names.size
    assert rig.back.at_rest


def test_next_segment_waits_for_an_uncertain_name() -> None:
    """What hangs on a Parse of an earlier segment is held back until that is answered."""
    rig = Rig()
    out = rig.send(parse("a", "SELECT 1"), SYNC, bind("a"), EXECUTE, SYNC)
    assert [code for code, _ in sent(out)] == ["P", "S"]
    rig.answer(error("42601", "bad") + ready())
    assert sent(rig.send())[0] == ("B", b"a")


def test_a_sync_that_came_another_way_ends_the_segment() -> None:
    """Behind a Bind of which only the head came here, say: what hangs on a Parse before it waits."""
    rig = Rig()
    rig.send(parse("a", "SELECT 1"))
    rig.back.owe(b"S")
    assert rig.send(query("DEALLOCATE a")) == b""
    rig.answer(error("42601", "bad") + ready())
    assert rig.send() == query("DEALLOCATE a")


def test_large_bind_is_not_kept() -> None:
    """Of a large Bind only its head is looked at; the rest streams through."""
    rig = Rig()
    rig.prepare("a", "SELECT $1")
    whole = bind("a", bytes(1_000_000), portal="p")
    result = rig.back.forward(rig.names, whole[:1000], LIMIT)
    assert (result.used, result.left) == (1000, len(whole) - 1000)
    head = b"".join(result.out)
    assert head + whole[1000:] == bind(ours("SELECT $1").decode(), bytes(1_000_000), portal="p")


@pytest.mark.parametrize("size", range(1, 14))
def test_bind_cut_in_its_head(size: int) -> None:
    """Until the name in a Bind has ended nothing of it is sent."""
    rig = Rig()
    rig.prepare("a", "SELECT $1")
    whole = bind("a", b"1", portal="portal")
    assert rig.send(whole[:size]) == b""
    assert rig.send(whole[size:]) == bind(ours("SELECT $1").decode(), b"1", portal="portal")


def test_portal_named_like_a_statement() -> None:
    """The names of portals are not touched."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    out = rig.send(bind("a", portal="a"), message("D", b"P" + text("a")), message("C", b"Pa\0"))
    assert out.endswith(message("D", b"P" + text("a")) + message("C", b"Pa\0"))
    assert whole_messages(out)[0][1].startswith(b"a\0" + ours("SELECT 1") + b"\0")


@pytest.mark.parametrize("body", [b"", b"S", b"Sa", b"Sa\0x", b"Sa\0\0", b"Xa\0"])
@pytest.mark.parametrize("code", ["C", "D"])
def test_malformed_messages_are_for_the_server(code: str, body: bytes) -> None:
    """A Describe or Close that is not well-formed goes to PostgreSQL as it is."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    assert rig.send(message(code, body)) == message(code, body)
    assert list(rig.names.statements) == [b"a"]


# -- statements that go by SQL -------------------------------------------------------------------------


def _in_two(data: bytes, size: int) -> list[bytes]:
    return [data[:size], data[size:]]


def _in_many(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize("all_gone", ["DEALLOCATE ALL", "DISCARD ALL"])
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("pieces", [2, 99])
def test_all_gone(all_gone: str, extended: bool, pieces: int) -> None:
    """After DEALLOCATE ALL or DISCARD ALL, cut anywhere, neither client nor server has any."""
    tag = message("C", text(all_gone))
    answers = PARSED + BOUND + tag + ready() if extended else tag + ready()
    for size in range(1, len(answers)):
        cut = _in_two if pieces == 2 else _in_many
        rig = Rig()
        rig.prepare("a", "SELECT 1")
        if extended:
            rig.send(parse("", all_gone), bind(""), EXECUTE, SYNC)
        else:
            rig.send(query(all_gone))
        assert rig.answer(*cut(answers, size)) == answers
        assert not rig.names.statements
        assert not rig.back.prepared
        assert rig.back.at_rest


def test_a_value_that_looks_like_a_tag() -> None:
    """Data that looks like the tag of DISCARD ALL deallocates nothing."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    row = message("D", message("C", text("DISCARD ALL")))
    rig.send(query("select x"))
    assert rig.answer(row + DONE + ready()) == row + DONE + ready()
    assert list(rig.names.statements) == [b"a"]


@pytest.mark.parametrize("size", range(1, 16))
def test_deallocate_cut(size: int) -> None:
    """DEALLOCATE of a name that the client has works in two pieces too; nobody else loses it."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    whole = query("DEALLOCATE a")
    out = rig.send(whole[:size]) + rig.send(whole[size:])
    assert b"POOLPROXY_0" in out
    tags = [message("C", text("PREPARE")), message("C", text("DEALLOCATE"))]
    assert rig.answer(*tags, ready()) == tags[1] + ready()
    assert not rig.names.statements
    assert len(rig.back.prepared) == 1


# -- limits --------------------------------------------------------------------------------------------


def test_statement_too_long() -> None:
    """A named statement over MAX_STATEMENT is refused before it has been received."""
    rig = Rig()
    whole = parse("a", " " * prepared.MAX_STATEMENT)
    with pytest.raises(PoolerError, match="longer than"):
        rig.send(whole[:100])


def test_unnamed_statement_may_be_long() -> None:
    """An unnamed statement of any length streams through."""
    whole = parse("", " " * prepared.MAX_STATEMENT)
    assert Rig().send(whole[:100]) == whole[:100]


def test_too_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never closes its statements is refused at MAX_NAMES."""
    monkeypatch.setattr(prepared, "MAX_NAMES", 3)
    rig = Rig()
    for name in "abc":
        rig.prepare(name, "SELECT 1")
    with pytest.raises(PoolerError, match="too many prepared"):
        rig.send(parse("d", "SELECT 1"))


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's statements are bounded in bytes; closed ones no longer count."""
    monkeypatch.setattr(prepared, "MAX_BYTES", 3000)
    rig = Rig()
    rig.prepare("a", " " * 1000)
    for _ in range(5):
        rig.prepare("b", "x" * 1000)
        rig.send(close("b"))
    rig.prepare("b", " " * 1000)
    with pytest.raises(PoolerError, match="too many prepared"):
        rig.send(parse("c", " " * 1000))


def test_what_is_outstanding_is_bounded() -> None:
    """Answers of ours behind one that the server does not flush do not pile up: it is made to flush."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    out = rig.send(bind("a"), (close("a") + parse("a", "SELECT 1")) * prepared.MAX_OWED)
    assert out.endswith(FLUSH)
    assert len(rig.back.owed) == prepared.MAX_OWED


def test_terminate_ends_it() -> None:
    """What comes before Terminate is forwarded; Terminate is not."""
    rig = Rig()
    rig.prepare("a", "SELECT 1")
    result = rig.back.forward(rig.names, bind("a") + EXECUTE + TERMINATE, LIMIT)
    assert result.terminated
    assert [code for code, _ in sent(b"".join(result.out))] == ["B", "E"]


def test_bad_messages_are_refused() -> None:
    """An unknown type or an impossible length is an error here too."""
    rig = Rig()
    for bad in (b"?\0\0\0\4", b"B\0\0\0\3", b"E\0\0\0\3", b"E\xff\xff\xff\xff"):
        with pytest.raises(PoolerError):
            rig.send(bind("nothing"), bad)
        rig.raw = b""


def test_statements_are_forgotten_with_their_last_user() -> None:
    """A text that neither client nor server has any more takes no memory."""
    rig = Rig(limit=1)
    for n in range(5):
        rig.prepare("a", f"SELECT {n}")
        rig.send(close("a"))
        rig.answer()
    assert len(rig.statements) == 1
