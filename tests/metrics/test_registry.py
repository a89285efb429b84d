"""The table itself: names by Prometheus's rules, plain values, copies that share nothing."""

from __future__ import annotations

import re
from bisect import bisect_left

import pytest

from poolproxy.metrics.registry import BOUNDS, Kind, copied, labels_in, labels_of, metrics_of
from poolproxy.metrics.schema import (
    CLASSES,
    CLIENT_STATES,
    LedgerMetrics,
    PoolMetrics,
    ProxyMetrics,
    WorkerMetrics,
)

METRICS = [metric for cls in CLASSES for metric in metrics_of(cls)]
SHOWN = [metric for metric in METRICS if metric.kind is not Kind.SUM]


@pytest.mark.parametrize("metric", SHOWN, ids=lambda metric: metric.name)
def test_names_follow_the_conventions_of_prometheus(metric):
    """A name has our prefix, its base unit, and the suffix of its kind and of no other."""
    assert re.fullmatch(r"poolproxy_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.name.endswith("_info") == (metric.kind is Kind.INFO)
    assert metric.unit in ("", "seconds", "bytes")
    assert metric.name.removesuffix("_total").endswith(metric.unit)
    assert not re.search(r"_(bucket|count|sum|created)$", metric.name)


def test_every_metric_is_documented_and_named_once():
    """Two fields never share a name, and each doc is a sentence or more."""
    names = [metric.name for metric in SHOWN]
    assert len(names) == len(set(names))
    assert all(metric.doc.endswith(".") and "|" not in metric.doc for metric in METRICS)


def test_every_histogram_has_its_sum():
    """A histogram's total is a field of the same class that is not shown by itself."""
    for cls in CLASSES:
        kinds = {metric.field: metric for metric in metrics_of(cls)}
        totals = [metric.total for metric in kinds.values() if metric.kind is Kind.HISTOGRAM]
        assert sorted(totals) == sorted(n for n, m in kinds.items() if m.kind is Kind.SUM)


def test_no_label_is_set_twice():
    """A metric's own label is not a label of its class."""
    assert not [m for cls in CLASSES for m in metrics_of(cls) if m.label in labels_of(cls)]


def test_bounds_rise_from_100_microseconds_to_a_minute():
    """The buckets are sorted and span what a pooler sees."""
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert (BOUNDS[0], BOUNDS[-1], len(BOUNDS)) == (0.0001, 60.0, 16)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.0001, 0), (0.00011, 1), (61.0, 16)])
def test_a_time_goes_into_the_bucket_whose_bound_is_not_below_it(seconds, bucket):
    """bisect_left gives Prometheus's "less or equal", and there is a bucket above the last bound."""
    stats = PoolMetrics("shop", "alice")
    stats.wait_hist[bisect_left(BOUNDS, seconds)] += 1
    assert stats.wait_hist.index(1) == bucket


def test_a_reason_never_seen_before_counts_from_zero():
    """The relay may increment any reason without looking whether it is there."""
    stats = PoolMetrics("shop", "alice")
    stats.errors["query_wait_timeout"] += 1
    assert stats.errors == {"query_wait_timeout": 1}


def test_states_are_there_from_the_start():
    """A fixed set of label values is complete at 0, so a rate sees the first increment."""
    assert PoolMetrics("shop", "alice").clients == dict.fromkeys(CLIENT_STATES, 0)


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        (PoolMetrics("shop", "alice"), ("shop", "alice")),
        (LedgerMetrics("shop", "alice"), ("shop", "alice")),
        (WorkerMetrics(3), (3,)),
        (ProxyMetrics(), ()),
    ],
)
def test_labels_are_the_fields_that_are_no_metrics(row, labels):
    """What is not made by a helper is a label of all metrics of the class."""
    assert labels_in(row) == labels


def test_rows_take_no_attribute_that_the_table_lacks():
    """A misspelt metric is an error at once, not a count that nobody sees."""
    with pytest.raises(AttributeError):
        PoolMetrics("shop", "alice").xacts_count = 1


def test_a_copy_shares_nothing():
    """Counting on after the copy leaves the copy as it was."""
    stats = PoolMetrics("shop", "alice")
    copy = copied(stats)
    stats.query_count += 1
    stats.wait_hist[0] += 1
    stats.errors["protocol"] += 1
    assert (copy.query_count, copy.wait_hist[0], copy.errors) == (0, 0, {})
    assert labels_in(copy) == ("shop", "alice")
