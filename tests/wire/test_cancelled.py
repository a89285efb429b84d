"""Requests that are cancelled before they have begun are answered as PostgreSQL answers errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.wire.build import message, ready_for_query
from poolproxy.wire.cancelled import behind_sync, cancelled

ERROR = message(ord("E"), b"C57014\0\0")
READY = ready_for_query()
SIMPLE = "QF"
EXTENDED = "PBDEC"
SILENT = "Hdcf"


def one(code: str, body: bytes = b"x\0") -> bytes:
    return message(ord(code), b"" if code in "SHc" else body)


def batch(codes: str) -> bytes:
    return b"".join(one(code) for code in codes)


def in_words(answer: bytes) -> str:
    """An answer as E and Z."""
    return answer.replace(ERROR, b"E").replace(READY, b"Z").decode()


@pytest.mark.parametrize(
    ("sent", "answer", "skipping"),
    [
        ("Q", "EZ", False),
        ("F", "EZ", False),
        ("QQ", "EZEZ", False),
        ("PBDES", "EZ", False),
        ("PBESPBES", "EZEZ", False),
        ("PBESQ", "EZEZ", False),
        ("PBE", "E", True),
        ("PBEH", "E", True),
        ("PBEQ", "E", True),
        ("PBEQS", "EZ", False),
        ("CS", "EZ", False),
        ("S", "Z", False),
        ("SS", "ZZ", False),
        ("SPS", "ZEZ", False),
        ("Qdddc", "EZ", False),
        ("Qdf", "EZ", False),
        ("PBESdcS", "EZZ", False),
        ("H", "", False),
    ],
)
def test_each_request_is_refused_in_its_own_form(sent: str, answer: str, skipping: bool) -> None:
    """Simple ones with error and readiness, a batch with one error and readiness at its Sync."""
    found = cancelled(batch(sent), ERROR)
    assert (in_words(found.answer), found.skipping) == (answer, skipping)
    assert found.used == len(batch(sent))


@given(st.text(SIMPLE + EXTENDED + SILENT + "S", max_size=12))
def test_every_request_gets_exactly_one_readiness(codes: str) -> None:
    """PostgreSQL's rule: one for each Sync, and one for each simple request outside of a failed batch."""
    expected, skipping = 0, False
    for code in codes:
        if code == "S":
            expected, skipping = expected + 1, False
        elif code in SIMPLE and not skipping:
            expected += 1
        elif code in EXTENDED:
            skipping = True
    found = cancelled(batch(codes), ERROR)
    assert found.answer.count(READY) == expected
    assert found.skipping == skipping


@given(st.text(SIMPLE + EXTENDED + "S", min_size=1, max_size=6), st.data())
def test_only_whole_messages_are_answered(codes: str, data: st.DataObject) -> None:
    """What is cut is left alone, wherever the cut is; with the rest it is as if it had come at once."""
    whole = batch(codes)
    cut = data.draw(st.integers(0, len(whole)))
    first = cancelled(whole[:cut], ERROR)
    assert first.used <= cut
    if not first.skipping:
        second = cancelled(whole[first.used :], ERROR)
        assert first.answer + second.answer == cancelled(whole, ERROR).answer


@pytest.mark.parametrize("strange", [b"X\0\0\0\4", b"?\0\0\0\4", b"Q\0\0\0\3", b"Q\0\0\0\0"])
def test_what_is_no_request_is_left_to_others(strange: bytes) -> None:
    """Terminate and rubbish end the answer."""
    found = cancelled(one("Q") + strange, ERROR)
    assert (in_words(found.answer), found.used) == ("EZ", len(one("Q")))
    assert behind_sync(one("B") + strange, 0) == (len(one("B")), False)


@given(st.text(SIMPLE + EXTENDED + SILENT, max_size=6), st.data())
def test_a_batch_is_skipped_to_its_sync_in_any_pieces(codes: str, data: st.DataObject) -> None:
    """What is behind the Sync is untouched."""
    whole = batch(codes + "S") + b"rest"
    pieces = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    kept, left, synced = b"", 0, False
    for start, stop in zip([0, *pieces], [*pieces, len(whole)], strict=True):
        piece = kept + whole[start:stop]
        if synced:
            kept = piece
            continue
        position, synced = behind_sync(piece, left)
        left = max(0, position - len(piece))
        kept = piece[position:]
    assert synced
    assert kept == b"rest"
