"""The first packet of a connection."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.errors import PoolerError
from poolproxy.wire.startup import (
    CANCEL_REQUEST_CODE,
    GSSENC_REQUEST_CODE,
    MAX_STARTUP,
    PROTOCOL_3,
    SSL_REQUEST_CODE,
    CancelPacket,
    FirstPacket,
    GssRequest,
    SslRequest,
    Startup,
    cancel_request,
    parse_first_packet,
    startup_message,
)

PACKETS: list[tuple[bytes, FirstPacket]] = [
    (struct.pack(">II", 8, SSL_REQUEST_CODE), SslRequest()),
    (struct.pack(">II", 8, GSSENC_REQUEST_CODE), GssRequest()),
    (cancel_request(7, b"abcd"), CancelPacket(7, b"abcd")),
    (cancel_request(7, b"x" * 256), CancelPacket(7, b"x" * 256)),
    (
        startup_message({"user": "ann", "database": "üdb"}),
        Startup(0, {"user": "ann", "database": "üdb"}),
    ),
    (struct.pack(">II", 9, PROTOCOL_3 + 2) + b"\0", Startup(2, {})),
]


def packet(code: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">II", 8 + len(body) if length is None else length, code) + body


@pytest.mark.parametrize(("data", "expected"), PACKETS, ids=lambda part: type(part).__name__)
def test_each_kind_is_read_however_it_arrives(data: bytes, expected: FirstPacket) -> None:
    """Whole, byte by byte and with bytes behind it, a packet is the same and its length is told."""
    assert parse_first_packet(data) == (expected, len(data))
    assert parse_first_packet(bytearray(data) + b"more") == (expected, len(data))
    for size in range(len(data)):
        assert parse_first_packet(data[:size]) is None


@pytest.mark.parametrize("length", [0, 3, 4, 7, MAX_STARTUP + 1, 2**31 - 1, 2**32 - 1])
def test_an_impossible_length_is_refused_at_once(length: int) -> None:
    """The length alone decides, so nobody can make the pooler wait for gigabytes, or for more."""
    with pytest.raises(PoolerError, match=f"bad packet header: '{length:08x}'"):
        parse_first_packet(packet(PROTOCOL_3, b"", length)[:4])
    with pytest.raises(PoolerError, match=f"bad packet header: '{length:08x}00030000'") as caught:
        parse_first_packet(packet(PROTOCOL_3, b"", length))
    assert caught.value.sqlstate == "08P01"
    assert "PostgreSQL" in caught.value.hint


def test_the_longest_packet_is_taken() -> None:
    """A start-up packet of MAX_STARTUP bytes is read; while a byte is missing it is waited for."""
    value = "x" * (MAX_STARTUP - 8 - len(b"user\0\0\0"))
    data = startup_message({"user": value})
    assert len(data) == MAX_STARTUP
    assert parse_first_packet(data[:-1]) is None
    assert parse_first_packet(data) == (Startup(0, {"user": value}), MAX_STARTUP)


def test_version_2_is_named() -> None:
    """A client of PostgreSQL 7.3 learns what is wrong."""
    with pytest.raises(PoolerError, match="old V2 protocol not supported"):
        parse_first_packet(packet(2 << 16, b"\0" * 20))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        packet(4 << 16, b"\0"),
        packet(SSL_REQUEST_CODE, b"\0"),
        packet(GSSENC_REQUEST_CODE, b"\0"),
        packet(CANCEL_REQUEST_CODE, b"\0" * 7),
        packet(CANCEL_REQUEST_CODE, b"\0" * 261),
    ],
    ids=["http", "tls", "version 4", "long ssl", "long gss", "short cancel", "long cancel"],
)
def test_what_is_no_first_packet_is_refused(data: bytes) -> None:
    """Other protocols and malformed requests get one clear error."""
    with pytest.raises(PoolerError, match="bad packet header"):
        parse_first_packet(data)


@pytest.mark.parametrize(
    "body",
    [b"", b"user", b"user\0", b"user\0\0", b"user\0ann\0", b"user\0ann\0database\0\0", b"\0\0"],
)
def test_a_broken_parameter_list_is_refused(body: bytes) -> None:
    """Names and values come in pairs, each with its zero byte, and one more at the end."""
    with pytest.raises(PoolerError, match="invalid startup packet layout"):
        parse_first_packet(packet(PROTOCOL_3, body))


def test_text_that_is_not_utf8_is_refused() -> None:
    """Other encodings can't be mapped to a pool safely."""
    with pytest.raises(PoolerError, match="not UTF-8"):
        parse_first_packet(packet(PROTOCOL_3, b"user\0\xff\0\0"))


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        max_size=8,
    )
)
def test_parameters_round_trip(parameters: dict[str, str]) -> None:
    """What startup_message writes is read back, in order."""
    data = startup_message(parameters)
    assert parse_first_packet(data) == (Startup(0, parameters), len(data))


@given(st.binary(max_size=64))
def test_garbage_never_crashes(data: bytes) -> None:
    """Any bytes are a packet, too few, or a PoolerError."""
    try:
        found = parse_first_packet(data)
    except PoolerError:
        return
    assert found is None or found[1] <= len(data)


@pytest.mark.parametrize(
    ("minor", "spoken", "negotiated", "secret"),
    [(0, 0, False, 4), (1, 1, False, 4), (2, 2, False, 32), (3, 2, True, 32), (9999, 2, True, 32)],
)
def test_what_is_newer_is_negotiated(
    minor: int, spoken: int, negotiated: bool, secret: int
) -> None:
    """3.2 is spoken, with its long keys; a client that asks for more is told so."""
    one = Startup(minor, {"user": "ann"})
    assert (one.spoken, one.needs_negotiation, one.secret_size) == (spoken, negotiated, secret)


def test_unknown_protocol_options_are_negotiated() -> None:
    """Whatever the version; they are named in the order in which they came."""
    one = Startup(0, {"_pq_.b": "1", "user": "ann", "_pq_.a": ""})
    assert one.needs_negotiation
    assert one.unknown_options == ("_pq_.b", "_pq_.a")
