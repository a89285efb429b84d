"""The averages of SHOW STATS."""

from __future__ import annotations

from poolproxy.admin.averages import Averages, by_database, stats_line
from poolproxy.metrics.schema import PoolMetrics


def pool(user: str, *, database: str = "db", **counts: float) -> PoolMetrics:
    row = PoolMetrics(database, user)
    for name, value in counts.items():
        setattr(row, name, value)
    return row


def test_counts_are_summed_by_database_with_times_in_microseconds() -> None:
    """All pools of a database are one row."""
    found = by_database(
        [pool("a", xact_count=1, xact_time=0.5), pool("b", xact_count=2, xact_time=0.25)]
    )
    assert (found["db"]["xact_count"], found["db"]["xact_time"]) == (3, 750_000)


def test_averages_are_of_the_last_period() -> None:
    """Counts per second, times per transaction or wait; none before the first period has ended."""
    averages = Averages(100.0)
    assert averages.of("db")["xact_count"] == 0
    averages.sample(by_database([pool("a", xact_count=100, bytes_sent=50)]), 110.0)
    assert averages.of("db")["xact_count"] == 10
    row = pool("a", xact_count=140, xact_time=2.0, bytes_sent=1050, wait_time=1.0)
    row.server_assignment_count = 4
    averages.sample(by_database([row]), 130.0)
    found = averages.of("db")
    assert (found["xact_count"], found["bytes_sent"]) == (2, 50)
    assert (found["xact_time"], found["wait_time"]) == (50_000, 250_000)
    assert averages.of_all() == found
    assert averages.of("other")["xact_count"] == 0


def test_what_falls_is_no_negative_average() -> None:
    """A killed worker takes what it had not reported with it."""
    averages = Averages(0.0)
    averages.sample(by_database([pool("a", xact_count=100)]), 10.0)
    averages.sample(by_database([pool("a", xact_count=90)]), 20.0)
    assert averages.of("db")["xact_count"] == 0


def test_the_line_of_the_log_is_pgbouncers() -> None:
    """Per second, and mean times in microseconds."""
    averages = Averages(0.0)
    row = pool("a", xact_count=20, query_count=40, xact_time=0.01, query_time=0.02, wait_time=1.0)
    row.bytes_received, row.bytes_sent, row.server_assignment_count = 100, 2000, 10
    averages.sample(by_database([row]), 10.0)
    assert stats_line(averages.of_all()) == (
        "stats: 2 xacts/s, 4 queries/s, 0 client parses/s, 0 server parses/s, 0 binds/s, in 10 B/s, "
        "out 200 B/s, xact 500 us, query 500 us, wait 100000 us"
    )
