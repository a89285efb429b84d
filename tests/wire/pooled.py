"""Clients with prepared statements that share connections to a real PostgreSQL."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import attrs

from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.statements import STAND_IN, Names
from tests.system.protocol_client import (
    query,
)
from tests.wire.prepared_rig import LIMIT
from tests.wire.prepared_traffic import (
    Answer,
    Verdict,
    ask,
    column,
    compare,
    random_batch,
    shown,
    whole_messages,
)

OURS = (
    "select name from pg_prepared_statements"
    f" where name like 'POOLPROXY%' and name <> '{STAND_IN.name.decode()}' order by 1"
)
THEIRS = "select name from pg_prepared_statements where from_sql is false order by 1"


@attrs.define(eq=False)
class Backing:
    """A server connection, and what the pooler knows of it."""

    sock: socket.socket
    back: PreparedBackend


@attrs.define(eq=False)
class Pooled:
    """A client that gets one of a few servers for each transaction; its bytes come in pieces."""

    choose: random.Random
    names: Names = attrs.field(factory=Names)
    server: Backing | None = None

    def run(self, server: Backing, batch: bytes) -> list[Answer]:
        """As ``ask``, with ``server`` for as long as the transaction lasts."""
        self.server = server
        back, answers, raw, left = server.back, b"", b"", 0
        pieces = list(_cut(self.choose, batch))
        while pieces or back.owed:
            if pieces:
                raw += pieces.pop(0)
            else:
                answers += self._receive(server)
            server.sock.sendall(raw[:left])
            raw, left = raw[left:], max(0, left - len(raw))
            if not left:
                result = back.forward(self.names, raw, LIMIT)
                raw, left = raw[result.used :], result.left
                server.sock.sendall(b"".join(result.out))
                answers += result.answer
        assert not raw
        assert not left
        assert not back.special
        assert not back.unsettled
        assert not self.names.unsettled
        if back.at_rest:
            self.server = None
        return shown(answers)

    def _receive(self, server: Backing) -> bytes:
        data = server.sock.recv(65536)
        assert data, "PostgreSQL has closed the connection"
        return b"".join(server.back.feed(piece)[0] for piece in _cut(self.choose, data))


def _cut(choose: random.Random, data: bytes) -> Iterator[bytes]:
    while data:
        size = choose.choice((1, 7, 50, len(data), len(data)))
        yield data[:size]
        data = data[size:]


@attrs.define(eq=False)
class Differential:
    """Clients on a few shared servers, each beside a direct connection that is sent the same."""

    choose: random.Random
    servers: list[Backing]
    clients: list[tuple[socket.socket, Pooled]]
    status: dict[Pooled, bytes] = attrs.field(factory=dict)

    def step(self) -> None:
        sock, client = self.choose.choice(self.clients)
        server = client.server or self._free_server()
        batch = random_batch(self.choose)
        want, got = ask(sock, batch), client.run(server, batch)
        verdict = compare(want, got, self.status.get(client, b"I"))
        assert verdict is not Verdict.DIFFERENT, (whole_messages(batch), want, got)
        if verdict is Verdict.REFUSED:
            want = self._clean(sock, client, server)
        self.status[client] = want[-1][1]
        self._check_state(sock, client, server)

    def _free_server(self) -> Backing:
        used = [client.server for _, client in self.clients]
        return self.choose.choice([server for server in self.servers if server not in used])

    def _clean(self, sock: socket.socket, client: Pooled, server: Backing) -> list[Answer]:
        for sql in ("ROLLBACK", "DEALLOCATE ALL"):
            answers = ask(sock, query(sql))
            client.run(server, query(sql))
        return answers

    def _check_state(self, sock: socket.socket, client: Pooled, server: Backing) -> None:
        """What is noted of server and client is what PostgreSQL has."""
        if self.status[client] == b"I":
            assert client.server is None
            real = column(ask(server.sock, query(OURS)))
            assert real == sorted(s.name.decode() for s in server.back.prepared)
            mine = sorted(name.decode() for name in client.names.statements if name)
            assert column(ask(sock, query(THEIRS))) in (mine, ["", *mine])


def errors(answers: list[Answer]) -> list[bytes]:
    return [body for code, body in answers if code == "E"]
