"""A worker's metrics survive the way to the acceptor."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.metrics.registry import BOUNDS
from poolproxy.metrics.schema import PoolMetrics, WorkerMetrics
from poolproxy.metrics.snapshot import Reported, WorkerSnapshot, decode, encode

from .rows import as_dict, snapshots


def wire(worker=((), ()), pool_columns=(), pools=(), dropped=()):
    """Bytes as another version of the program might send them."""
    columns, values = worker
    return msgspec.msgpack.encode([0, columns, values, pool_columns, pools, dropped])


def full(snapshot):
    """The first report of a worker with these rows."""
    return encode(snapshot.worker, *Reported().changes(snapshot.pools))


@given(snapshots(st.text()))
def test_what_is_encoded_is_decoded(snapshot):
    """Any snapshot comes out as it went in."""
    back = decode(full(snapshot))
    assert back.worker.worker == snapshot.worker.worker
    assert as_dict(back.worker) == as_dict(snapshot.worker)
    assert [(row.database, row.user) for row in back.pools] == [
        (row.database, row.user) for row in snapshot.pools
    ]
    assert [as_dict(row) for row in back.pools] == [as_dict(row) for row in snapshot.pools]


def test_only_what_has_changed_is_reported():
    """A pool that has done nothing since the last report is not in the next one, whatever the field."""
    rows = [PoolMetrics(f"database{i}", "application") for i in range(3)]
    reported = Reported()
    assert len(reported.changes(rows)[0]) == 3
    assert reported.changes(rows) == ([], [])
    for change in (
        lambda row: setattr(row, "xact_count", 1),
        lambda row: row.wait_hist.__setitem__(16, 1),
        lambda row: row.errors.__setitem__("a", 1),
        lambda row: setattr(row, "maxwait", 0.5),
    ):
        change(rows[1])
        changed, dropped = reported.changes(rows)
        assert ([name for name, _, _ in changed], dropped) == (["database1"], [])


def test_pools_that_are_given_up_are_named():
    """Once; one that was made anew in between is both dropped and reported, though it looks the same."""
    one, two = PoolMetrics("one", "a"), PoolMetrics("two", "a")
    reported = Reported()
    reported.changes([one, two])
    changed, dropped = reported.changes([PoolMetrics("one", "a")])
    assert [name for name, _, _ in changed] == ["one"]
    assert sorted(dropped) == [("one", "a"), ("two", "a")]
    assert reported.changes([]) == ([], [("one", "a")])


def test_columns_that_this_version_does_not_know_are_ignored():
    """An acceptor reads a worker of another version and takes what it understands."""
    data = wire((("clients", "new_thing"), (3, 5)), ("xact_count", "gone"), [("a", "b", (7, {}))])
    snapshot = decode(data)
    assert snapshot.worker.clients == 3
    assert snapshot.pools[0].xact_count == 7


def test_columns_that_are_missing_are_zero():
    """A worker of an older version leaves new metrics at their defaults."""
    assert as_dict(decode(wire()).worker) == as_dict(WorkerMetrics(0))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode("snapshot"),
        wire((("clients",), ())),
        wire((("clients",), ([1],))),
        wire((("clients",), ({"a": 1},))),
        wire((("cancels",), (1,))),
        wire((("loop_lag_hist",), (1,))),
        wire((("loop_lag_hist",), ([1] * (len(BOUNDS) + 2),))),
        wire((("loop_lag_hist",), ([1] * len(BOUNDS),))),
        wire((("clients",), ("1",))),
        wire(pool_columns=("xact_count",), pools=[("a", "b", ())]),
        wire(pool_columns=(), pools=[("a", ())]),
        wire(dropped=[("a",)]),
    ],
)
def test_anything_else_is_a_value_error(data):
    """What is no snapshot is refused with an error of one kind."""
    with pytest.raises(ValueError):  # noqa: PT011 - the documented type, texts are msgspec's
        decode(data)


def test_a_cut_or_prolonged_snapshot_is_refused():
    """No prefix of a snapshot decodes, and neither does one with bytes behind it."""
    data = full(WorkerSnapshot(WorkerMetrics(1), (PoolMetrics("shop", "alice"),)))
    for broken in [*(data[:end] for end in range(len(data))), data + b"\x00"]:
        with pytest.raises(ValueError):  # noqa: PT011
            decode(broken)
