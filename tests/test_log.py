"""Log lines."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator

import pytest

from poolproxy import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged; the logger is as before when the test ends."""
    ours = logging.getLogger("poolproxy")
    before = ours.handlers[:], ours.propagate, ours.level
    yield io.StringIO()
    ours.handlers[:], ours.propagate = before[:2]
    ours.setLevel(before[2])


def test_the_line_is_pgbouncers(stream: io.StringIO) -> None:
    """Date, time with milliseconds, zone, process, level, text."""
    log.set_up(0, stream)
    logging.getLogger("poolproxy.acceptor").info("listening on %s", "x")
    pattern = (
        rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}} \S+ \[{os.getpid()}\] LOG listening on x\n"
    )
    assert re.fullmatch(pattern, stream.getvalue())


def test_further_lines_begin_with_a_tab(stream: io.StringIO) -> None:
    """So that a reader of lines can tell where an entry ends, tracebacks included."""
    log.set_up(0, stream)
    try:
        raise ValueError("no\nway")
    except ValueError:
        logging.getLogger("poolproxy").exception("failed")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("ERROR failed")
    assert others
    assert all(line.startswith("\t") for line in others)


@pytest.mark.parametrize(
    ("verbose", "levels"),
    [
        (0, ["LOG", "WARNING", "ERROR", "FATAL"]),
        (1, ["DEBUG", "LOG", "WARNING", "ERROR", "FATAL"]),
        (2, ["NOISE", "DEBUG", "LOG", "WARNING", "ERROR", "FATAL"]),
        (3, ["NOISE", "DEBUG", "LOG", "WARNING", "ERROR", "FATAL"]),
    ],
)
def test_verbose_adds_levels(stream: io.StringIO, verbose: int, levels: list[str]) -> None:
    """PgBouncer's names for the levels, and more of them the more verbose."""
    log.set_up(3, stream)
    log.set_verbosity(verbose)
    logger = logging.getLogger("poolproxy.worker")
    for level in (5, 10, 20, 30, 40, 50):
        logger.log(level, "x")
    assert [line.split()[-2] for line in stream.getvalue().splitlines()] == levels
