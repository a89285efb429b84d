"""The server's half, case by case: what conversations in good order don't show."""

from __future__ import annotations

import pytest

from poolproxy.wire import backend as module
from poolproxy.wire.answering import only_notifications
from poolproxy.wire.backend import MAX_PARAMETER_STATUS, Backend, Violation
from poolproxy.wire.build import message, parameter_status, ready_for_query

IN_BLOCK = ready_for_query(ord("T"))
NOTIFICATION = message(ord("A"), b"\0\0\0\1channel\0payload\0")


def answers(codes: str) -> bytes:
    """Server messages by their types; Z is idle."""
    return b"".join(ready_for_query() if c == "Z" else message(ord(c), b"") for c in codes)


def owing(codes: str) -> Backend:
    back = Backend()
    back.owe(codes.encode())
    return back


def feed(back: Backend, codes: str) -> bool:
    return back.feed(answers(codes))[1]


def test_a_fresh_connection_is_at_rest() -> None:
    """Right after log-in a server owes nothing."""
    assert Backend().at_rest


def test_the_shortcut_is_parse_complete_and_bind_complete() -> None:
    """The commonest answer of the extended protocol is recognised by its bytes."""
    assert answers("12") == module._PARSED_AND_BOUND


@pytest.mark.parametrize("codes", ["PDH", "PBEH", "C", "PBE"])
def test_without_sync_a_server_is_not_at_rest(codes: str) -> None:
    """All is answered after Flush, yet PostgreSQL keeps its transaction open until Sync."""
    back = owing(codes)
    replies = {"P": "1", "B": "2", "D": "tT", "E": "C", "C": "3", "H": ""}
    assert not feed(back, "".join(replies[code] for code in codes))
    assert not back.at_rest
    assert not back.owed
    back.owe(b"S")
    assert feed(back, "Z")


def test_a_pipeline_without_sync_behind_a_query_is_not_at_rest() -> None:
    """The Query's ReadyForQuery comes after the extended query was forwarded, and ends only its own."""
    back = owing("Q")
    back.owe(b"PDH")
    assert not feed(back, "CZ1tT")
    back.owe(b"S")
    assert feed(back, "Z")


def test_an_ignored_sync_ends_nothing() -> None:
    """The Sync that was read inside a COPY gets no ReadyForQuery: the one behind CopyDone does."""
    back = owing("PBES")
    feed(back, "12G")
    back.owe(b"dc")
    assert not feed(back, "C")
    back.owe(b"S")
    assert feed(back, "Z")
    assert not back.tainted


def test_a_transaction_keeps_the_server() -> None:
    """At rest only when ReadyForQuery says idle."""
    back = owing("Q")
    assert not back.feed(answers("C") + IN_BLOCK)[1]
    assert back.status == ord("T")


def test_a_query_is_skipped_after_an_error_as_postgresql_does() -> None:
    """ignore_till_sync: a Query and a FunctionCall are not answered either."""
    back = owing("PBE")
    feed(back, "1E")
    back.owe(b"QF")
    assert not back.owed
    assert not back.at_rest
    back.owe(b"S")
    assert feed(back, "Z")


def test_a_failed_copy_that_was_complete_does_not_cost_the_server() -> None:
    """CopyDone and Sync were sent properly before the error came: nothing is in doubt."""
    back = owing("PBE")
    feed(back, "12G")
    back.owe(b"dcS")
    assert feed(back, "EZ")
    assert not back.tainted


@pytest.mark.parametrize("codes", ["PBES", "QS"])
def test_a_copy_that_fails_after_an_early_sync_costs_the_server(codes: str) -> None:
    """Whether the Sync was read inside the COPY can't be known, so one ReadyForQuery more is no
    violation, but nobody else gets this server.
    """
    back = owing(codes)
    feed(back, "12G" if "P" in codes else "G")
    back.owe(b"dcS")
    feed(back, "EZ")
    assert back.tainted
    feed(back, "Z")
    assert back.at_rest


def test_a_tainted_conversation_goes_on_out_of_step() -> None:
    """The ReadyForQuery too many comes when the next Query was sent already; its answers still pass."""
    back = owing("PBES")
    back.feed(answers("12G"))
    back.owe(b"dcS")
    back.feed(answers("E") + IN_BLOCK)
    back.owe(b"Q")
    assert not back.feed(IN_BLOCK)[1]
    assert feed(back, "CZ")


def test_a_client_that_goes_on_without_copydone_has_given_up_its_copy() -> None:
    """A driver that saw the COPY fail sends the next statement, in either protocol."""
    for codes, replies in (("Q", "CZ"), ("PBES", "12CZ"), ("F", "VZ")):
        back = owing("Q")
        assert not feed(back, "GEZ")
        back.owe(codes.encode())
        assert feed(back, replies)


def test_a_client_can_go_on_before_it_knows_that_its_copy_has_failed() -> None:
    """A Query behind CopyData was not read inside the COPY: its answer is still owed."""
    back = owing("Q")
    feed(back, "G")
    back.owe(b"ddQ")
    assert not feed(back, "EZ")
    assert feed(back, "CZ")


def test_a_late_copydone_ends_the_wait_for_it() -> None:
    """After a failed COPY the client is waited for, as its CopyData would reach another server."""
    back = owing("Q")
    assert not feed(back, "GEZ")
    back.owe(b"ddc")
    assert back.at_rest


def test_a_stray_copydone_is_harmless() -> None:
    """PostgreSQL ignores it outside of a COPY, also right before one."""
    back = owing("PBE")
    back.owe(b"cE")
    feed(back, "12CG")
    back.owe(b"cS")
    assert feed(back, "CZ")


@pytest.mark.parametrize(
    ("codes", "replies"),
    [
        ("", "Z"),
        ("", "C"),
        ("", "1"),
        ("Q", "1"),
        ("Q", "2"),
        ("Q", "3"),
        ("S", "C"),
        ("S", "1"),
        ("PBES", "2"),
        ("PBES", "1Z"),
        ("PBES", "C"),
        ("S", "G"),
        ("", "G"),
        ("Q", "W"),
        ("Q", "R"),
        ("Q", "K"),
        ("Q", "v"),
        ("Q", "x"),
        ("Q", "ZZ"),
    ],
)
def test_an_answer_to_nothing_is_a_violation(codes: str, replies: str) -> None:
    """A server out of step is never reused."""
    back = owing(codes) if codes else Backend()
    with pytest.raises(Violation):
        feed(back, replies)


@pytest.mark.parametrize("length", [0, 3])
@pytest.mark.parametrize("code", b"DZSNC")
def test_an_impossible_length_is_a_violation(code: int, length: int) -> None:
    """A length counts itself, so it is four at least."""
    with pytest.raises(Violation):
        owing("Q").feed(bytes((code,)) + length.to_bytes(4, "big") + b"I")


def test_an_error_out_of_the_blue_taints() -> None:
    """PostgreSQL says why it is about to close; the client goes with it, nobody gets the server."""
    back = owing("Q")
    assert not feed(back, "CZE")
    assert not back.at_rest
    assert back.tainted
    assert back.errors == 1


def test_a_parameter_status_is_collected_whole() -> None:
    """However it is cut it is held back, forwarded in one piece, and its body is kept."""
    report = parameter_status("TimeZone", "UTC")
    back = owing("Q")
    forwarded = b"".join(back.feed(bytes((byte,)))[0] for byte in report + answers("CZ"))
    assert forwarded == report + answers("CZ")
    assert back.reports == [b"TimeZone\0UTC\0"]
    assert back.at_rest


def test_a_parameter_status_is_bounded() -> None:
    """What is held back may not grow without end."""
    with pytest.raises(Violation, match="ParameterStatus"):
        owing("Q").feed(b"S" + (MAX_PARAMETER_STATUS + 1).to_bytes(4, "big"))


def test_a_large_row_is_not_held_back() -> None:
    """Bytes of a message that has begun go on as they come; the server is not at rest meanwhile."""
    back = owing("Q")
    row = message(ord("D"), b"x" * 100_000)
    assert back.feed(row[:50_000]) == (row[:50_000], False)
    assert back.feed(row[50_000:]) == (row[50_000:], False)
    assert feed(back, "CZ")


def test_the_status_byte_is_waited_for() -> None:
    """ReadyForQuery without its last byte is held back: it alone says whether the server is free."""
    back = owing("Q")
    assert back.feed(answers("CZ")[:-1]) == (answers("C"), False)
    assert not back.at_rest
    assert back.feed(b"I") == (answers("Z"), True)


def test_an_idle_server_may_send_whole_notifications_only() -> None:
    """Anything else, or a part of one, would be read as the beginning of the next client's answer."""
    assert only_notifications(NOTIFICATION)
    assert only_notifications(NOTIFICATION * 2)
    for size in range(1, len(NOTIFICATION)):
        assert not only_notifications(NOTIFICATION + NOTIFICATION[:size])
    assert not only_notifications(NOTIFICATION + parameter_status("TimeZone", "UTC"))
    assert not only_notifications(answers("N"))
