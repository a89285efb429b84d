"""``poolproxy top``: plain ANSI, so that it works in any terminal and needs nothing installed."""

from __future__ import annotations

import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import click

from poolproxy.cli.console import aligned, printable
from poolproxy.cli.console_client import Answer, Console, ConsoleError, connected
from poolproxy.cli.where import Target, where_options

HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the other screen, without a cursor
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
CONSOLE = "pgbouncer"
PATIENCE = 3.0  # seconds for an answer
LONGEST = 24  # characters of a name: what follows is what one looks for
POOL_COLUMNS = ("cl_active", "sv_active", "sv_idle", "sv_tested", "sv_login", "pool_mode")
FRAME = 6  # lines that are no pool and no worker
WORKER_COLUMNS = ("worker", "pid", "state", "clients", "queued", "lag_us", "age")


@attrs.frozen
class Sample:
    """All that is shown, and when it was asked for (monotonic seconds)."""

    at: float
    pools: Answer
    workers: Answer
    totals: Answer
    state: Answer
    version: str


@click.command()
@where_options
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print it once and leave.")
def top(
    where: Target,
    interval: float,
    once: bool,
) -> None:
    """Watch pools, waits, clients and workers of a running pooler. q or Ctrl-C ends it.

    Pools where clients wait come first, then those that do most. Where to find the console is told as
    with `poolproxy console`.
    """
    with connected(where, PATIENCE) as connection:
        sample = take(connection)
    if once:
        click.echo("\n".join(lines(sample, None)))
        return
    with _screen():
        try:
            _watch(where, sample, interval)
        except KeyboardInterrupt:
            pass


def _watch(where: Target, sample: Sample, interval: float) -> None:
    """Show a new sample at each interval until somebody has enough of it. The pooler may be restarted."""
    before: Sample | None = None
    connection: Console | None = None
    trouble = ""
    while True:
        _draw(sample, before, trouble)
        if _wants_to_leave(interval):
            return
        try:
            connection = connection or Console(where, PATIENCE)
            sample, before, trouble = take(connection), sample, ""
        except ConsoleError as error:
            connection, trouble = None, str(error)


def take(connection: Console) -> Sample:
    """Ask for everything."""
    version = connection.ask("SHOW VERSION").rows[0][0] or ""
    return Sample(
        at=time.monotonic(),
        pools=connection.ask("SHOW POOLS"),
        workers=connection.ask("SHOW WORKERS"),
        totals=connection.ask("SHOW STATS_TOTALS"),
        state=connection.ask("SHOW STATE"),
        version=version,
    )


def lines(sample: Sample, before: Sample | None, height: int | None = None) -> Iterator[str]:
    """The screen; rates are those since the sample ``before``, none without one. With a ``height`` there are
    so many lines at most.
    """
    pools, workers = _rows(sample.pools), _rows(sample.workers)
    rates = _rates(sample, before)
    state = next((row["key"] for row in _rows(sample.state) if row["value"] == "yes"), "")
    clients = sum(int(pool["cl_active"]) + int(pool["cl_waiting"]) for pool in pools)
    waiting = sum(int(pool["cl_waiting"]) for pool in pools)
    # Without the console's own, which are ours.
    total = sum(rate for database, (rate, _) in rates.items() if database != CONSOLE)
    yield f"{printable(sample.version)}   {state}   {time.strftime('%H:%M:%S')}"
    yield (
        f"clients {clients}   waiting {waiting}   pools {len(pools)}   workers {len(workers)}"
        f"   transactions/s {_rate(total, before)}"
    )
    yield ""
    most_pools, most_workers = _shares(len(pools), len(workers), height)
    ordered = sorted(pools, key=lambda pool: _urgency(pool, rates))
    head = ("database", "user", "cl_waiting", "maxwait", "xact/s", "avg ms", *POOL_COLUMNS)
    yield from aligned([head, *(_pool(pool, rates, before) for pool in ordered[:most_pools])])
    yield ""
    body = [tuple(worker[name] for name in WORKER_COLUMNS) for worker in workers[:most_workers]]
    yield from aligned([WORKER_COLUMNS, *body])


def _pool(
    pool: dict[str, str], rates: dict[str, tuple[float, float]], before: Sample | None
) -> tuple[str, ...]:
    return (
        *(_short(pool[name]) for name in ("database", "user")),
        pool["cl_waiting"],
        f"{int(pool['maxwait']) + int(pool['maxwait_us']) / 1e6:.1f}",
        *_work(pool["database"], rates, before),
        *(pool[name] for name in POOL_COLUMNS),
    )


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 2] + ".."


def _shares(pools: int, workers: int, height: int | None) -> tuple[int, int]:
    """How many pools and workers there is room for: workers may have a third, pools the rest."""
    if height is None:
        return pools, workers
    room = max(0, height - FRAME)
    shown = min(workers, max(1, room // 3, room - pools))
    return max(0, room - shown), shown


def _urgency(
    pool: dict[str, str], rates: dict[str, tuple[float, float]]
) -> tuple[int, float, str, str]:
    rate, _ = rates.get(pool["database"], (0.0, 0.0))
    return -int(pool["cl_waiting"]), -rate, pool["database"], pool["user"]


def _rates(sample: Sample, before: Sample | None) -> dict[str, tuple[float, float]]:
    """(transactions a second, milliseconds of each) by database."""
    if before is None:
        return {}
    seconds = max(0.001, sample.at - before.at)
    last = {row["database"]: row for row in _rows(before.totals)}
    found = {}
    for row in _rows(sample.totals):
        old = last.get(row["database"], {})
        count = max(0, int(row["xact_count"]) - int(old.get("xact_count", 0)))
        took = max(0, int(row["xact_time"]) - int(old.get("xact_time", 0)))
        found[row["database"]] = (count / seconds, took / count / 1000 if count else 0.0)
    return found


def _work(
    database: str, rates: dict[str, tuple[float, float]], before: Sample | None
) -> tuple[str, str]:
    rate, took = rates.get(database, (0.0, 0.0))
    return _rate(rate, before), f"{took:.1f}" if rate else "-"


def _rate(rate: float, before: Sample | None) -> str:
    return f"{rate:.0f}" if before is not None else "-"


def _rows(answer: Answer) -> list[dict[str, str]]:
    return [
        dict(zip(answer.columns, (cell or "" for cell in row), strict=True)) for row in answer.rows
    ]


def _draw(sample: Sample, before: Sample | None, trouble: str) -> None:
    width, height = shutil.get_terminal_size()
    height -= 1 + bool(trouble)
    shown = [line[: width - 1] for line in lines(sample, before, height)][:height]
    if trouble:
        shown = [f"{BOLD}{printable(trouble)[: width - 1]}{PLAIN}", *shown]
    sys.stdout.write(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in shown) + CLEAR_BELOW)
    sys.stdout.flush()


def _wants_to_leave(seconds: float) -> bool:
    """Wait, or until q is pressed."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and sys.stdin.read(1) in ("q", "Q", "")


@contextmanager
def _screen() -> Iterator[None]:
    """The terminal's other screen, and keys without Enter; all is put back at the end."""
    before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    try:
        if before is not None:
            tty.setcbreak(sys.stdin)
        sys.stdout.write(ENTER)
        yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
