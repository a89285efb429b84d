"""Messages that the pooler itself sends."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from poolproxy.errors import PoolerError
from poolproxy.wire.codes import IDLE
from poolproxy.wire.startup import PROTOCOL_3

SYNC_MESSAGE = b"S\0\0\0\4"


def message(code: int, body: bytes) -> bytes:
    """One message: type byte, length, body."""
    return struct.pack(">BI", code, len(body) + 4) + body


def _fields(items: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(f"{k}{v}".encode() + b"\0" for k, v in items if v) + b"\0"


def error_response(error: PoolerError) -> bytes:
    """An ErrorResponse with severity, SQLSTATE, message and, where there is one, a hint."""
    fields = (
        ("S", error.severity),
        ("V", error.severity),
        ("C", error.sqlstate),
        ("M", error.message.replace("\0", "")),
        ("H", error.hint),
    )
    return message(ord("E"), _fields(fields))


def notice_response(text: str, detail: str = "", hint: str = "") -> bytes:
    """A NoticeResponse of severity NOTICE."""
    fields = (
        ("S", "NOTICE"),
        ("V", "NOTICE"),
        ("C", "00000"),
        ("M", text),
        ("D", detail),
        ("H", hint),
    )
    return message(ord("N"), _fields(fields))


def authentication(code: int, data: bytes = b"") -> bytes:
    """An AuthenticationRequest: 0 is Ok."""
    return message(ord("R"), code.to_bytes(4, "big") + data)


def parameter_status(name: str, value: str) -> bytes:
    return message(ord("S"), f"{name}\0{value}\0".encode())


def backend_key_data(pid: int, secret: bytes) -> bytes:
    return message(ord("K"), pid.to_bytes(4, "big") + secret)


def ready_for_query(status: int = IDLE) -> bytes:
    return message(ord("Z"), bytes((status,)))


def negotiate_protocol_version(minor: int, unknown: Iterable[str]) -> bytes:
    """NegotiateProtocolVersion: 3.``minor`` is spoken; ``unknown`` are the ``_pq_.`` options.

    The protocol's description speaks of the minor version alone; PostgreSQL sends, and libpq wants, both.
    """
    names = [name.encode() + b"\0" for name in unknown]
    head = struct.pack(">II", PROTOCOL_3 + minor, len(names))
    return message(ord("v"), head + b"".join(names))


def query(sql: str) -> bytes:
    """A simple Query."""
    return message(ord("Q"), sql.encode() + b"\0")


def password_message(payload: bytes) -> bytes:
    """PasswordMessage, SASLInitialResponse or SASLResponse: they share the type byte."""
    return message(ord("p"), payload)
