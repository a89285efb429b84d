"""The model and the Backend against the real PostgreSQL: the same batches, the same answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolproxy.demo.postgres import PostgresServer
from poolproxy.wire.backend import Backend
from poolproxy.wire.frontend import Frontend
from poolproxy.wire.read import MessageReader
from tests.system.protocol_client import query
from tests.wire.postgres_model import REAL_BATCHES, Batch, Model

LIMIT = 1 << 20
UNASKED = frozenset(b"NAS")  # they come at any time, and the model knows nothing of them


class Session:
    """A logged-in connection of which every byte is ours, read by Frontend, Backend and model."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(True)
        sock.settimeout(10)
        self.front, self.back, self.model = Frontend(), Backend(), Model()
        self.reader = MessageReader(LIMIT)
        self.due: list[str] = []
        self.at_rest = True

    def send(self, data: bytes) -> None:
        forward, types, _ = self.front.feed(data, LIMIT)
        if types:
            self.back.owe(types)
        self.sock.sendall(forward)
        self.due += [code for code, _ in self.model.feed(forward)]

    def receive(self) -> None:
        """Read as many answers as the model says are due; they must be the same."""
        seen: list[str] = []
        while len(seen) < len(self.due):
            data = self.sock.recv(4096)
            assert data, "PostgreSQL has closed the connection"
            _, self.at_rest = self.back.feed(data)
            self.reader.feed(data)
            while (found := self.reader.next_message()) is not None:
                if found[0] not in UNASKED:
                    seen.append(chr(found[0]))
        assert "".join(seen) == "".join(self.due)
        self.due.clear()

    def clean_up(self) -> None:
        """Leave a transaction that was opened, for whoever comes next."""
        if self.model.status != "I":
            self.send(query("rollback"))
            self.receive()


@pytest.fixture(scope="module")
def logged_in(postgres: PostgresServer) -> Iterator[socket.socket]:
    """The socket of a connection that psycopg has logged in."""
    with psycopg.connect(postgres.url(), sslmode="disable", autocommit=True) as connection:
        connection.execute("create temp table pp_target (n int)")
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            yield sock


def _finish(session: Session) -> None:
    """Let PostgreSQL send all that is due, and bring it to rest."""
    if session.model.skipping or session.model.unsynced:
        session.send(b"S\0\0\0\4")
    session.receive()
    assert session.back.at_rest == session.model.quiet or session.back.tainted
    session.clean_up()
    assert session.back.at_rest


@pytest.mark.parametrize("batch", REAL_BATCHES, ids=str)
def test_postgresql_answers_a_blind_batch_as_the_model_does(
    batch: Batch, logged_in: socket.socket
) -> None:
    """All at once, without waiting for anything: the real answers are the model's, and at_rest is true
    at their end.
    """
    session = Session(logged_in)
    session.send(b"".join(batch.messages))
    _finish(session)


@pytest.mark.parametrize("batch", REAL_BATCHES, ids=str)
def test_postgresql_answers_a_patient_batch_as_the_model_does(
    batch: Batch, logged_in: socket.socket
) -> None:
    """Message by message, reading whenever PostgreSQL sends: at_rest is told at the end, not before."""
    session = Session(logged_in)
    for message in batch.messages:
        session.send(message)
        if message[:1] == b"H" or (session.due and session.due[-1] in "ZGE"):
            session.receive()
            assert session.model.quiet or not session.back.at_rest
    _finish(session)


@given(chosen=st.lists(st.sampled_from(REAL_BATCHES), min_size=2, max_size=5))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_postgresql_answers_pipelines_as_the_model_does(
    chosen: list[Batch], logged_in: socket.socket
) -> None:
    """Several batches in one write, errors and COPYs in the middle."""
    session = Session(logged_in)
    session.send(b"".join(message for batch in chosen for message in batch.messages))
    _finish(session)
