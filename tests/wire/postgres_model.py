"""PostgreSQL's message loop as a small model, and the batches that clients send to it.

The model is PostgresMain, exec_*_message and CopyGetData of PostgreSQL's source, cut down to what
decides which messages are answered by what. ``test_real_server`` holds it against the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import attrs

from poolproxy.wire.read import MessageReader
from tests.system.protocol_client import (
    FLUSH,
    SYNC,
    bind,
    call,
    close,
    describe,
    execute,
    message,
    parse,
    query,
    text,
)

LIMIT = 1 << 20
BAD_COPY_ROW = b"no number\n"

FILL = "copy pp_target from stdin"
MULTIPLE = f"select 1; {FILL}; select 2"
# By text: the types of the answers to a simple Query, and to Execute. G: COPY FROM STDIN begins.
STATEMENTS = {
    "select n from generate_series(1, 3) n": "TDDDC",
    "set work_mem = '4MB'": "C",
    "": "I",
    "select 1 / (n - 3) from generate_series(1, 5) n": "TDDE",
    "begin": "C",
    "commit": "C",
    "rollback": "C",
    "copy (select 1) to stdout": "HdcC",
    FILL: "G",
}
SIMPLE_ONLY = {
    "select 1; select 2": "TDCTDC",
    "select 1; selec": "E",
    MULTIPLE: "TDCG",
}
BROKEN = "selec"
ENDS_BLOCK = ("commit", "rollback")


BIND = bind("")
DESCRIBE_STATEMENT = describe("")
DESCRIBE_PORTAL = describe("", "P")
EXECUTE = execute()
EXECUTE_ONE_ROW = execute(rows=1)
CLOSE = close("")
COPY_ROW = message("d", b"1\n")
COPY_BAD_ROW = message("d", BAD_COPY_ROW)
COPY_DONE = message("c")
COPY_FAIL = message("f", text("enough"))
# pg_backend_pid(), and a function that isn't there.
CALL = call(2026)
CALL_NOTHING = call(999_999)


class Failed(Exception):
    """ereport(ERROR)."""


@attrs.define
class Model:
    """One backend. ``feed`` takes whole or partial messages and returns what is answered to them."""

    status: str = "I"
    unsynced: bool = False
    skipping: bool = False
    copying: bool = False
    extended: bool = False
    statement: str = ""
    fetched: int = 0
    after_copy: str = ""
    reader: MessageReader = attrs.Factory(partial(MessageReader, LIMIT))

    @property
    def quiet(self) -> bool:
        """No transaction, nothing under way: another client may come."""
        return self.status == "I" and not (self.unsynced or self.skipping or self.copying)

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        """Client bytes; the types of the answers, each with the transaction status at that time."""
        self.reader.feed(data)
        answers = []
        while (found := self.reader.next_message()) is not None:
            for code in self._message(chr(found[0]), found[1]):
                answers.append((code, self.status))
        return answers

    def _message(self, code: str, body: bytes) -> str:
        if self.copying:
            return self._in_copy(code, body)
        if self.skipping and code != "S":
            return ""
        handlers: dict[str, Callable[[bytes], str]] = {
            "Q": self._query,
            "F": self._call,
            "S": self._sync,
            "P": self._parse,
            "B": self._bind,
            "D": self._describe,
            "E": self._execute,
            "C": self._close,
        }
        if code not in handlers:
            return ""  # Flush, and the late messages of a COPY
        self.extended = code in "PBDEC"
        self.unsynced = self.unsynced or self.extended
        try:
            return handlers[code](body)
        except Failed as failure:
            return str(failure) + self._abort()

    def _abort(self) -> str:
        self.copying = False
        self.status = "I" if self.status == "I" else "E"
        if self.extended:
            self.skipping = True
            return "E"
        return "E" + self._ready()

    def _ready(self) -> str:
        self.unsynced = False
        return "Z"

    def _sync(self, body: bytes) -> str:
        self.skipping = False
        return self._ready()

    def _check_block(self, sql: str) -> None:
        if self.status == "E" and sql not in (*ENDS_BLOCK, ""):
            raise Failed("")

    def _query(self, body: bytes) -> str:
        sql = body[:-1].decode()
        if sql == BROKEN:
            raise Failed("")
        self._check_block(sql)
        answers = self._run(sql, (STATEMENTS | SIMPLE_ONLY)[sql])
        if answers.endswith("G"):
            self.copying = True
            self.after_copy = "CTDC" if sql == MULTIPLE else "C"
            return answers
        return answers + self._ready()

    def _run(self, sql: str, answers: str) -> str:
        if answers.endswith("E"):
            raise Failed(answers[:-1])
        if sql in ENDS_BLOCK:
            self.status = "I"
        elif sql == "begin":
            self.status = "T"
        return answers

    def _call(self, body: bytes) -> str:
        if self.status == "E" or body[:4] != CALL[5:9]:
            raise Failed("")
        return "V" + self._ready()

    def _parse(self, body: bytes) -> str:
        sql = body[1:-3].decode()
        if sql == BROKEN:
            raise Failed("")
        self._check_block(sql)
        self.statement = sql
        return "1"

    def _bind(self, body: bytes) -> str:
        if self.statement == "" and self.status == "E":
            raise Failed("")  # an empty statement may be parsed there, and no more
        self._check_block(self.statement)
        self.fetched = 0
        return "2"

    def _describe(self, body: bytes) -> str:
        described = "T" if STATEMENTS[self.statement].startswith("T") else "n"
        return "t" + described if body[:1] == b"S" else described

    def _execute(self, body: bytes) -> str:
        self._check_block(self.statement)
        answers = STATEMENTS[self.statement]
        if answers.endswith("G"):
            self.copying = True
            self.after_copy = "C"
            return "G"
        answers = answers.removeprefix("T")
        if body[1:] == b"\0\0\0\1" and answers.startswith("D"):
            return self._one_row(answers)
        rest, self.fetched = answers[self.fetched :], 0
        return self._run(self.statement, rest)

    def _one_row(self, answers: str) -> str:
        if answers[self.fetched] == "E":
            raise Failed("")
        if answers[self.fetched] == "C":
            return "C"
        self.fetched += 1
        return "Ds"

    def _close(self, body: bytes) -> str:
        return "3"

    def _in_copy(self, code: str, body: bytes) -> str:
        if code == "f" or (code == "d" and body == BAD_COPY_ROW):
            return self._abort()
        if code == "c":
            self.copying = False
            return self.after_copy + ("" if self.extended else self._ready())
        assert code in "dHS", "this would cost the connection"
        return ""


@attrs.frozen
class Batch:
    """What a client sends in one go; a COPY that it begins is ended in it too."""

    messages: tuple[bytes, ...]

    def __str__(self) -> str:
        codes = "".join(chr(message[0]) for message in self.messages)
        texts = [m[5:].strip(b"\0").decode() for m in self.messages if m[:1] in b"QPd"]
        return f"{codes} {'/'.join(texts)}".replace("\n", "")


def batches() -> Iterator[Batch]:
    """Every kind of batch that a client sends, by the way it is answered."""
    for sql in (*STATEMENTS, *SIMPLE_ONLY, BROKEN):
        if sql not in (FILL, MULTIPLE):
            yield Batch((query(sql),))
    for sql in (*STATEMENTS, BROKEN):
        if sql != FILL:
            run = (parse("", sql), BIND, DESCRIBE_PORTAL, EXECUTE)
            yield Batch((*run, SYNC))
            yield Batch((parse("", sql), DESCRIBE_STATEMENT, FLUSH, BIND, EXECUTE, CLOSE, SYNC))
    yield Batch((CALL,))
    yield Batch((CALL_NOTHING,))
    yield Batch((SYNC,))
    rows = parse("", "select n from generate_series(1, 3) n")
    yield Batch((rows, BIND, *[EXECUTE_ONE_ROW] * 3, SYNC))
    yield Batch((rows, BIND, EXECUTE_ONE_ROW, FLUSH, EXECUTE, SYNC))
    good, bad = (COPY_ROW, COPY_ROW), (COPY_ROW, COPY_BAD_ROW, COPY_ROW)
    for data in ((), good, bad):
        for end in (COPY_DONE, COPY_FAIL):
            run = (parse("", FILL), BIND, EXECUTE)
            yield Batch((query(FILL), *data, end))
            yield Batch((query(MULTIPLE), *data, end))
            yield Batch((*run, FLUSH, *data, end, SYNC))
            yield Batch((*run, SYNC, *data, end, SYNC))  # as libpq does it


def mixed_batches() -> Iterator[Batch]:
    """A Query in the middle of a pipeline, as PostgreSQL 15 takes it.

    18 keeps the pipeline's transaction open over the Query, and after its Sync answers the next
    statement with XX000, so these are not for the real server.
    """
    for sql in (*STATEMENTS, BROKEN):
        if sql != FILL:
            run = (parse("", sql), BIND, DESCRIBE_PORTAL, EXECUTE)
            yield Batch((*run, FLUSH, query("set work_mem = '4MB'")))


REAL_BATCHES = tuple(batches())
ALL_BATCHES = (*REAL_BATCHES, *mixed_batches())
