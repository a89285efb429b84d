"""What ``poolproxy console`` and ``poolproxy top`` print."""

from __future__ import annotations

import json

import attrs

from poolproxy.cli.console import aligned, as_objects, as_table
from poolproxy.cli.console_client import Answer
from poolproxy.cli.top import Sample, lines


def test_columns_are_aligned_and_numbers_are_to_the_right() -> None:
    """NULL is empty; what is no letter does not reach the terminal."""
    shown = aligned([("name", "count"), ("a", "5"), ("longer\x1b[2J", None), ("b", "123")])
    assert [line.split() for line in shown] == [
        ["name", "count"],
        ["a", "5"],
        ["longer?[2J"],
        ["b", "123"],
    ]
    assert shown[0].rindex("t") == shown[1].rindex("5") == shown[3].rindex("3")


def test_answers_as_json_and_as_a_tag() -> None:
    """An array of objects with texts; a command without rows has its tag."""
    answer = Answer(("a", "b"), (("1", None),), "SHOW", ())
    assert json.loads(as_objects(answer)) == [{"a": "1", "b": None}]
    assert as_table(Answer((), (), "PAUSE", ())) == "PAUSE"


def sample(at: float, count: int, waiting: int) -> Sample:
    pool = {"database": "shop", "user": "ann", "pool_mode": "transaction", "cl_active": "3"}
    pool |= {"cl_waiting": str(waiting), "sv_active": "2", "sv_idle": "0", "sv_tested": "0"}
    pool |= {"sv_login": "0", "maxwait": "1", "maxwait_us": "500000"}
    worker = {"worker": "0", "pid": "77", "state": "ready", "clients": "3", "queued": "0"}
    worker |= {"lag_us": "10", "age": "5"}
    totals = {"database": "shop", "xact_count": str(count), "xact_time": str(count * 2000)}

    def answer(*rows: dict[str, str]) -> Answer:
        return Answer(tuple(rows[0]), tuple(tuple(row.values()) for row in rows), "SHOW", ())

    other = pool | {"database": "another", "cl_waiting": "0"}
    state = {"key": "active", "value": "yes"}
    return Sample(at, answer(other, pool), answer(worker), answer(totals), answer(state), "V 1")


def test_top_shows_rates_and_who_waits_first() -> None:
    """Rates are those between two samples; without one before there are none."""
    first = list(lines(sample(10.0, 100, 0), None))
    assert "transactions/s -" in first[1]
    second = list(lines(sample(12.0, 300, 4), sample(10.0, 100, 0)))
    assert "waiting 4" in second[1]
    assert "transactions/s 100" in second[1]
    assert second[4].split() == [
        *("shop", "ann", "4", "1.5", "100", "2.0", "3", "2", "0", "0", "0", "transaction")
    ]
    assert "77" in second[-1]


def test_top_fits_into_its_terminal() -> None:
    """Both pools and workers show, the more urgent pools; a long name leaves room for the figures."""
    one = sample(10.0, 100, 2)
    row = dict(zip(one.pools.columns, one.pools.rows[0], strict=True))
    many = [row | {"database": f"d{number}" * 20} for number in range(50)]
    crowd = attrs.evolve(
        one,
        pools=attrs.evolve(one.pools, rows=tuple(tuple(r.values()) for r in (*many, *_dicts(one)))),
        workers=attrs.evolve(one.workers, rows=one.workers.rows * 16),
    )
    shown = list(lines(crowd, None, 20))
    assert len(shown) == 20
    assert sum("77" in line for line in shown) == 4
    assert shown[4].startswith("shop")
    assert shown[6].startswith("d0d0d0d0d0d0d0d0d0d0d0..")
    assert len(list(lines(crowd, None))) == 6 + 52 + 16
    assert len(list(lines(one, None, 20))) == 6 + 2 + 1


def _dicts(one: Sample) -> list[dict[str, str | None]]:
    return [dict(zip(one.pools.columns, row, strict=True)) for row in one.pools.rows]
