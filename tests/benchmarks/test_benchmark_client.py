"""The client that only counts, and the queries it sends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

import pytest

from benchmarks.client import READY, Client, query, startup_packet
from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable
from benchmarks.runs.large import statement


def answer_of(*chunks: bytes) -> int:
    """What wait_ready makes of an answer that arrives in these chunks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = threading.Thread(target=_serve, args=(listener, chunks))
        peer.start()
        client = Client(Endpoint("127.0.0.1", listener.getsockname()[1], "me", "base"))
        try:
            return client.wait_ready()
        finally:
            client.close()
            peer.join()


def _serve(listener: socket.socket, chunks: Sequence[bytes]) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(4096)
        for chunk in chunks:
            connection.sendall(chunk)


def test_packets_follow_the_protocol() -> None:
    """Lengths count themselves, not the kind."""
    assert startup_packet("u", "d") == (b"\x00\x00\x00\x1b\x00\x03\x00\x00user\0u\0database\0d\0\0")
    assert query("SELECT 1") == b"Q\x00\x00\x00\x0dSELECT 1\0"


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 1000])
def test_an_answer_ends_at_ready_however_it_is_cut(size: int) -> None:
    """ReadyForQuery is seen when it comes in pieces, and all bytes count."""
    whole = b"D" + b"x" * 50 + READY
    assert answer_of(*(whole[at : at + size] for at in range(0, len(whole), size))) == len(whole)


def test_an_error_is_told() -> None:
    """The server's words reach the report."""
    error = b"E\x00\x00\x00\x10SFATAL\0Mgo away\0\0"
    with pytest.raises(Unavailable, match="go away"):
        answer_of(error)
    with pytest.raises(Unavailable, match="go away"):
        answer_of(error + READY)


@pytest.mark.parametrize("row_bytes", [100, 8192])
def test_a_large_answer_is_large(row_bytes: int) -> None:
    """Each size of rows asks for about 64 MB."""
    sql, least = statement(row_bytes)
    assert f"repeat('x', {row_bytes})" in sql
    assert 63_000_000 < least <= 64_000_000
