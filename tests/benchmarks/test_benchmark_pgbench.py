"""Reading pgbench's log and output."""

from __future__ import annotations

import pytest

from benchmarks.errors import Unavailable
from benchmarks.process import CpuReading
from benchmarks.runs.pgbench import Load, Logged, complaint, parse_log, percentile, summarise


def test_log_lines_are_read() -> None:
    """Latency and the time of the end are taken from a line."""
    assert parse_log(["0 199 2241 0 1175850568 995598"]) == [Logged(1175850568.995598, 2241)]


def test_failed_and_skipped_transactions_are_left_out() -> None:
    """pgbench writes a word in place of the latency of what did not succeed."""
    lines = ["3 0 failed 0 1499414498 84905", "0 5 skipped 0 1412881037 912698"]
    assert parse_log(lines) == []


def run_of(seconds: int, per_second: int) -> list[Logged]:
    return [
        Logged(100 + number / per_second, 1000 + number % 100)
        for number in range(seconds * per_second)
    ]


def readings(seconds: int) -> list[CpuReading]:
    """Half a core is used from the first moment, and log-ins cost 3 seconds before."""
    return [CpuReading(100 + step / 10, 3 + step / 20) for step in range(-5, seconds * 10 + 5)]


def test_rates_are_those_of_the_steady_part() -> None:
    """What happens before and after the window changes neither rate nor CPU time."""
    figures = summarise(run_of(4, 1000), readings(4), 2, has_cpu=True)
    assert figures.tps == pytest.approx(1000, rel=0.01)
    assert figures.cpu_us == pytest.approx(500, rel=0.01)
    assert figures.p50_ms == pytest.approx(1.05, abs=0.002)
    assert figures.p99_ms == pytest.approx(1.099, abs=0.002)


def test_without_a_pooler_there_is_no_cpu_figure() -> None:
    """A direct connection has None, not zero, which would look like a result."""
    assert summarise(run_of(2, 1000), readings(2), 2, has_cpu=False).cpu_us is None


@pytest.mark.parametrize("logged", [[], run_of(1, 1), run_of(1, 1000)[:150]])
def test_a_run_that_says_nothing_is_refused(logged: list[Logged]) -> None:
    """No transactions, one, or a window shorter than two readings give no figures."""
    with pytest.raises(Unavailable):
        summarise(logged, readings(1), 1, has_cpu=True)


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 10), (1, 10), (25, 10), (50, 20), (75, 30), (76, 40), (100, 40)]
)
def test_percentiles_are_nearest_rank(percent: int, value: int) -> None:
    """A percentile is a value that occurred, the least one that covers the share."""
    assert percentile([10, 20, 30, 40], percent) == value


@pytest.mark.parametrize(
    "line",
    [
        'pgbench: error: connection to server at "x" failed: FATAL:  no more connections',
        "pgbench: error: client 3 script 0 aborted: ERROR:  no more connections",
        "pgbench: error: no more connections",
    ],
)
def test_the_first_error_is_what_the_report_tells(line: str) -> None:
    """Prefixes and what follows from the first error are left out."""
    text = f"pgbench (15.0)\nDETAIL: none\n{line}\npgbench: error: Run was aborted\n"
    assert complaint(text).endswith("no more connections")
    assert "pgbench" not in complaint(text)


def test_reconnecting_clients_do_not_wait_for_each_other() -> None:
    """With -C each client has a thread; else one serves all."""
    assert Load(16, "simple").threads == 1
    assert Load(16, "simple", reconnect=True).threads == 16
