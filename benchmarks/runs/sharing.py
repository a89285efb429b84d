"""Many clients on few server connections, unevenly spread over the processes of a pooler.

The poolers that are compared are asked in turns of half a second or so: how fast a shared machine is changes
by a quarter within seconds, and that should hit both.

Which process has a client the kernel tells: the other end of its connection is a socket of that process. So
more clients are connected than needed, and those that are too many in their process leave again.
"""

from __future__ import annotations

import os
import random
import re
import select
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median, quantiles

import attrs

from benchmarks.client import READY, query, startup_packet
from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable
from benchmarks.figures import Sharing
from benchmarks.process import tree

SPREAD = (120, 40, 30, 10)  # clients of each process
_MARGIN = 0.25  # of the run is left out at its beginning, while servers are opened
_GATHERING_SECONDS = (
    2  # more where clients are gathered: it takes a second or so to see that they should be
)
_TURN_SECONDS = 0.5  # or a little more, at least
_RAMP_SECONDS = 0.2  # of each turn are left out
_DRAIN_SECONDS = 10.0  # at most, for the last answers of a turn
_MOST = 12 * sum(SPREAD)
_SETTLE_SECONDS = 5.0


@attrs.frozen
class Run:
    """What one run has shown; ``least`` is the least-served client's share of the median client's."""

    tps: float
    p99: float
    least: float


class Caller:
    """One client that sends a query as soon as it has the answer to the last one. ``served``: how often
    within the time that counts; of the ``waits`` some are over a little later.
    """

    def __init__(self, endpoint: Endpoint, loop: Loop) -> None:
        self._socket = _connected(endpoint)
        self._loop = loop
        self.port: int = self._socket.getsockname()[1]
        self.fd = self._socket.fileno()
        self.began = 0.0
        self.served = 0
        self.waits: list[float] = []
        self._socket.sendall(startup_packet(endpoint.user, endpoint.dbname))
        while not (data := self._socket.recv(65536)).endswith(READY):
            if not data or data[:1] == b"E":
                raise Unavailable(f"log-in: {data[:200]!r}")

    def ask(self, now: float) -> None:
        self.began = now
        self._loop.asked += 1
        sql = f"select abalance from pgbench_accounts where aid = {random.randint(1, 1000)}"
        self._socket.sendall(query(sql))

    def answered(self, now: float) -> None:
        """Something has come; if it is the whole answer, ask again."""
        data = self._socket.recv(65536)  # in a TLS record, too, as the answer is small
        if not data or data[:1] == b"E":
            raise Unavailable(f"query: {data[:200]!r}")
        if data.endswith(READY):
            self._loop.asked -= 1
            if self._loop.counts:
                self.waits.append(now - self.began)
                self.served += not self._loop.over
            if not self._loop.over:
                self.ask(now)

    def close(self) -> None:
        self._socket.close()


def _connected(endpoint: Endpoint) -> socket.socket:
    plain = socket.create_connection((endpoint.host, endpoint.port), timeout=15)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not endpoint.access.tls:
        return plain
    plain.sendall(_SSL_REQUEST)
    if plain.recv(1) != b"S":
        raise Unavailable("it offers no TLS")
    return _TLS.wrap_socket(plain)


def _any_certificate() -> ssl.SSLContext:
    """As libpq does with sslmode=require."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_TLS = _any_certificate()


class Loop:
    """Runs callers; what is answered while it ``counts`` is noted. ``over``: whoever has an answer asks no
    more; ``asked``: how many wait for one.
    """

    def __init__(self) -> None:
        self.counts = self.over = False
        self.asked = 0

    def run(self, callers: Sequence[Caller], seconds: float, lead: float) -> None:
        """For so many seconds, of which ``lead`` don't count; then until all have got their answers."""
        epoll = select.epoll()
        by_fd = {caller.fd: caller for caller in callers}
        for fd in by_fd:
            epoll.register(fd, select.EPOLLIN)
        self.counts = self.over = False
        began = time.monotonic()
        for caller in callers:
            caller.ask(began)
        while self.asked:
            now = time.monotonic()
            self.over = now > began + seconds
            self.counts = now > began + lead
            if now > began + seconds + _DRAIN_SECONDS:
                raise Unavailable(f"{self.asked} clients don't get an answer")
            for fd, _ in epoll.poll(1, 512):
                by_fd[fd].answered(time.monotonic())
        epoll.close()


class Crowd:
    """The clients of one pooler."""

    def __init__(self, connect: Callable[[Loop], list[Caller]]) -> None:
        self._loop = Loop()
        try:
            self._callers = connect(self._loop)
        except OSError as error:
            raise Unavailable(str(error)) from error
        self._counted = 0.0

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *error: object) -> None:
        for caller in self._callers:
            caller.close()

    def ask(self, seconds: float, lead: float) -> None:
        """All of them, for ``lead`` seconds that do not count, and so many that do."""
        self._loop.run(self._callers, lead + seconds, lead)
        self._counted += seconds

    def result(self) -> Run:
        """Of all seconds that have counted."""
        counts = [caller.served for caller in self._callers]
        waits = [wait for caller in self._callers for wait in caller.waits]
        if sum(counts) < 2 * len(self._callers):
            raise Unavailable("hardly any client was served")
        return Run(
            tps=sum(counts) / self._counted,
            p99=quantiles(waits, n=100)[98],
            least=min(counts) / median(counts),
        )


def run(one: Endpoint, many: Endpoint, seconds: int, *, gathers: bool = False) -> Sharing:
    """Compare a pooler of one process with one of many, whose clients are spread as ``SPREAD``, or as its
    first numbers if it has fewer processes. If it ``gathers`` clients at one of these, what counts of that
    begins later.
    """
    lead = _MARGIN * seconds
    turns = int((seconds - lead) / _TURN_SECONDS) or 1
    turn = (seconds - lead) / turns
    with (
        Crowd(lambda loop: _connect(one, sum(SPREAD), loop)) as alone,
        Crowd(lambda loop: _spread(many, loop)) as spread,
    ):
        alone.ask(0.0, lead)
        spread.ask(0.0, lead + _GATHERING_SECONDS * gathers)
        for _ in range(turns):
            alone.ask(turn, _RAMP_SECONDS)
            spread.ask(turn, _RAMP_SECONDS)
        one_process, more = alone.result(), spread.result()
    return Sharing(
        tps=more.tps,
        tps_ratio=more.tps / one_process.tps,
        p99_ms=more.p99 * 1000,
        p99_ratio=more.p99 / one_process.p99,
        least=more.least,
    )


def _connect(endpoint: Endpoint, count: int, loop: Loop) -> list[Caller]:
    return [Caller(endpoint, loop) for _ in range(count)]


def _spread(endpoint: Endpoint, loop: Loop) -> list[Caller]:
    """Connect until each process has as many as it is to have, and send the others away."""
    assert endpoint.pid is not None
    callers: list[Caller] = []
    while len(callers) < _MOST:
        callers += _connect(endpoint, 40, loop)
        where = owners(endpoint.pid, endpoint.port)
        held = Counter(where[caller.port] for caller in callers)
        wanted = _wanted(held)
        if wanted is not None:
            kept: list[Caller] = []
            for caller in callers:
                process = where[caller.port]
                if wanted.get(process, 0):
                    wanted[process] -= 1
                    kept.append(caller)
                else:
                    caller.close()
            _wait_until_gone(endpoint, {caller.port for caller in kept})
            return kept
    raise Unavailable(f"its processes don't get {SPREAD} clients out of {_MOST}")


def _wanted(held: Counter[int]) -> dict[int, int] | None:
    """How many clients each process is to keep, None if they have not got so many yet."""
    processes = [process for process, _ in held.most_common(len(SPREAD))]
    share = [*SPREAD[: len(processes) - 1], sum(SPREAD[len(processes) - 1 :])]
    wanted = dict(zip(processes, sorted(share, reverse=True), strict=True))
    enough = all(held[process] >= count for process, count in wanted.items())
    return wanted if enough else None


def _wait_until_gone(endpoint: Endpoint, ports: set[int]) -> None:
    deadline = time.monotonic() + _SETTLE_SECONDS
    assert endpoint.pid is not None
    while set(owners(endpoint.pid, endpoint.port)) - ports:
        if time.monotonic() > deadline:
            raise Unavailable("clients that have left are still there")
        time.sleep(0.05)


def owners(root: int, port: int) -> dict[int, int]:
    """By port of the client: the process below ``root`` that has the other end of its connection."""
    inodes = {}
    for process in tree(root):
        for inode in _sockets(process):
            inodes[inode] = process
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.split(":")[1], 16) for address in fields[1:3])
        if local == port and fields[9] in inodes:
            found[remote] = inodes[fields[9]]
    found.pop(0, None)  # of the listening socket
    return found


def _sockets(process: int) -> Iterable[str]:
    folder = f"/proc/{process}/fd"
    for name in os.listdir(folder):
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"{folder}/{name}"))
        except FileNotFoundError:
            continue
        if match:
            yield match[1]
