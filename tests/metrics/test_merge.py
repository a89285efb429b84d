"""Totals over workers that report, die, restart and drop pools: counts stay, gauges go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from poolproxy.metrics.merge import Totals
from poolproxy.metrics.registry import MAX_LABEL_VALUES, OTHER
from poolproxy.metrics.schema import LedgerMetrics, PoolMetrics, WorkerMetrics
from poolproxy.metrics.snapshot import Reported, WorkerSnapshot, decode, encode

from .rows import as_dict, snapshots


def pool(database="shop", **values):
    """A pool's row of user alice."""
    return PoolMetrics(database, "alice", **values)


def report(slot, *pools, dropped=(), **values):
    """What the worker in ``slot`` would send."""
    return WorkerSnapshot(WorkerMetrics(slot, **values), pools, dropped)


def only(rows):
    """The one row there must be."""
    (row,) = rows
    return row


def test_pools_are_summed_over_workers_and_workers_are_not():
    """One pool has one row whatever workers serve it; each worker has its own."""
    totals = Totals()
    totals.update(0, report(0, pool(xact_count=2, errors={"a": 1}, wait_time=0.5), clients=4))
    totals.update(1, report(1, pool(xact_count=3, errors={"a": 1, "b": 2}, wait_time=1.0)))
    merged = totals.merged()
    row = only(merged.pools)
    assert (row.xact_count, row.wait_time, row.errors) == (5, 1.5, {"a": 2, "b": 2})
    assert [(worker.worker, worker.clients) for worker in merged.workers] == [(0, 4), (1, 0)]


def test_a_report_replaces_the_one_before():
    """Reports are absolute: the same one twice changes nothing."""
    totals = Totals()
    for _ in range(2):
        totals.update(0, report(0, pool(xact_count=2)))
    assert only(totals.merged().pools).xact_count == 2


def test_the_longest_wait_is_that_of_one_client():
    """Waits of several workers are not added: the longest is shown."""
    totals = Totals()
    totals.update(0, report(0, pool(maxwait=2.0)))
    totals.update(1, report(1, pool(maxwait=3.0)))
    assert only(totals.merged().pools).maxwait == 3.0


def test_a_dead_worker_leaves_its_counts_and_takes_its_gauges():
    """After retire the clients and servers of the worker are gone and what it counted stays."""
    totals = Totals()
    hist = [1] * 17
    totals.update(0, report(0, pool(xact_count=2, wait_hist=hist, clients={"idle": 9}), busy=1.5))
    totals.retire(0)
    merged = totals.merged()
    row = only(merged.pools)
    assert (row.xact_count, row.wait_hist, row.clients["idle"]) == (2, hist, 0)
    assert only(merged.workers).busy == 1.5


def test_a_successor_adds_to_the_counts_of_its_slot():
    """The worker started in a dead one's place starts at zero and the sums go on."""
    totals = Totals()
    totals.update(0, report(0, pool(xact_count=2), bad_packets=1))
    totals.retire(0)
    totals.update(0, report(0, pool(xact_count=3), bad_packets=1, clients=7))
    merged = totals.merged()
    assert only(merged.pools).xact_count == 5
    assert (only(merged.workers).bad_packets, only(merged.workers).clients) == (2, 7)


def test_a_worker_and_its_successor_may_report_side_by_side():
    """Two workers of one slot, one of which leaves, are added up as one row."""
    totals = Totals()
    totals.update(5, report(0, pool(xact_count=2), bad_packets=1))
    totals.update(9, report(0, pool(xact_count=3), bad_packets=1))
    assert only(totals.merged().pools).xact_count == 5
    assert only(totals.merged().workers).bad_packets == 2
    totals.retire(5)
    assert only(totals.merged().workers).bad_packets == 2


def test_a_pool_that_is_not_in_a_report_is_as_before():
    """Only what has changed is reported."""
    totals = Totals()
    totals.update(0, report(0, pool("a", xact_count=1), pool("b", xact_count=2)))
    totals.update(0, report(0, pool("b", xact_count=3)))
    assert [(row.database, row.xact_count) for row in totals.merged().pools] == [("a", 1), ("b", 3)]


def test_a_falling_gauge_is_no_restart():
    """Clients that leave don't make their worker's counts count twice."""
    totals = Totals()
    totals.update(0, report(0, pool(xact_count=5, clients={"idle": 5}), clients=5))
    totals.update(0, report(0, pool(xact_count=5, clients={"idle": 1}), clients=1))
    assert only(totals.merged().pools).xact_count == 5


def test_a_pool_that_a_worker_drops_keeps_its_counts():
    """It has ended, its counts stay; back again, in the same report or a later one, it adds to them."""
    totals = Totals()
    totals.update(0, report(0, pool(xact_count=5, clients={"idle": 1})))
    totals.update(0, report(0, dropped=(("shop", "alice"),)))
    assert only(totals.merged().pools).xact_count == 5
    assert only(totals.merged().pools).clients["idle"] == 0
    totals.update(0, report(0, pool(xact_count=6)))
    assert only(totals.merged().pools).xact_count == 11
    totals.update(0, report(0, pool(xact_count=1), dropped=(("shop", "alice"),)))
    assert only(totals.merged().pools).xact_count == 12


def test_retiring_an_unknown_worker_is_harmless():
    """A worker that died before its first report has nothing to keep."""
    totals = Totals()
    totals.retire(7)
    assert totals.merged().workers == ()


def test_pools_over_the_cap_are_summed_under_other():
    """The first pools keep their names; the rest share one row, in counts and in limits."""
    totals = Totals(max_pools=2)
    totals.update(0, report(0, *(pool(f"d{i}", xact_count=1) for i in range(5))))
    limits = [LedgerMetrics(f"d{i}", "alice", pool_size=20) for i in range(5)]
    merged = totals.merged(limits)
    assert [(row.database, row.xact_count) for row in merged.pools] == [
        ("d0", 1),
        ("d1", 1),
        (OTHER, 3),
    ]
    assert [(row.user, row.pool_size) for row in merged.ledger][2:] == [(OTHER, 60)]


def test_a_named_pool_keeps_its_name_when_its_worker_dies():
    """Names are given for good: a busy newcomer doesn't take the place of a quiet pool."""
    totals = Totals(max_pools=1)
    totals.update(0, report(0, pool("old", xact_count=1)))
    totals.retire(0)
    totals.update(0, report(0, pool("new", xact_count=100)))
    assert [(row.database, row.xact_count) for row in totals.merged().pools] == [
        ("old", 1),
        (OTHER, 100),
    ]


def test_names_that_differ_only_in_what_utf8_lacks_are_not_two_series_of_one_name():
    """A name that is no UTF-8 is shown escaped, and rows with equal labels are summed."""
    totals = Totals()
    totals.update(0, report(0, pool("caf\udce9", xact_count=1), pool("caf\\udce9", xact_count=2)))
    row = only(totals.merged().pools)
    assert (row.database, row.xact_count) == ("caf\\udce9", 3)


def test_label_values_over_the_cap_are_summed_under_other():
    """A reason set that grows by mistake stays bounded and loses no count."""
    totals = Totals()
    totals.update(0, report(0, pool(errors={f"reason {i}": 1 for i in range(100)})))
    errors = only(totals.merged().pools).errors
    assert len(errors) == MAX_LABEL_VALUES + 1
    assert errors[OTHER] == 100 - MAX_LABEL_VALUES


@given(snapshots(st.text()))
def test_merging_changes_no_report(snapshot):
    """What is merged shares nothing with the reports: merging twice gives the same."""
    totals = Totals()
    totals.update(0, snapshot)
    totals.retire(0)
    totals.update(0, snapshot)
    first, second = totals.merged(), totals.merged()
    assert [as_dict(row) for row in first.pools] == [as_dict(row) for row in second.pools]
    assert [as_dict(row) for row in first.workers] == [as_dict(row) for row in second.workers]


class Lives(RuleBasedStateMachine):
    """Workers count, report, die and forget pools; the truth is kept beside."""

    slots = st.integers(0, 2)
    names = st.sampled_from(["a", "b", "c"])

    def __init__(self):
        super().__init__()
        self.totals = Totals(max_pools=2)
        self.workers = {slot: {} for slot in range(3)}
        self.reported = {slot: Reported() for slot in range(3)}
        self.true_queries = 0
        self.seen = {}

    def _report(self, slot):
        changes = self.reported[slot].changes(self.workers[slot].values())
        self.totals.update(slot, decode(encode(WorkerMetrics(slot), *changes)))

    @rule(slot=slots, name=names, count=st.integers(1, 5))
    def queries(self, slot, name, count):
        """A worker serves some queries and reports."""
        row = self.workers[slot].setdefault(name, PoolMetrics(name, "alice"))
        row.query_count += count
        row.query_hist[count] += count
        row.errors[name] += count
        self.true_queries += count
        self._report(slot)

    @rule(slot=slots)
    def dies(self, slot):
        """A worker dies and another takes its slot."""
        self.totals.retire(slot)
        self.workers[slot] = {}
        self.reported[slot] = Reported()

    @rule(slot=slots, name=names)
    def forgets(self, slot, name):
        """A worker drops a pool, which may come back later."""
        self.workers[slot].pop(name, None)
        self._report(slot)

    @invariant()
    def no_count_is_lost(self):
        """The sums are the truth, and no series has fallen."""
        rows = self.totals.merged().pools
        assert sum(row.query_count for row in rows) == self.true_queries
        assert sum(sum(row.query_hist) for row in rows) == self.true_queries
        assert sum(sum(row.errors.values()) for row in rows) == self.true_queries
        now = {row.database: row.query_count for row in rows}
        assert all(now[name] >= count for name, count in self.seen.items())
        self.seen = now


TestLives = Lives.TestCase
