"""DataRows that are passed by dozens: always where one by one would end."""

from __future__ import annotations

from struct import pack, unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.wire.build import message
from poolproxy.wire.rows import AHEAD, TOGETHER, past_rows

ROW, DONE = ord("D"), b"C\0\0\0\x0dSELECT 1\0"


def one_by_one(data: bytes, position: int) -> int:
    while position + 5 <= len(data):
        code, length = unpack_from(">BI", data, position)
        if code != ROW:
            break
        position += length + 1
    return position


def rows(*sizes: int) -> bytes:
    return b"".join(message(ROW, bytes([65 + size % 26]) * size) for size in sizes)


runs = st.lists(
    st.tuples(
        st.integers(0, 40), st.sampled_from([1, 2, 3, AHEAD, AHEAD + 2, TOGETHER, 3 * TOGETHER])
    ),
    min_size=1,
    max_size=6,
)


@given(
    runs=runs, behind=st.sampled_from([b"", DONE, b"D", b"D\0\0\0", b"C\0"]), cut=st.integers(0, 60)
)
def test_runs_of_rows_end_where_they_would_one_by_one(
    runs: list[tuple[int, int]], behind: bytes, cut: int
) -> None:
    """Rows of equal and different sizes, cut anywhere, with something behind and something before them."""
    data = b"xyz" + rows(*(size for size, count in runs for _ in range(count))) + behind
    data = data[: max(3, len(data) - cut)]
    assert past_rows(data, 3) == one_by_one(data, 3)


@given(data=st.binary(max_size=400), size=st.integers(4, 12))
def test_what_is_no_row_is_found_amid_what_looks_like_rows(data: bytes, size: int) -> None:
    """A header that differs in one byte only ends the run, wherever the byte is."""
    row = b"D" + pack(">I", size) + b"v" * (size - 4)
    whole = bytearray(row * (2 * TOGETHER))
    for at, byte in enumerate(data):
        if byte < 3:
            whole[(at * 37) % len(whole)] = byte
    assert past_rows(bytes(whole), 0) == one_by_one(bytes(whole), 0)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_an_impossible_length_ends_the_rows(length: int) -> None:
    """No run is made of it, and it is left to who knows what to do with such a server."""
    bad = b"D" + pack(">I", length)
    assert past_rows(rows(*([7] * 100)) + bad * 50, 0) < 100 * 12 + 50 * 5
    assert past_rows(bad * 50, 0) <= 2 * (length + 1)
