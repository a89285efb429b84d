"""node-postgres: simple, unnamed and named queries, transactions, pg-cursor and pg-query-stream,
COPY by pg-copy-streams, its pool, notifications. What is done stands in node/matrix.js.
"""

from __future__ import annotations

import pytest

from tests.clients.conftest import MakeTable
from tests.clients.target import CLIENTS, EVERY_MODE, SERVERS, SESSION, Target, run_program
from tests.fixtures.needs import NODE_FOLDER

pytestmark = pytest.mark.needs_node_postgres


def run(target: Target, name: str, table: str = "") -> None:
    """Run one part of the program with all clients."""
    size = SERVERS if target.mode == "session" else CLIENTS
    environment = {"MATRIX_CLIENTS": CLIENTS, "MATRIX_POOL": size, "MATRIX_TABLE": table}
    texts = {key: str(value) for key, value in environment.items()}
    run_program(target, ["node", NODE_FOLDER / "matrix.js", name], environment=texts)


@EVERY_MODE
@pytest.mark.parametrize("name", ["queries", "pool"])
def test_queries(target: Target, name: str) -> None:
    """Statements of all kinds, one after the other and many at once, and pg's own pool."""
    run(target, name)


def test_transactions(target: Target, make_table: MakeTable) -> None:
    """Transactions with savepoints and errors, committed and rolled back."""
    run(target, "transactions", make_table("who int, i int"))


def test_cursors(target: Target) -> None:
    """Portals with row limits, read to the end and closed early."""
    run(target, "cursors")


@EVERY_MODE
def test_copy(target: Target, make_table: MakeTable) -> None:
    """COPY in both directions by streams."""
    run(target, "copies", make_table("who int, i int"))


@SESSION
def test_notifications(target: Target) -> None:
    """A notification comes while its listener is idle, with the PID of its sender's server."""
    run(target, "notifications")
