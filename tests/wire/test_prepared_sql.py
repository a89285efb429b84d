"""Prepared statements that SQL deallocates, or touches behind our back."""

from __future__ import annotations

import pytest

from poolproxy.wire.by_sql import MOST_PORTALS
from poolproxy.wire.deallocate import ALL, deallocated
from poolproxy.wire.prepared import MAX_OWED
from tests.system.protocol_client import (
    SYNC,
    bind,
    close,
    describe,
    execute,
    message,
    parse,
    query,
    text,
)
from tests.wire.pooled import Backing, Pooled, errors
from tests.wire.prepared_rig import BOUND, DONE, ONE, PARSED, Rig, ready
from tests.wire.prepared_traffic import (
    EXECUTE,
    column,
)

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
        ("DEALLOCATE ALL", ALL),
        ("/* */DEALLOCATE PREPARE\nall; ;", ALL),
        ("discard--\nALL", ALL),
        ("DISCARD PREPARE ALL", None),
        ("DISCARD ALL; select 1", None),
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
    portals = [bind("d", portal=str(n)) for n in range(MOST_PORTALS + 1)]
    client.run(server, b"".join(portals) + SYNC)
    assert len(client.names.portals) == MOST_PORTALS
    assert errors(client.run(server, execute(str(MOST_PORTALS)) + SYNC))
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
    count = MAX_OWED
    steps = bind("a") + EXECUTE + (close("a") + parse("a", "SELECT 1")) * count
    answers = client.run(server, steps + bind("a") + EXECUTE + SYNC)
    codes = "".join(code for code, _ in answers)
    assert codes == "2DC" + "31" * count + "2DCZ"


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
        assert not any(rig.names.statements)  # but the unnamed one, as in PostgreSQL
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
