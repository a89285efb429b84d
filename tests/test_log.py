"""Log lines."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from poolproxy import log
from poolproxy.errors import ConfigError
from poolproxy.log import Party, outlet
from poolproxy.log.repeats import MOST_TEXTS, WINDOW, Repeats
from poolproxy.settings.enums import LogFormat
from poolproxy.settings.schema import Settings
from tests.fixtures.logs import own_log

ANN = Party("C-7", "shop", "ann", "10.0.0.1:50000")
JSON = Settings(log_format=LogFormat.JSON)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged; the logger is as before when the test ends."""
    with own_log():
        yield io.StringIO()


def test_the_line_is_pgbouncers(stream: io.StringIO) -> None:
    """Date, time with milliseconds, zone, process, level, text."""
    log.set_up(stream=stream)
    logging.getLogger("poolproxy.acceptor").info("listening on %s", "x")
    pattern = (
        rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}} \S+ \[{os.getpid()}\] LOG listening on x\n"
    )
    assert re.fullmatch(pattern, stream.getvalue())


def test_further_lines_begin_with_a_tab(stream: io.StringIO) -> None:
    """So that a reader of lines can tell where an entry ends, tracebacks included."""
    log.set_up(stream=stream)
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
    log.set_up(Settings(verbose=3), stream=stream)
    log.set_verbosity(verbose)
    logger = logging.getLogger("poolproxy.worker")
    for level in (5, 10, 20, 30, 40, 50):
        logger.log(level, "x")
    assert [line.split()[-2] for line in stream.getvalue().splitlines()] == levels


def test_the_number_of_the_worker(stream: io.StringIO) -> None:
    """A line begins with it, unless it is about a connection, which log readers want to find first."""
    log.set_up(worker=3, stream=stream)
    logger = logging.getLogger("poolproxy.worker")
    logger.info("up")
    logger.info("%s closing because: %s", ANN, "x")
    plain, connection = stream.getvalue().splitlines()
    assert plain.endswith(" LOG worker 3: up")
    assert connection.endswith(" LOG C-7: shop/ann@10.0.0.1:50000 closing because: x")


@pytest.mark.parametrize("message", ["%s closing because: %s", "%s: closing because: %s"])
def test_json_has_fields(stream: io.StringIO, message: str) -> None:
    """One object a line: who it is about stands in fields, and not in the message."""
    log.set_up(JSON, worker=3, stream=stream)
    logging.getLogger("poolproxy.worker").warning(message, ANN, "new\nline \udcff")
    assert stream.getvalue().count("\n") == 1
    found = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found.pop("time"))
    assert found == {
        "level": "WARNING",
        "pid": os.getpid(),
        "worker": 3,
        "connection": "C-7",
        "database": "shop",
        "user": "ann",
        "address": "10.0.0.1:50000",
        "message": "closing because: new\nline \\udcff",
    }


def test_json_has_tracebacks_in_the_object(stream: io.StringIO) -> None:
    """A traceback does not break the line; the acceptor has no worker's number."""
    log.set_up(JSON, stream=stream)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("poolproxy").exception("failed")
    found = json.loads(stream.getvalue())
    assert found["traceback"].startswith("Traceback")
    assert "worker" not in found


# -- repeats --------------------------------------------------------------------------------------


def test_the_same_again_is_counted() -> None:
    """Within a window a text is admitted as often as the limit says; at its end the rest is told."""
    repeats = Repeats(2)
    assert repeats.summary(100.0) == []
    assert [repeats.admit("a") for _ in range(5)] == [True, True, False, False, False]
    assert repeats.admit("b")
    assert repeats.summary(100.0 + WINDOW / 2) == []
    assert repeats.summary(100.0 + WINDOW) == [("a", 3)]
    assert repeats.admit("a")
    assert repeats.summary(100.0 + 2 * WINDOW) == []


def test_texts_without_end_are_one() -> None:
    """Clients can make up texts: beyond some number they are counted together."""
    repeats = Repeats(1)
    repeats.summary(0.0)
    for number in range(MOST_TEXTS + 10):
        repeats.admit(number)
    assert repeats.summary(WINDOW) == [(None, 9)]


def test_no_limit() -> None:
    """0 admits all."""
    repeats = Repeats(0)
    assert all(repeats.admit("a") for _ in range(100))
    assert repeats.summary(1e9) == []


def test_a_clock_that_goes_back_ends_the_window() -> None:
    """Else nothing would be told for as long as it went back."""
    repeats = Repeats(1)
    repeats.summary(1000.0)
    repeats.admit("a")
    repeats.admit("a")
    assert repeats.summary(10.0) == [("a", 1)]


def test_a_flood_of_warnings_is_summed_up(stream: io.StringIO) -> None:
    """The same warning about many clients is written ten times, and then how often it came; others and
    ordinary lines are not held back.
    """
    log.set_up(stream=stream)
    logger = logging.getLogger("poolproxy.worker")
    ours = logging.getLogger("poolproxy")
    for number in range(50):
        party = Party(f"C-{number}", "shop", "ann", "unix:1")
        logger.warning("%s pooler error: %s", party, "no such database: x")
        logger.info("%s closing because: %s", party, "x")
    logger.warning("%s pooler error: %s", ANN, "query_wait_timeout")
    for handler in ours.handlers:
        handler.close()
    text = stream.getvalue()
    assert text.count("WARNING C-") == 11
    assert text.count("closing because") == 50
    assert text.rstrip().endswith(
        "WARNING again 40 times within 1 s: pooler error: no such database: x"
    )


# -- where it goes --------------------------------------------------------------------------------


def test_a_log_file_is_appended_to_and_opened_again(stream: io.StringIO, tmp_path: Path) -> None:
    """Besides stderr; after the file was moved away, setting up again makes a new one."""
    path, moved = tmp_path / "pool.log", tmp_path / "pool.log.1"
    path.write_text("before\n")
    settings = Settings(logfile=str(path))
    logger = logging.getLogger("poolproxy")
    log.set_up(settings, stream=stream)
    logger.info("one")
    path.rename(moved)
    logger.info("two")
    log.set_up(settings, stream=stream)
    logger.info("three")
    assert [line.split()[-1] for line in moved.read_text().splitlines()] == ["before", "one", "two"]
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["three"]
    assert stream.getvalue().count("LOG") == 3


def test_a_log_file_that_cannot_be_opened(stream: io.StringIO, tmp_path: Path) -> None:
    """The mistake names the setting, and the log goes on where it went before."""
    log.set_up(stream=stream)
    with pytest.raises(ConfigError, match=r"logfile /.*: can't be opened: Is a directory"):
        log.set_up(Settings(logfile=str(tmp_path)))
    logging.getLogger("poolproxy").info("still here")
    assert "still here" in stream.getvalue()


def test_syslog(stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Facility, severity, name and process, without what syslog adds itself; a full daemon is no reason to
    wait.
    """
    path = str(tmp_path / "log")
    monkeypatch.setattr(outlet, "SYSLOG", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        daemon.settimeout(10)
        settings = attrs.evolve(Settings(), syslog=True, syslog_ident="pool")
        log.set_up(settings, stream=stream)
        logging.getLogger("poolproxy").warning("careful")
        assert daemon.recv(1000).decode() == f"<28>pool[{os.getpid()}]: careful"
        for _ in range(2000):
            logging.getLogger("poolproxy").info("flood")
    logging.getLogger("poolproxy").info("nobody there")
    assert "Traceback" not in stream.getvalue()


def test_syslog_that_is_not_there(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, as the daemon may come later, and all else is logged."""
    monkeypatch.setattr(outlet, "SYSLOG", str(tmp_path / "none"))
    log.set_up(Settings(syslog=True), stream=stream)
    logging.getLogger("poolproxy").info("up")
    first, second = stream.getvalue().splitlines()
    assert first.endswith(
        f"WARNING there is no {tmp_path}/none: nothing gets to syslog until it is there"
    )
    assert second.endswith("LOG up")
