"""Measure all cells on all targets, interleaved, within a bounded time."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks.certificate import Certificate
from benchmarks.endpoint import TRUST, Access, Endpoint
from benchmarks.errors import Unavailable
from benchmarks.figures import Memory, Sample, Sharing, Transfer
from benchmarks.plan import Cell
from benchmarks.runs import idle, large, pgbench, sharing
from benchmarks.runs.pgbench import Load
from benchmarks.targets import DIRECT, OURS, REFERENCE, TARGETS, Limits, running

_PROBE_CLIENTS = 16
_PROCESSES = len(sharing.SPREAD)
_NOT_DIRECT = "left out: a pooler is what this is about"
_NO_MOVES = "left out: its clients stay in their process"


@attrs.define
class Results:
    """Samples, or the reason why there are none, by cell name and target name."""

    samples: dict[tuple[str, str], list[Sample]] = attrs.field(factory=dict)
    reasons: dict[tuple[str, str], str] = attrs.field(factory=dict)
    skipped: bool = False
    """Whether rounds were left out because the time was over."""


@attrs.define
class Runner:
    """``endpoints`` are the running targets by name and access, ``lost`` those that did not start, and
    why.
    """

    pgbench: Path
    server: Endpoint
    endpoints: Mapping[tuple[str, Access], Endpoint]
    lost: Mapping[tuple[str, Access], str]
    cells: Sequence[Cell]
    deadline: float
    """On the clock time.monotonic(); nothing is started that would end after it."""
    certificate: Certificate | None = None
    results: Results = attrs.field(factory=Results)

    def measure(self) -> Results:
        """Rounds outside, cells and targets inside: whatever else the machine does in the
        meantime strikes all targets alike, and a time limit costs rounds, not cells."""
        for cell in self.cells:
            for (target, access), reason in self.lost.items():
                if access == cell.access:
                    self.results.reasons[cell.name, target] = reason
            if not cell.direct:
                self.results.reasons[cell.name, DIRECT] = _NOT_DIRECT
            if cell.moves:
                self.results.reasons[cell.name, REFERENCE] = _NO_MOVES
        self._warm_up()
        self._probe_prepared()
        for turn in range(max((cell.rounds for cell in self.cells), default=0)):
            for cell in self.cells:
                if turn < cell.rounds:
                    self._all_targets(cell, turn)
        return self.results

    def _all_targets(self, cell: Cell, turn: int) -> None:
        endpoints = self._endpoints(cell, turn)
        expected = (cell.seconds + 1) * len(endpoints)
        if time.monotonic() + expected > self.deadline:
            self.results.skipped = True
            for target in endpoints if turn == 0 else ():
                self.results.reasons.setdefault((cell.name, target), "the time was over")
            return
        for target, endpoint in endpoints.items():
            key = cell.name, target
            if key in self.results.reasons:
                continue
            try:
                sample = self._once(cell, target, endpoint)
            except Unavailable as error:
                self._give_up(key, str(error))
            else:
                self.results.samples.setdefault(key, []).append(sample)
                note(f"round {turn + 1}  {cell.name:32} {target:10} {brief(sample)}")

    def _endpoints(self, cell: Cell, turn: int) -> dict[str, Endpoint]:
        return {
            name: at
            for (name, access), at in self.endpoints.items()
            if access == cell.access and not (turn and name == DIRECT)
        }

    def _once(self, cell: Cell, target: str, endpoint: Endpoint) -> Sample:
        if cell.load is not None:
            return pgbench.run(self.pgbench, endpoint, cell.load, cell.seconds)
        if cell.kind is Sharing:
            return self._share(cell, target)
        if cell.kind is Transfer:
            return large.run(endpoint, cell.size, cell.seconds)
        # A fresh one: memory that earlier load has left behind would hide what clients cost.
        with running(TARGETS[target], self.server, Limits(max_clients=cell.size + 100)) as fresh:
            return idle.run(fresh, cell.size)

    def _share(self, cell: Cell, target: str) -> Sample:
        """PgBouncer's processes have a pool each, so there can be no more of them than connections."""
        ours = target == OURS
        processes = _PROCESSES if ours else min(_PROCESSES, cell.size)
        one = Limits(pool_size=cell.size, access=cell.access, certificate=self.certificate)
        many = attrs.evolve(one, processes=processes, client_moves=cell.moves)
        with (
            running(TARGETS[target], self.server, one) as endpoint,
            running(TARGETS[target], self.server, many) as spread,
        ):
            return sharing.run(endpoint, spread, cell.seconds, gathers=ours)

    def _give_up(self, key: tuple[str, str], reason: str) -> None:
        """One failure takes the cell from the target: a median of the rounds that happened to
        work would flatter it."""
        self.results.samples.pop(key, None)
        self.results.reasons[key] = reason
        note(f"n/a      {key[0]:32} {key[1]:10} {reason}")

    def _warm_up(self) -> None:
        """Fill caches and pools; what fails here will fail again where it is reported."""
        for endpoint in self.endpoints.values():
            try:
                pgbench.run(self.pgbench, endpoint, Load(_PROBE_CLIENTS, "simple"), 1)
            except Unavailable:
                pass

    def _probe_prepared(self) -> None:
        """Prepared statements in transaction mode need more clients than servers to show that
        they fail: a lone client always meets the same server."""
        prepared = [cell for cell in self.cells if cell.load and cell.load.protocol == "prepared"]
        for (target, access), endpoint in self.endpoints.items() if prepared else ():
            if access != TRUST:
                continue
            try:
                pgbench.run(self.pgbench, endpoint, Load(_PROBE_CLIENTS, "prepared"), 1)
            except Unavailable as error:
                reason = f"no prepared statements in transaction mode ({error})"
                for cell in prepared:
                    self._give_up((cell.name, target), reason)


def brief(sample: Sample) -> str:
    """A sample in one line, to watch the run."""
    if isinstance(sample, Transfer):
        return f"{sample.mb_per_s:8.0f} MB/s"
    if isinstance(sample, Memory):
        return f"{sample.client_bytes:8.0f} bytes/client"
    if isinstance(sample, Sharing):
        return (
            f"{sample.tps:8.0f} tx/s  {sample.tps_ratio:.2f} of one process's,"
            f" p99 {sample.p99_ms:.1f} ms ({sample.p99_ratio:.2f}), least {sample.least:.2f}"
        )
    cpu = "" if sample.cpu_us is None else f"  {sample.cpu_us:6.1f} µs CPU/tx"
    return f"{sample.tps:8.0f} tx/s{cpu}"


def note(text: str) -> None:
    """Progress goes to stderr, the report to stdout."""
    print(text, file=sys.stderr, flush=True)
