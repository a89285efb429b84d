"""SHOW WORKERS. Not in PgBouncer."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import View


@attrs.frozen
class Worker:
    """One worker process."""

    worker: int = column(Type.INT, "Its number, 0 and up; a successor takes it over.")
    pid: int = column(Type.INT, "Its process id.")
    state: str = column(Type.TEXT, "starting, ready or leaving.")
    clients: int = column(Type.INT, "Client sockets that it has.")
    clients_logging_in: int = column(Type.INT, "Those of them that have not finished logging in.")
    tls_clients: int = column(Type.INT, "Logged-in clients whose connection is encrypted.")
    tls_servers: int = column(Type.INT, "Servers whose connection is encrypted.")
    cpu_ms: int = column(Type.BIGINT, "Processor time that it has used, in milliseconds.")
    lag_us: int = column(
        Type.BIGINT, "The greatest delay of its event loop of late, in microseconds."
    )
    queued: int = column(Type.INT, "Messages that it has not read yet.")
    silent_ms: int = column(Type.BIGINT, "Since when nothing was heard of it, in milliseconds.")
    age: int = column(Type.INT, "Seconds since its start.")


def _rows(view: View) -> Iterator[Row]:
    for facts in sorted(view.workers, key=lambda facts: facts.worker):
        metrics = facts.metrics
        row = Worker(
            worker=facts.worker,
            pid=facts.pid,
            state=facts.state,
            clients=facts.clients,
            clients_logging_in=metrics.clients_logging_in if metrics else 0,
            tls_clients=metrics.tls_clients if metrics else 0,
            tls_servers=metrics.tls_servers if metrics else 0,
            cpu_ms=round(1000 * metrics.busy) if metrics else 0,
            lag_us=round(1_000_000 * metrics.loop_lag_max) if metrics else 0,
            queued=facts.queued,
            silent_ms=round(1000 * facts.silent),
            age=int(facts.age),
        )
        yield values_of(row)


WORKERS = Show("WORKERS", columns_of(Worker), "The worker processes.", _rows)
