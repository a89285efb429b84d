"""A worker's metrics survive the way to the acceptor."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.metrics.registry import BOUNDS
from poolproxy.metrics.schema import PoolMetrics, WorkerMetrics
from poolproxy.metrics.snapshot import WorkerSnapshot, decode, encode

from .rows import as_dict, snapshots


def wire(worker=((), ()), pool_columns=(), pools=()):
    """Bytes as another version of the program might send them."""
    columns, values = worker
    return msgspec.msgpack.encode([columns, [0, values], pool_columns, pools])


@given(snapshots(st.text()))
def test_what_is_encoded_is_decoded(snapshot):
    """Any snapshot comes out as it went in, the zero counts of open label sets aside."""
    back = decode(encode(snapshot))
    assert back.worker.worker == snapshot.worker.worker
    assert as_dict(back.worker) == as_dict(snapshot.worker)
    assert [(row.database, row.user) for row in back.pools] == [
        (row.database, row.user) for row in snapshot.pools
    ]
    assert [as_dict(row) for row in back.pools] == [as_dict(row) for row in snapshot.pools]


def test_a_pool_that_has_done_nothing_is_small():
    """Idle pools cost little, so that hundreds fit into one message of the channel."""
    pools = tuple(PoolMetrics(f"database{i}", "application") for i in range(200))
    assert len(encode(WorkerSnapshot(WorkerMetrics(0), pools))) < 200 * 60


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
        wire((("clients",), ("1",))),
        wire(pool_columns=("xact_count",), pools=[("a", "b", ())]),
        wire(pool_columns=(), pools=[("a", ())]),
    ],
)
def test_anything_else_is_a_value_error(data):
    """What is no snapshot is refused with an error of one kind."""
    with pytest.raises(ValueError):  # noqa: PT011 - the documented type, texts are msgspec's
        decode(data)


def test_a_cut_or_prolonged_snapshot_is_refused():
    """No prefix of a snapshot decodes, and neither does one with bytes behind it."""
    data = encode(WorkerSnapshot(WorkerMetrics(1), (PoolMetrics("shop", "alice"),)))
    for broken in [*(data[:end] for end in range(len(data))), data + b"\x00"]:
        with pytest.raises(ValueError):  # noqa: PT011
            decode(broken)
