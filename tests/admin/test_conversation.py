"""The console's protocol, fed messages."""

from __future__ import annotations

import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.numeric import NumericBinaryLoader

from poolproxy.admin.column import Type, in_binary
from poolproxy.admin.conversation import MAX_NAMES, Conversation
from poolproxy.errors import PoolerError
from poolproxy.wire.codes import (
    BIND,
    CLOSE,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
)
from poolproxy.wire.read import MessageReader, error_fields

CODES = [BIND, CLOSE, DESCRIBE, EXECUTE, FLUSH, PARSE, QUERY, SYNC, ord("F"), ord("d"), ord("z")]


def kinds(data: bytes) -> str:
    """The types of messages, as letters."""
    return "".join(chr(code) for code, _ in messages(data))


def messages(data: bytes) -> list[tuple[int, bytes]]:
    reader = MessageReader(1 << 20)
    reader.feed(data)
    found = []
    while (one := reader.next_message()) is not None:
        found.append(one)
    assert not len(reader)
    return found


def parse(name: str, text: str) -> bytes:
    return f"{name}\0{text}\0".encode() + b"\0\0"


def bind(portal: str, name: str, *formats: int) -> bytes:
    head = f"{portal}\0{name}\0".encode() + struct.pack(">HH", 0, 0)
    return head + struct.pack(f">H{len(formats)}H", len(formats), *formats)


def test_a_query_has_description_rows_tag_and_ready() -> None:
    """The simple protocol: T, D..., C, Z, in the pieces in which they become known."""
    talk = Conversation(admin=True)
    step = talk.take(QUERY, b"show state\0")
    assert (kinds(step.reply), step.text) == ("T", "show state")
    assert kinds(talk.rows([("active", "yes"), ("paused", None)])) == "DD"
    done = talk.end("SHOW")
    assert kinds(done) == "CZ"
    assert b"SHOW\0" in done


def test_help_is_a_notice() -> None:
    """No rows: a notice with the commands in its detail, and the tag, without asking anybody."""
    step = Conversation(admin=False).take(QUERY, b"show help\0")
    assert (kinds(step.reply), step.call) == ("NCZ", None)
    assert b"MConsole usage\0D\n\tSHOW HELP|CONFIG" in step.reply


@pytest.mark.parametrize("query", [b"\0", b" ;\0"])
def test_an_empty_query(query: bytes) -> None:
    """EmptyQueryResponse, as from PostgreSQL."""
    assert kinds(Conversation(admin=True).take(QUERY, query).reply) == "IZ"


def test_a_wrong_query_is_an_error_and_the_connection_goes_on() -> None:
    """ErrorResponse and ReadyForQuery."""
    talk = Conversation(admin=True)
    step = talk.take(QUERY, b"foo\0")
    assert (kinds(step.reply), step.over) == ("EZ", False)
    fields = error_fields(messages(step.reply)[0][1])
    assert (fields.severity, fields.sqlstate) == ("ERROR", "08P01")
    assert talk.take(QUERY, b"show pools\0").call is not None


def test_the_extended_protocol() -> None:
    """Parse, Describe, Bind, Execute and Sync as a driver sends them; binary where it asks for that."""
    talk = Conversation(admin=True)
    assert kinds(talk.take(PARSE, parse("s", "SHOW LISTS")).reply) == "1"
    assert kinds(talk.take(DESCRIBE, b"Ss\0").reply) == "tT"
    assert kinds(talk.take(BIND, bind("", "s", 1)).reply) == "2"
    described = talk.take(DESCRIBE, b"P\0").reply
    assert messages(described)[0][1].endswith(b"\0\1")
    step = talk.take(EXECUTE, b"\0\0\0\0\0")
    assert step.call is not None
    row = messages(talk.rows([("pools", "7")]))[0][1]
    assert row.endswith(struct.pack(">ii", 4, 7))
    assert kinds(talk.end("SHOW")) == "C"
    assert kinds(talk.take(SYNC, b"").reply) == "Z"
    assert kinds(talk.take(CLOSE, b"Ss\0").reply) == "3"
    assert kinds(talk.take(DESCRIBE, b"Ss\0").reply) == "E"


def test_after_an_error_all_is_skipped_up_to_sync() -> None:
    """As in PostgreSQL: one error for a batch."""
    talk = Conversation(admin=True)
    assert kinds(talk.take(PARSE, parse("", "foo")).reply) == "E"
    assert talk.take(BIND, bind("", "")).reply == b""
    assert talk.take(EXECUTE, b"\0\0\0\0\0").reply == b""
    assert kinds(talk.take(SYNC, b"").reply) == "Z"


def test_a_failed_command_in_a_batch() -> None:
    """The error comes from elsewhere, and the rest of the batch is skipped too."""
    talk = Conversation(admin=True)
    talk.take(PARSE, parse("", "RELOAD"))
    talk.take(BIND, bind("", ""))
    assert kinds(talk.take(DESCRIBE, b"P\0").reply) == "n"
    assert talk.take(EXECUTE, b"\0\0\0\0\0").call is not None
    assert kinds(talk.failed(PoolerError("x", severity="ERROR"))) == "E"
    assert talk.take(EXECUTE, b"\0\0\0\0\0").reply == b""
    assert kinds(talk.take(SYNC, b"").reply) == "Z"


def test_names_are_bounded() -> None:
    """One client can't fill the memory with prepared statements."""
    talk = Conversation(admin=True)
    for number in range(MAX_NAMES):
        assert kinds(talk.take(PARSE, parse(f"s{number}", "SHOW LISTS")).reply) == "1"
    assert kinds(talk.take(PARSE, parse("one more", "SHOW LISTS")).reply) == "E"


def test_terminate_ends_it() -> None:
    """Nothing is answered."""
    step = Conversation(admin=True).take(TERMINATE, b"")
    assert (step.over, step.reply) == (True, b"")


@given(st.lists(st.tuples(st.sampled_from(CODES), st.binary(max_size=60)), max_size=8))
def test_garbage_is_answered_in_order_or_ends_the_connection(
    conversation: list[tuple[int, bytes]],
) -> None:
    """Any messages: what comes back are whole messages, or the connection ends with an error."""
    talk = Conversation(admin=False)
    for code, body in conversation:
        ended = None
        try:
            step = talk.take(code, body)
        except PoolerError as error:
            ended = error
        if ended is not None:
            assert ended.severity == "FATAL"
            return
        messages(step.reply)
        if step.call is not None:
            messages(talk.end(step.call.tag))


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_binary_numeric(value: int) -> None:
    """A numeric in PostgreSQL's binary format, as psycopg reads it."""
    loaded = NumericBinaryLoader(Type.NUMERIC.value).load(in_binary(Type.NUMERIC, str(value)))
    assert loaded == Decimal(value)
