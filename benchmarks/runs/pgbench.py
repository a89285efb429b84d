"""Short queries by pgbench: rates, latencies, and the pooler's CPU time for each transaction."""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from benchmarks.client import Client
from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable
from benchmarks.figures import Transactions
from benchmarks.process import CpuReading, CpuRecorder

_SPARE_SECONDS = 15
# From so many clients on their log-ins take a noticeable part of a run of seconds.
_MANY_CLIENTS = 100
# Left out at both ends: clients that still start, or have ended already.
_MARGIN = 0.1


@attrs.frozen
class Load:
    """What pgbench shall do; the options are explained at its ``-M``, ``-c`` and ``-C``."""

    clients: int
    protocol: str
    reconnect: bool = False

    @property
    def threads(self) -> int:
        """Threads of pgbench.

        One serves many clients at 5-10 µs a transaction, a fifth of what PostgreSQL and the
        pooler need together, so it is never the bottleneck; a second would only fight them
        for the cores. But with ``-C`` a thread blocks while it connects: there each client
        has its own, or only one connection would ever be made at a time.
        """
        return self.clients if self.reconnect else 1


@attrs.frozen
class Logged:
    """One line of pgbench's log: ``at`` in seconds since the epoch."""

    at: float
    latency_us: int


def initialise(program: Path, server: Endpoint) -> None:
    """Create and fill pgbench's tables, 13 MB. Raises Unavailable."""
    _call([str(program), "-i", "-q", "-s", "1"], server, timeout=60)


def run(program: Path, endpoint: Endpoint, load: Load, seconds: int) -> Transactions:
    """Select-only transactions, measured for ``seconds`` after the log-ins. Raises Unavailable."""
    duration = seconds + _login_seconds(endpoint, load.clients)
    options = ["-S", "-n", "-M", load.protocol, "-c", str(load.clients), "-j", str(load.threads)]
    options += ["-T", str(duration), *(["-C"] if load.reconnect else []), "-l"]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        command = [str(program), *options, f"--log-prefix={folder}/log"]
        with CpuRecorder(endpoint.pid) as recorder:
            _call(command, endpoint, timeout=duration + _SPARE_SECONDS)
        logged = [
            line
            for path in Path(folder).iterdir()  # one file a thread
            for line in parse_log(path.read_text().splitlines())
        ]
    return summarise(logged, recorder.readings, seconds, has_cpu=endpoint.pid is not None)


def _login_seconds(endpoint: Endpoint, clients: int) -> int:
    """How much to add to pgbench's duration, which begins before its clients log in.

    Tried with a few log-ins one after the other, which is what pgbench does.
    """
    if clients < _MANY_CLIENTS:
        return 0
    tries = 20
    begin = time.monotonic()
    try:
        for _ in range(tries):
            client = Client(endpoint)
            client.wait_ready()
            client.close()
    except OSError as error:
        raise Unavailable(f"log-in: {error}") from error
    # The more there are the slower they become, at least with a process for each.
    return math.ceil(1.5 * clients / tries * (time.monotonic() - begin))


def parse_log(lines: Iterable[str]) -> list[Logged]:
    """Read a log of ``pgbench -l``; transactions that failed or were skipped are left out."""
    return [
        Logged(at=int(fields[4]) + int(fields[5]) / 1e6, latency_us=int(fields[2]))
        for fields in map(str.split, lines)
        if fields[2].isdigit()
    ]


def summarise(
    logged: Sequence[Logged], readings: Sequence[CpuReading], seconds: float, *, has_cpu: bool
) -> Transactions:
    """Figures of the last ``seconds`` of the steady part, between two CPU readings.

    So log-ins cost nothing (but with ``-C``, where they are part of the run). Raises
    Unavailable if the run was too short or too slow to say anything.
    """
    if not logged:
        raise Unavailable("no transaction ended")
    last = max(line.at for line in logged) - _MARGIN
    first = max(min(line.at for line in logged) + _MARGIN, last - seconds)
    inside = [reading for reading in readings if first <= reading.at <= last]
    if len(inside) < 2:
        raise Unavailable("the run was too short to be measured")
    begin, end = inside[0], inside[-1]
    latencies = sorted(line.latency_us for line in logged if begin.at < line.at <= end.at)
    if not latencies:
        raise Unavailable("no transaction ended")
    cpu_us = (end.cpu_seconds - begin.cpu_seconds) * 1e6 / len(latencies)
    return Transactions(
        tps=len(latencies) / (end.at - begin.at),
        cpu_us=cpu_us if has_cpu else None,
        p50_ms=percentile(latencies, 50) / 1000,
        p99_ms=percentile(latencies, 99) / 1000,
    )


def percentile(ordered: Sequence[int], percent: int) -> int:
    """The nearest-rank percentile of values in ascending order."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _call(command: Sequence[str], endpoint: Endpoint, timeout: float) -> None:
    place = ["-h", endpoint.host, "-p", str(endpoint.port), "-U", endpoint.user, endpoint.dbname]
    environment = os.environ | endpoint.access.environment()
    try:
        done = subprocess.run(
            [*command, *place], env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pgbench did not end within {timeout:.0f} s") from None
    if done.returncode:
        raise Unavailable(complaint(done.stderr))


def complaint(stderr: str) -> str:
    """The first error in pgbench's output, without its prefixes."""
    for line in stderr.splitlines():
        found = re.search(r"(?:ERROR|FATAL|error): +(?!ERROR|FATAL)(.*)", line)
        if found:
            return found[1]
    return "pgbench failed without a message"
