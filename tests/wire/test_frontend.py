"""The client's half: where messages begin, and what may go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.errors import PoolerError
from poolproxy.wire.build import message, query
from poolproxy.wire.frontend import (
    ORDINARY,
    Frontend,
    expected_size,
    skip_unanswered,
)

LIMIT = 10_000
SELECT = query("select 1")
MESSAGES = st.lists(
    st.builds(message, st.sampled_from(sorted(ORDINARY)), st.binary(max_size=12)), max_size=6
)


@given(MESSAGES, st.data())
def test_any_chunks_give_the_same_bytes_and_types(sent: list[bytes], data: st.DataObject) -> None:
    """Every byte is forwarded once and in order, and each message is announced with its first bytes."""
    front, stream = Frontend(), b"".join(sent)
    forwarded, types = b"", []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        chunk, found, _ = front.feed(stream[:size], LIMIT)
        forwarded += chunk
        types += found
        stream = stream[size:]
        assert len(front.head) < 5
    assert forwarded == b"".join(sent)
    assert bytes(types) == bytes(one[0] for one in sent)
    assert front.between_messages


def test_half_a_header_is_held_back() -> None:
    """Nobody gets a message's first bytes before its type and length are known."""
    front = Frontend()
    assert front.feed(SELECT + SELECT[:4], LIMIT) == (SELECT, [ord("Q")], b"")
    assert not front.between_messages
    assert front.feed(SELECT[4:], LIMIT) == (SELECT, [ord("Q")], b"")


@pytest.mark.parametrize("length", [0, 3, LIMIT, 2**31 - 1, 2**32 - 1])
def test_an_impossible_length_is_refused(length: int) -> None:
    """Too short, and as long as max_packet_size or longer."""
    with pytest.raises(PoolerError, match="bad packet header") as caught:
        Frontend().feed(b"Q" + length.to_bytes(4, "big"), LIMIT)
    assert "max_packet_size" in caught.value.hint


@pytest.mark.parametrize("code", b"pAZ\0\xff")
def test_an_unknown_type_is_refused(code: int) -> None:
    """Types that a logged-in client can't send, a password's too."""
    with pytest.raises(PoolerError, match="unknown pkt") as caught:
        Frontend().feed(message(code, b""), LIMIT)
    assert f"{code:#04x}" in caught.value.hint


def test_what_follows_terminate_is_ignored() -> None:
    """Terminate is not forwarded, and neither is anything behind it."""
    front = Frontend()
    assert front.feed(SELECT + message(ord("X"), b"") + b"rubbish", LIMIT) == (
        SELECT,
        [ord("Q")],
        b"",
    )
    assert front.terminated


def test_the_size_of_a_message_is_known_from_its_header() -> None:
    """Type, length, body; 0 as long as the header is incomplete."""
    assert expected_size(SELECT) == expected_size(SELECT[:5]) == len(SELECT)
    assert expected_size(SELECT[:4]) == 0


LATE = [message(ord("d"), b"row"), message(ord("c"), b""), message(ord("f"), b"no\0")]


@given(st.lists(st.sampled_from([*LATE, message(ord("H"), b"")])), st.sampled_from([b"", SELECT]))
def test_the_rest_of_a_copy_is_skipped(late: list[bytes], behind: bytes) -> None:
    """CopyData, CopyDone, CopyFail and Flush in any order, and nothing else."""
    assert skip_unanswered(b"".join(late) + behind) == len(b"".join(late))


def test_a_cut_copy_message_is_skipped_to_its_end() -> None:
    """The answer points behind the data: so many bytes are still to come; half a header is kept."""
    assert skip_unanswered(LATE[0][:6]) == len(LATE[0])
    assert skip_unanswered(LATE[1] + b"d\0\0") == len(LATE[1])


def test_a_copy_message_of_impossible_length_is_not_skipped() -> None:
    """It is left for feed to refuse."""
    assert skip_unanswered(b"d\0\0\0\3") == 0
