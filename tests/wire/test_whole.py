"""Whole requests and answers: what is recognised is what the general way would pass unchanged."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poolproxy.errors import PoolerError
from poolproxy.wire.backend import Backend, Violation
from poolproxy.wire.build import message, query, ready_for_query
from poolproxy.wire.frontend import Frontend
from poolproxy.wire.whole import (
    BARE_EXECUTION,
    EXECUTION,
    ONE_QUERY,
    ONE_STATEMENT,
    SMALL,
    Whole,
    answers,
    renamed,
    whole_execution,
    whole_request,
)

LIMIT = 10_000
SELECT = query("select 1")
STATEMENT = b"".join(
    message(ord(code), body)
    for code, body in (
        ("P", b"\0select $1\0\0\0"),
        ("B", b"\0\0" + bytes(6) + b"x"),
        ("D", b"P\0"),
        ("E", b"\0\0\0\0\0"),
        ("S", b""),
    )
)
ROWS = (
    message(ord("T"), b"described"),
    message(ord("D"), b"Z\0\0\0\x05I"),  # data that looks like the end
    message(ord("D"), b"1"),
    message(ord("C"), b"SELECT 2\0"),
    ready_for_query(),
)
PREFIX = message(ord("1"), b"") + message(ord("2"), b"")
BEFORE = {
    ONE_QUERY: b"",
    ONE_STATEMENT: PREFIX,
    EXECUTION: PREFIX[5:],
    BARE_EXECUTION: PREFIX[5:],
}
ANSWERS = {
    whole: before + b"".join(ROWS[whole is BARE_EXECUTION :]) for whole, before in BEFORE.items()
}
# The commonest answers, which are recognised by their end first.
ONE_ROW = {
    whole: before
    + b"".join(ROWS[whole is BARE_EXECUTION : 2])
    + message(ord("C"), b"SELECT 1\0")
    + ready_for_query()
    for whole, before in BEFORE.items()
}
WHOLES = pytest.mark.parametrize("whole", BEFORE, ids=["query", "statement", "execution", "bare"])
KINDS = pytest.mark.parametrize("kinds", [ANSWERS, ONE_ROW], ids=["rows", "row"])
NAMED = message(ord("B"), b"\0name\0" + bytes(6) + b"x")
EXECUTIONS = {EXECUTION: NAMED + STATEMENT[-22:], BARE_EXECUTION: NAMED + STATEMENT[-15:]}

requests = st.lists(
    st.one_of(
        st.builds(message, st.sampled_from(b"PBDESQHXCc"), st.binary(max_size=10)),
        st.sampled_from([SELECT, STATEMENT, STATEMENT[-5:], STATEMENT[-15:]]),
    ),
    max_size=6,
).map(b"".join)
replies = st.lists(
    st.one_of(
        st.sampled_from([*ROWS, PREFIX, message(ord("n"), b""), message(ord("C"), b"SET\0")]),
        st.builds(message, st.sampled_from(b"12TDCnSNAEIsGHt"), st.binary(max_size=8)),
        st.sampled_from([ready_for_query(ord("T")), ready_for_query(ord("E"))]),
    ),
    max_size=8,
).map(b"".join)


def check_request(data: bytes) -> Whole | None:
    """A whole is what Frontend passes on as these very messages, with nothing left over."""
    whole = whole_request(data)
    if whole is not None:
        front = Frontend()
        assert front.feed(data, LIMIT) == (data, list(whole.types), b"")
        assert front.between_messages
        assert not front.terminated
    return whole


def check_answer(data: bytes, whole: Whole) -> bool:
    """An ordinary answer is what brings Backend to rest without a word about anything else."""
    found = answers(data, whole)
    if found:
        back = Backend()
        back.owe(whole.types)
        assert back.feed(data) == (data, found == ord("I"))
        assert back.settled
        assert back.status == found
        assert not any((back.reports, back.tainted, back.errors))
    return bool(found)


def changed(data: bytes, position: int, byte: int) -> bytes:
    return data[:position] + bytes([byte]) + data[position + 1 :]


@given(requests)
@example(SELECT)
@example(STATEMENT)
@example(STATEMENT + STATEMENT[-5:])
def test_a_whole_request_is_what_the_frontend_passes_unchanged(data: bytes) -> None:
    """Whatever is put together."""
    check_request(data)


@given(replies, st.sampled_from(list(BEFORE)))
def test_an_ordinary_answer_is_what_brings_the_backend_to_rest(data: bytes, whole: Whole) -> None:
    """Whatever is put together, with an end that fits."""
    check_answer(data, whole)
    check_answer(data + ROWS[-1], whole)
    check_answer(data + ROWS[-2] + ROWS[-1], whole)


@given(replies, st.sampled_from(list(BEFORE)), st.sampled_from("ITE"))
def test_the_number_of_rows_makes_no_difference(data: bytes, whole: Whole, status: str) -> None:
    """Whatever is put together: a tag that tells of one row, which is tried first, is as good as others."""
    ready = ready_for_query(ord(status))
    for begun in (data, BEFORE[whole] + data, BEFORE[whole] + ROWS[0] + data):
        one, two = (begun + message(ord("C"), b"SELECT %d\0" % n) + ready for n in (1, 2))
        assert answers(one, whole) == answers(two, whole)
        check_answer(one, whole)


@WHOLES
def test_an_answer_of_one_row_is_recognised(whole: Whole) -> None:
    """With its description where one was asked for, and with none where not."""
    assert check_answer(ONE_ROW[whole], whole)
    described = ROWS[0] if whole is BARE_EXECUTION else b""
    assert not check_answer(BEFORE[whole] + described + ROWS[1] + ONE_ROW[whole][-20:], whole)


def test_what_is_recognised() -> None:
    """A Query, and the batch of an unnamed statement in the unnamed portal, all its rows."""
    assert check_request(SELECT) is ONE_QUERY
    assert check_request(STATEMENT) is ONE_STATEMENT


@WHOLES
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1] + ROWS[2:], ROWS[:1] + ROWS[3:]], ids="210")
def test_answers_with_rows_are_recognised(whole: Whole, rows: tuple[bytes, ...]) -> None:
    """Also rows that hold what looks like the end."""
    bare = whole is BARE_EXECUTION
    known = not bare or len(rows) > 3  # without a row or a description it could have made a table
    assert bool(check_answer(BEFORE[whole] + b"".join(rows[bare:]), whole)) == known


def test_a_select_that_makes_a_table_is_not_recognised() -> None:
    """It is answered with SELECT, without rows or a RowDescription."""
    done = message(ord("C"), b"SELECT 1\0") + ready_for_query()
    assert not check_answer(done, ONE_QUERY)
    assert not check_answer(PREFIX + message(ord("n"), b"") + done, ONE_STATEMENT)


def test_answers_without_rows_are_recognised() -> None:
    """Of an INSERT, say: no description in answer to a Query, NoData in answer to a Describe."""
    done = message(ord("C"), b"INSERT 0 1\0") + ready_for_query()
    assert check_answer(done, ONE_QUERY)
    assert check_answer(PREFIX + message(ord("n"), b"") + done, ONE_STATEMENT)
    assert not check_answer(PREFIX + done, ONE_STATEMENT)


@WHOLES
@pytest.mark.parametrize("tag", [b"SET\0", b"BEGIN\0", b"DISCARD ALL\0", b"LISTEN\0", b"\0", b""])
def test_a_tag_without_a_number_is_not_ordinary(whole: Whole, tag: bytes) -> None:
    """It may tell of a change in the session's state, so others must look at it."""
    data = ANSWERS[whole].replace(ROWS[-2], message(ord("C"), tag))
    assert data != ANSWERS[whole]
    assert not check_answer(data, whole)


@WHOLES
@pytest.mark.parametrize(("status", "ordinary"), [("T", True), ("E", False), ("x", False)])
def test_the_transaction_may_be_open_but_not_failed(
    whole: Whole, status: str, ordinary: bool
) -> None:
    """The status is told as it is in ReadyForQuery."""
    data = ANSWERS[whole][:-1] + status.encode()
    assert check_answer(data, whole) is ordinary


@WHOLES
@KINDS
def test_a_part_or_more_than_an_answer_is_not_recognised(
    whole: Whole, kinds: dict[Whole, bytes]
) -> None:
    """Cut at any byte, or with anything behind it or before it."""
    data = kinds[whole]
    for cut in range(len(data)):
        assert not check_answer(data[:cut], whole)
    for more in (b"Z", ready_for_query(), data, message(ord("A"), b"\0\0\0\1a\0b\0")):
        assert not check_answer(data + more, whole)
        assert not check_answer(more + data, whole)


@pytest.mark.parametrize("data", [SELECT, STATEMENT], ids=["query", "statement"])
def test_a_part_or_more_than_a_request_is_not_recognised(data: bytes) -> None:
    """Cut at any byte, or with anything behind it."""
    for cut in range(len(data)):
        assert check_request(data[:cut]) is None
    for more in (b"Q", SELECT, STATEMENT, STATEMENT[-5:]):
        assert check_request(data + more) is None


@pytest.mark.parametrize("data", [SELECT, STATEMENT], ids=["query", "statement"])
def test_a_request_with_a_wrong_byte_is_no_other_request(data: bytes) -> None:
    """Each byte is set to others; what is still recognised the Frontend passes all the same."""
    for position in range(len(data)):
        for byte in (*b"\0\1\3\4\5QPBDESX", 0x7F, 0xFF):
            try:
                check_request(changed(data, position, byte))
            except PoolerError as error:
                raise AssertionError(position, byte) from error


@WHOLES
@KINDS
def test_an_answer_with_a_wrong_byte_is_no_other_answer(
    whole: Whole, kinds: dict[Whole, bytes]
) -> None:
    """Each byte is set to others; what is still recognised the Backend passes all the same."""
    data = kinds[whole]
    for position in range(len(data)):
        for byte in (*b"\0\1\3\4\x0512TDCZSNEIn", 0x7F, 0xFF):
            try:
                check_answer(changed(data, position, byte), whole)
            except Violation as error:
                raise AssertionError(position, byte) from error


def test_a_large_request_takes_the_general_way() -> None:
    """It may be more than max_packet_size."""
    assert whole_request(query("x" * (SMALL - 7))) is ONE_QUERY
    assert whole_request(query("x" * SMALL)) is None


@pytest.mark.parametrize(
    "size", [0, 1000, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 5000]
)
def test_statements_with_parameters_of_any_size_are_recognised(size: int) -> None:
    """Small ones are compared, larger ones unpacked; what is cut or goes on is neither."""
    parameter = size.to_bytes(4, "big") + b"p" * size
    bind = message(ord("B"), b"\0\0\0\0\0\1" + parameter + b"\0\0")
    tail = STATEMENT[STATEMENT.index(b"D\0\0\0\6P") :]
    head = STATEMENT[: STATEMENT.index(b"B\0\0\0")]
    assert check_request(head + bind + tail) is ONE_STATEMENT
    assert check_request(head + bind[:-1] + tail) is None
    assert check_request(head + bind + b"\0" + tail) is None


@pytest.mark.parametrize("kept", ["portal", "name", "rows", "plan"])
def test_only_the_unnamed_batch_for_all_rows_is_one(kept: str) -> None:
    """Portals and statements with names, and a limit of rows, are looked at by others."""
    unlike = {
        "portal": STATEMENT.replace(b"B\0\0\0\x0d\0\0", b"B\0\0\0\x0dp\0"),
        "name": STATEMENT.replace(b"P\0\0\0\x11\0s", b"P\0\0\0\x11ns"),
        "rows": STATEMENT.replace(b"E\0\0\0\t" + bytes(5), b"E\0\0\0\t\0\0\0\0\1"),
        "plan": STATEMENT.replace(b"D\0\0\0\6P", b"D\0\0\0\6S"),
    }[kept]
    assert unlike != STATEMENT
    assert whole_request(unlike) is None


@pytest.mark.parametrize("whole", EXECUTIONS, ids=["execution", "bare"])
def test_executions_of_a_named_statement_are_recognised(whole: Whole) -> None:
    """With the name, which can be changed for another; nothing else changes."""
    data = EXECUTIONS[whole]
    assert whole_execution(data) == (whole, b"name")
    assert renamed(data, whole, b"name", b"n") == data.replace(b"name", b"n").replace(
        b"\x11", b"\x0e", 1
    )
    longer = renamed(data, whole, b"name", b"longer_name")
    assert renamed(longer, whole, b"longer_name", b"name") == data
    assert whole_request(data) is None


@pytest.mark.parametrize("whole", EXECUTIONS, ids=["execution", "bare"])
def test_a_part_or_more_than_an_execution_is_not_recognised(whole: Whole) -> None:
    """Cut, with anything behind it, or with a byte changed that is none of the name or a value."""
    data = EXECUTIONS[whole]
    for cut in range(len(data)):
        assert whole_execution(data[:cut]) is None
    for more in (b"S", SELECT, STATEMENT, data, STATEMENT[-5:]):
        assert whole_execution(data + more) is None
    free = range(6, len(NAMED))
    for position in set(range(len(data))) - set(free):
        for byte in {*b"\0\1\3\4\5QPBDESX", 0x7F, 0xFF} - {data[position]}:
            found = whole_execution(changed(data, position, byte))
            assert found is None, (position, byte)
