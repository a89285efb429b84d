"""What auth_query's answer is read as."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.auth.secrets import Md5Secret, PlainSecret
from poolproxy.worker.lookup import LookupFailed, _cells, _secret

HASH = "0" * 32


def row(*cells: bytes | None) -> bytes:
    body = struct.pack("!H", len(cells))
    for cell in cells:
        body += struct.pack("!i", -1) if cell is None else struct.pack("!i", len(cell)) + cell
    return body


@given(st.lists(st.none() | st.binary(max_size=20), max_size=5))
def test_rows_are_read(cells: list[bytes | None]) -> None:
    """Every row comes out as it was put in."""
    assert _cells(row(*cells)) == tuple(cells)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """What is no row raises LookupFailed and nothing else."""
    try:
        cells = _cells(body)
    except LookupFailed:
        return
    assert sum(len(cell or b"") for cell in cells) <= len(body)


def test_what_the_answer_says() -> None:
    """A name with its secret; none, another's name, no secret, a damaged one."""
    assert _secret([(b"joe", b"pw")], "joe") == PlainSecret("pw")
    assert _secret([(b"joe", b"md5" + HASH.encode())], "joe") == Md5Secret(HASH)
    assert _secret([], "joe") is None
    assert _secret([(b"jo", b"pw")], "joe") is None
    assert _secret([(b"joe", None)], "joe") == PlainSecret("")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(b"joe", b"a"), (b"joe", b"b")], "one row of 2"),
        ([(b"joe",)], "one row of 2"),
        ([(b"joe", b"a", b"b")], "one row of 2"),
        ([(None, b"a")], "name is null"),
        ([(b"joe", b"SCRAM-SHA-256$what")], "must look like"),
    ],
)
def test_what_is_no_answer(rows: list[tuple[bytes | None, ...]], words: str) -> None:
    """A query that is wrong is an error, not an unknown user; the error shows no secret."""
    with pytest.raises(LookupFailed, match=words) as caught:
        _secret(rows, "joe")
    assert "what" not in str(caught.value)
