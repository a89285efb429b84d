"""Large results: one client reads one stream as fast as it comes."""

from __future__ import annotations

import time

from benchmarks.client import Client, query
from benchmarks.endpoint import Endpoint
from benchmarks.errors import Unavailable
from benchmarks.figures import Transfer
from benchmarks.process import cpu_seconds, tree

# So much is asked for at once: large enough to drown the round trip, small enough for several
# answers in a short run.
_ANSWER = 64_000_000
# DataRow: kind, length, number of columns, length of the only column.
_ROW_HEADER = 1 + 4 + 2 + 4


def statement(row_bytes: int) -> tuple[str, int]:
    """A query and the least number of bytes of its answer.

    generate_series stands in a select list: in FROM PostgreSQL would first write it to disk.
    """
    rows = _ANSWER // (row_bytes + _ROW_HEADER)
    sql = f"SELECT repeat('x', {row_bytes}) FROM (SELECT generate_series(1, {rows})) AS series"
    return sql, rows * (row_bytes + _ROW_HEADER)


def run(endpoint: Endpoint, row_bytes: int, seconds: float) -> Transfer:
    """Ask again and again for ``seconds``. Raises Unavailable."""
    sql, expected = statement(row_bytes)
    pids = tree(endpoint.pid) if endpoint.pid is not None else []
    try:
        client = Client(endpoint)
        try:
            client.wait_ready()
            return _measure(client, query(sql), expected, seconds, pids)
        finally:
            client.close()
    except OSError as error:
        raise Unavailable(f"large result: {error}") from error


def _measure(
    client: Client, request: bytes, expected: int, seconds: float, pids: list[int]
) -> Transfer:
    total, elapsed = 0, 0.0
    cpu = cpu_seconds(pids)
    begin = time.monotonic()
    while elapsed < seconds:
        client.send(request)
        received = client.wait_ready()
        if received < expected:
            raise Unavailable(f"{received} bytes came where {expected} were asked for")
        total += received
        elapsed = time.monotonic() - begin
    megabytes = total / 1e6
    cpu_ms = (cpu_seconds(pids) - cpu) * 1000 / megabytes if pids else None
    return Transfer(mb_per_s=megabytes / elapsed, cpu_ms=cpu_ms)
