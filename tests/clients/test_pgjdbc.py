"""pgjdbc: prepareThreshold 1 and 0, simple query mode, autocommit off, savepoints, batches, fetch sizes,
the COPY API, query time-outs, large objects, notifications. What is done stands in java/Matrix.java.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import MakeTable
from tests.clients.target import CLIENTS, EVERY_MODE, Target, run_program
from tests.fixtures.needs import PGJDBC

PROGRAM = Path(__file__).parent / "java" / "Matrix.java"

pytestmark = pytest.mark.needs_pgjdbc


@EVERY_MODE
def test_matrix(target: Target, make_table: MakeTable) -> None:
    """Everything that works in the mode, each part by all clients at once."""
    table = make_table("who int, i int check (i >= 0)")
    # Compiled at its start, so all parts share one run.
    run_program(target, ["java", "-cp", PGJDBC, PROGRAM, target.mode, table, CLIENTS])
