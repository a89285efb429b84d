"""Reading and building single messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.errors import PoolerError
from poolproxy.wire import build, read


@given(
    st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=20)), max_size=5),
    st.binary(max_size=4),
    st.data(),
)
def test_messages_are_cut_out_of_any_chunks(
    sent: list[tuple[int, bytes]], rest: bytes, data: st.DataObject
) -> None:
    """The reader gives what was sent, and keeps what follows."""
    reader, found = read.MessageReader(100), []
    stream = b"".join(build.message(code, body) for code, body in sent) + rest
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        stream = stream[size:]
        while (one := reader.next_message()) is not None:
            reader.put_back(one)
            assert reader.next_message() == one
            found.append(one)
    assert found == sent
    assert reader.rest() == rest


@pytest.mark.parametrize("length", [0, 3, 101, 2**31 - 1])
def test_the_reader_bounds_messages(length: int) -> None:
    """A length below four or above the limit is refused by the header."""
    reader = read.MessageReader(100)
    reader.feed(b"R" + length.to_bytes(4, "big"))
    with pytest.raises(PoolerError, match="bad packet header"):
        reader.next_message()


def test_an_error_response_has_all_that_the_pooler_knows() -> None:
    """Severity twice, as PostgreSQL does it for translated ones, SQLSTATE, text and hint."""
    data = build.error_response(PoolerError("no\0 way", sqlstate="08006", hint="try again"))
    assert data == build.message(ord("E"), b"SFATAL\0VFATAL\0C08006\0Mno way\0Htry again\0\0")
    assert b"H" not in build.error_response(PoolerError("no"))


def test_error_fields_prefer_the_untranslated_severity() -> None:
    """V is never translated; the first of two equal fields counts."""
    fields = read.error_fields(b"SFEHLER\0VERROR\0C42601\0Mnein\0Mja\0\0")
    assert fields == read.ErrorFields("ERROR", "42601", "nein")
    assert read.error_fields(b"SFEHLER\0\0").severity == "FEHLER"


@given(st.binary(max_size=40))
def test_error_fields_take_anything(body: bytes) -> None:
    """A hostile server's error has a severity, a SQLSTATE and a message all the same."""
    fields = read.error_fields(body)
    assert all((fields.severity, fields.sqlstate, fields.message))


def test_parameter_status_round_trips() -> None:
    """Name and value; other shapes are refused."""
    assert read.parameter_status(build.parameter_status("TimeZone", "ü")[5:]) == ("TimeZone", "ü")
    for broken in (b"", b"a", b"a\0", b"a\0b", b"a\0b\0c", b"a\0b\0\0"):
        with pytest.raises(PoolerError, match="broken ParameterStatus"):
            read.parameter_status(broken)


def test_backend_key_takes_short_and_long_secrets() -> None:
    """Four bytes in protocol 3.0, up to 256 in 3.2."""
    for secret in (b"1234", b"x" * 256):
        assert read.backend_key(build.backend_key_data(5, secret)[5:]) == (5, secret)
    for broken in (b"", b"1234567", b"x" * 261):
        with pytest.raises(PoolerError, match="broken BackendKeyData"):
            read.backend_key(broken)


def test_the_other_messages_are_as_the_protocol_has_them() -> None:
    """Byte for byte."""
    assert build.authentication(0) == b"R\0\0\0\x08\0\0\0\0"
    assert build.authentication(5, b"salt") == b"R\0\0\0\x0c\0\0\0\x05salt"
    assert build.ready_for_query() == b"Z\0\0\0\x05I"
    assert build.query("é") == b"Q\0\0\0\x07\xc3\xa9\0"
    assert build.password_message(b"x\0") == b"p\0\0\0\x06x\0"
    assert build.negotiate_protocol_version(0, ["_pq_.a"]) == (
        b"v\0\0\0\x13\0\3\0\0\0\0\0\x01_pq_.a\0"
    )
