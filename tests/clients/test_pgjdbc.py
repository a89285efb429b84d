"""pgjdbc: prepareThreshold 1 and 0, simple query mode, autocommit off, savepoints, batches, fetch sizes,
the COPY API, query time-outs, large objects, notifications. What is done stands in java/Matrix.java.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import MakeTable
from tests.clients.target import CLIENTS, EVERY_MODE, Target, run_program
from tests.fixtures.needs import PGJDBC

PROGRAM = Path(__file__).parent / "java" / "Matrix.java"
# It runs for a second: the better compiler and the other collectors would only start up.
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]

pytestmark = pytest.mark.needs_pgjdbc


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the compiled program."""
    folder = tmp_path_factory.mktemp("classes")
    options = ["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-cp", str(PGJDBC)]
    subprocess.run(["javac", *options, "-d", str(folder), str(PROGRAM)], check=True)
    return folder


@EVERY_MODE
def test_matrix(target: Target, make_table: MakeTable, classes: Path) -> None:
    """Everything that works in the mode, each part by all clients at once."""
    table = make_table("who int, i int check (i >= 0)")
    # All parts share one run, as a Java machine takes long to start.
    path = f"{PGJDBC}:{classes}"
    run_program(target, [*JAVA, path, "Matrix", target.mode, table, CLIENTS])
