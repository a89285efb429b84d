"""Shared prepared statements, held against what PostgreSQL answers on a direct connection."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import attrs
import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.wire.prepared import Names, PreparedBackend
from tests.system.protocol_client import SYNC, RawClient, message, query, text

LIMIT = 2**31 - 1
TEXTS = (
    "SELECT 1",
    "SELECT 'two' AS x",
    "SELECT 1/0",
    "SELECT no such",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
)
NAMES = ("", "a", "b", "c")


def parse(name: str, sql: str) -> bytes:
    return message("P", text(name) + text(sql) + struct.pack("!H", 0))


def bind(name: str) -> bytes:
    return message("B", text("") + text(name) + struct.pack("!HHH", 0, 0, 0))


def describe(name: str) -> bytes:
    return message("D", b"S" + text(name))


def close(name: str) -> bytes:
    return message("C", b"S" + text(name))


EXECUTE = message("E", text("") + struct.pack("!I", 0))


def split(data: bytes) -> list[tuple[str, bytes]]:
    """The messages, each error as its SQLSTATE and text."""
    found = []
    while data:
        (length,) = struct.unpack_from("!I", data, 1)
        code, body = chr(data[0]), data[5 : length + 1]
        if code == "E":
            body = b"\0".join(item for item in body.split(b"\0") if item[:1] in (b"C", b"M"))
        if code not in "NS":
            found.append((code, body))
        data = data[length + 1 :]
    return found


@attrs.define
class Direct:
    """A client's own connection."""

    client: RawClient

    def run(self, batch: bytes) -> list[tuple[str, bytes]]:
        """Send a batch that ends with Sync or Query; the answers up to the last ReadyForQuery."""
        self.client.sock.sendall(batch)
        awaited = sum(code in "SQ" for code, _ in _whole(batch))
        data = b""
        while sum(code == "Z" for code, _ in _whole(data)) < awaited:
            data += self.client.sock.recv(65536)
        return split(data)


def _whole(data: bytes) -> list[tuple[str, bytes]]:
    found = []
    while len(data) >= 5:
        (length,) = struct.unpack_from("!I", data, 1)
        if len(data) <= length:
            break
        found.append((chr(data[0]), data[5 : length + 1]))
        data = data[length + 1 :]
    return found


@attrs.define
class Pooled:
    """A client that gets another of a few servers for each transaction."""

    servers: list[tuple[RawClient, PreparedBackend]]
    choose: random.Random
    names: Names = attrs.field(factory=Names)
    server: tuple[RawClient, PreparedBackend] | None = None

    def run(self, batch: bytes) -> list[tuple[str, bytes]]:
        if self.server is None:
            self.server = self.choose.choice(self.servers)
        client, back = self.server
        answers = b""
        while True:
            result = back.forward(self.names, batch, LIMIT)
            client.sock.sendall(b"".join(result.out))
            answers += result.answer
            batch = batch[result.used :]
            if not back.owed:
                break
            data = client.sock.recv(65536)
            size = self.choose.randint(1, len(data))
            for chunk in (data[:size], data[size:]):
                answers += back.feed(chunk)[0]
        assert not batch
        assert not back.special
        assert not back.unsettled
        assert not self.names.unsettled
        if back.at_rest:
            self.server = None
        return split(answers)


@pytest.fixture
def address(postgres: PostgresServer) -> Iterator[tuple[str, str, str]]:
    """Where to connect: through the Unix socket, which the launcher trusts or not."""
    return iter([(postgres.host, str(postgres.port), postgres.password)])


def connect(postgres: PostgresServer) -> RawClient:
    return RawClient((postgres.host, postgres.port), password=postgres.password)


def random_batch(choose: random.Random) -> bytes:
    """A few segments; each ends with Sync or is a simple Query."""
    batch = b""
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        if choose.random() < 0.15:
            sql = choose.choice(
                (
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
            )
            batch += query(sql)
            continue
        for _ in range(choose.randint(1, 5)):
            name = choose.choice(NAMES)
            kind = choose.choice("PPBBBDCX")
            if kind == "P":
                batch += parse(name, choose.choice(TEXTS))
            elif kind == "B" and name:
                batch += bind(name) + EXECUTE
            elif kind == "B":  # the unnamed statement lives in one transaction only
                batch += parse("", choose.choice(TEXTS)) + bind("") + EXECUTE
            elif kind == "D" and name:
                batch += describe(name)
            elif kind == "C":
                batch += close(name)
        batch += SYNC
    return batch
