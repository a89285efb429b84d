"""Shared prepared statements: the bytes that go to the server, and what the client gets to see."""

from __future__ import annotations

import pytest

from poolproxy.errors import PoolerError
from poolproxy.wire import prepared
from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.statements import Names
from tests.system.protocol_client import (
    FLUSH,
    SYNC,
    TERMINATE,
    bind,
    close,
    describe,
    message,
    parse,
    query,
    text,
)
from tests.wire.prepared_rig import (
    BOUND,
    CLOSED,
    DONE,
    LIMIT,
    PARSED,
    Rig,
    error,
    ours,
    ready,
    sent,
)
from tests.wire.prepared_traffic import (
    EXECUTE,
    whole_messages,
)

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
