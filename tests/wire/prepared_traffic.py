"""Messages that name prepared statements, random batches of them, and what two answers must share."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum, auto
from typing import TypeAlias

import psycopg

from poolproxy.demo.postgres import PostgresServer
from tests.system.protocol_client import SYNC, bind, close, describe, execute, parse, query

Answer: TypeAlias = tuple[str, bytes]

TEXTS = (
    "SELECT 1",
    "SELECT 'two' AS x",
    "SELECT 1/0",
    "SELECT no such",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "DEALLOCATE a",
    'deallocate prepare "b";',
    "DEALLOCATE ALL",
)
QUERIES = (
    "SELECT 5",
    "DEALLOCATE a",
    'deallocate prepare "b" ;',
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "BEGIN",
    "ROLLBACK",
    "SELECT 1/0",
    "COMMIT",
)
NAMES = ("", "a", "b", "c")


EXECUTE = execute()


def random_batch(choose: random.Random) -> bytes:
    """A few segments; each ends with Sync or is a simple Query."""
    batch = b""
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        if choose.random() < 0.15:
            batch += query(choose.choice(QUERIES))
        else:
            batch += b"".join(_random_step(choose) for _ in range(choose.randint(1, 5))) + SYNC
    return batch


def _random_step(choose: random.Random) -> bytes:
    name = choose.choice(NAMES)
    sql = choose.choice(TEXTS)
    match choose.choice("PPBBBDC"):
        case "P":
            return parse(name, sql)
        case "B":
            # the unnamed statement lives in one transaction only
            return (b"" if name else parse("", sql)) + bind(name) + EXECUTE
        case "D":
            return describe(name) if name else b""
        case _:
            return close(name)


def whole_messages(data: bytes) -> list[Answer]:
    """(type, body) of all that are complete."""
    found = []
    while len(data) >= 5:
        (length,) = struct.unpack_from("!I", data, 1)
        if len(data) <= length:
            break
        found.append((chr(data[0]), data[5 : length + 1]))
        data = data[length + 1 :]
    return found


def shown(data: bytes) -> list[Answer]:
    """What must be the same: each error as SQLSTATE and text, nothing that comes unasked."""
    return [
        (code, _comparable(body) if code == "E" else body)
        for code, body in whole_messages(data)
        if code not in "NSA"
    ]


def _comparable(error: bytes) -> bytes:
    return b"\0".join(item for item in error.split(b"\0") if item[:1] in (b"C", b"M"))


def ask(sock: socket.socket, batch: bytes) -> list[Answer]:
    """Send a batch each of whose segments ends with Sync or is a Query; its answers."""
    sock.sendall(batch)
    awaited = sum(code in "SQ" for code, _ in whole_messages(batch))
    data = b""
    while sum(code == "Z" for code, _ in whole_messages(data)) < awaited:
        more = sock.recv(65536)
        assert more, f"closed after {data!r}"
        data += more
    return shown(data)


def column(answers: Sequence[Answer]) -> list[str]:
    """The values of a result with one column."""
    return [body[6:].decode() for code, body in answers if code == "D"]


def sqlstates(answers: Sequence[Answer]) -> list[str]:
    """Those of the errors, as :func:`shown` has them."""
    return [body[1:6].decode() for code, body in answers if code == "E"]


@contextmanager
def direct_connections(server: PostgresServer) -> Iterator[Callable[[], socket.socket]]:
    """Makes sockets of logged-in connections, every byte of which is the caller's."""
    with ExitStack() as stack:

        def connect() -> socket.socket:
            # psycopg logs in, and keeps its side until the end: its close sends Terminate.
            connection = psycopg.connect(server.url(), sslmode="disable", autocommit=True)
            stack.callback(connection.close)
            sock = stack.enter_context(socket.socket(fileno=os.dup(connection.fileno())))
            sock.settimeout(15)
            return sock

        yield connect


class Verdict(Enum):
    """How a pooled client's answers compare with those of a direct connection."""

    SAME = auto()
    # In a failed transaction a server that lacks the statement can't be given it: 25P02.
    REFUSED = auto()
    DIFFERENT = auto()


def compare(want: Sequence[Answer], got: Sequence[Answer], status: bytes) -> Verdict:
    """``status``: the transaction's before these answers."""
    wanted, gotten = _segments(want), _segments(got)
    for one, other in zip(wanted, gotten, strict=False):
        if one != other:
            error = next((n for n, (code, _) in enumerate(other) if code == "E"), None)
            refused = error is not None and b"C25P02" in other[error][1]
            if refused and status == b"E" and one[:error] == other[:error]:
                return Verdict.REFUSED
            return Verdict.DIFFERENT
        status = one[-1][1]
    return Verdict.SAME if len(wanted) == len(gotten) else Verdict.DIFFERENT


def _segments(answers: Sequence[Answer]) -> list[list[Answer]]:
    found: list[list[Answer]] = [[]]
    for answer in answers:
        found[-1].append(answer)
        if answer[0] == "Z":
            found.append([])
    return found[:-1] if not found[-1] else found
