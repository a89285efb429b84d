"""A client and a server of shared prepared statements, the server's answers given by the test."""

from __future__ import annotations

import attrs

from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.statements import Names, Statements, statement_name
from tests.system.protocol_client import (
    SYNC,
    message,
    parse,
    text,
)
from tests.wire.prepared_traffic import (
    whole_messages,
)

LIMIT = 2**31 - 1

PARSED, BOUND, CLOSED = message("1"), message("2"), message("3")
DONE = message("C", text("SELECT 1"))


def ours(sql: str) -> bytes:
    """What servers know the statement by."""
    return statement_name(sql.encode() + b"\0\0\0", "")


ONE = ours("SELECT 1").decode()


def ready(status: str = "I") -> bytes:
    return message("Z", status.encode())


def error(sqlstate: str, message_text: str, *more: str) -> bytes:
    fields = ("SERROR", f"C{sqlstate}", f"M{message_text}", *more)
    return message("E", b"".join(map(text, fields)) + b"\0")


@attrs.define
class Rig:
    """A client and a server connection, without a server: the test gives the server's answers."""

    limit: int = 10
    names: Names = attrs.field(factory=Names)
    statements: Statements = attrs.field(factory=Statements)
    back: PreparedBackend = attrs.field(init=False)
    raw: bytes = b""
    shown: bytes = b""

    def __attrs_post_init__(self) -> None:
        self.back = PreparedBackend(self.statements, self.limit)

    def send(self, *data: bytes) -> bytes:
        """What the server gets; what the client gets at once is in ``shown``."""
        self.raw += b"".join(data)
        result = self.back.forward(self.names, self.raw, LIMIT)
        self.raw = self.raw[result.used :]
        self.shown += result.answer
        return b"".join(result.out)

    def answer(self, *data: bytes) -> bytes:
        """What the client has got since the last call."""
        shown, self.shown = self.shown, b""
        return shown + b"".join(self.back.feed(piece)[0] for piece in data)

    def prepare(self, name: str, sql: str) -> None:
        """A round trip that leaves the statement prepared."""
        answers = {"P": PARSED, "C": CLOSED, "S": ready()}
        out = self.send(parse(name, sql), SYNC)
        self.answer(*(answers[code] for code, _ in whole_messages(out)))
        assert self.back.at_rest


def sent(data: bytes) -> list[tuple[str, bytes]]:
    """Type and first name of each message to the server."""
    found = []
    for code, body in whole_messages(data):
        start = {"B": body.find(b"\0") + 1, "D": 1, "C": 1}.get(code, 0)
        found.append((code, body[start : body.find(b"\0", start)] if code in "PBDCQ" else b""))
    return found
