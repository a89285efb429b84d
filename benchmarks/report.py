"""Results as Markdown, for the terminal and for RESULTS.md alike."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import get_args

from benchmarks.figures import Figure, Sample, figures
from benchmarks.machine import Setting
from benchmarks.plan import Cell
from benchmarks.runner import Results
from benchmarks.targets import DIRECT, OURS, REFERENCE

_KINDS: tuple[type[Sample], ...] = get_args(Sample)

_HOW_TO_READ = f"""\
## How to read this

- Client, PostgreSQL and pooler share the cores of one machine. Transactions per second tell
  how much CPU all three need together; they are no measure of what a pooler with a machine of
  its own could do. **CPU per transaction** is the figure that carries over to other machines:
  user and system time of all processes of the pooler, between two readings inside the run, so
  that log-ins are not in it (they are in the rows with *reconnect*).
- Figures are medians over the rounds. The targets are measured in turn within each round, so
  that whatever else the machine does strikes all of them; the last column is the median (least
  to greatest) of the ratios {OURS} / {REFERENCE} of each round. If that span is wide, the
  machine was not quiet: measure again.
- Both poolers: one process that relays, transaction mode, a pool of 8, TCP on 127.0.0.1, no log
  lines for connections; trust and no TLS, but for the rows with *SCRAM* (clients have a password, which the
  poolers know) and *TLS* (clients and PostgreSQL alike). Queries are pgbench's select-only ones, on a table
  that fits into memory; PostgreSQL does not wait for disks.
- *{DIRECT}* goes to PostgreSQL without a pooler: as many server processes as clients. It is measured in the
  first round only, as nothing is held against it.
- Latency is pgbench's: from sending a query to its answer, so with *reconnect* without the
  connecting. With more clients than servers it is mostly the wait for a server.
- Large results are one client reading 64 MB answers. Memory is PSS of all processes of a fresh
  pooler, before and after the clients log in; socket buffers in the kernel do not count. poolproxy keeps no
  spare worker here, which by default is one process more.
- In the rows with *shared* 200 clients are spread over four processes as 120, 40, 30 and 10. poolproxy's
  processes share one pool of that size. PgBouncer's have as many server connections in all, each its part, so
  with a pool of 1 there is one process, and with 3 there are three. Each is compared with one of its kind, in
  turns of half a second.
  With *clients move* they may go to one of its processes; else they are relayed there. *TLS* is on both
  sides. What counts of four processes of poolproxy begins 2 s later, when that is so. A full run has no
  time for the rows with moves and TLS: `python -m benchmarks --only shared` has.
- Goals hold for the rows that show one, ✓ met or ✗ missed.
"""


def render(
    setting: Setting, cells: Sequence[Cell], targets: Sequence[str], results: Results
) -> str:
    """The whole report."""
    parts = ["# Benchmarks", _heading(setting)]
    if results.skipped:
        parts.append("The time was over before all rounds were measured: fewer count.")
    for kind in _KINDS:
        mine = [cell for cell in cells if cell.kind is kind]
        for name, figure in figures(kind) if mine else ():
            parts.append(f"## {figure.title}")
            parts.append(_figure_table(name, figure, mine, targets, results))
    notes = _notes(targets, results)
    if notes:
        parts.append("## Not available\n\n" + notes)
    parts.append(_HOW_TO_READ.rstrip())
    return "\n\n".join(parts) + "\n"


def _heading(setting: Setting) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in setting.versions.items())
    return (
        f"Measured {setting.date} by `{setting.command}` on {setting.cores} cores "
        f"({setting.cpu}), {setting.memory_gb:.0f} GB, {setting.kernel}, load before the run "
        f"{setting.load:.2f}: {versions}."
    )


def _figure_table(
    name: str, figure: Figure, cells: Sequence[Cell], targets: Sequence[str], results: Results
) -> str:
    compared = OURS in targets and REFERENCE in targets
    heads = ["", "rounds", *targets]
    heads += [f"{OURS} / {REFERENCE}"] if compared else []
    heads += ["goal"] if figure.goal else []
    rows = []
    for cell in cells:
        values = {target: _values(results, cell, target, name) for target in targets}
        row = [cell.name, str(max(map(len, values.values()), default=0))]
        for target in targets:
            failed = (cell.name, target) in results.reasons
            row.append(number(values[target], figure.digits) or ("n/a" if failed else ""))
        ratios = paired(values.get(OURS, []), values.get(REFERENCE, []))
        row += [spread(ratios)] if compared else []
        row += [_verdict(figure, cell, ratios, values.get(OURS, []))] if figure.goal else []
        rows.append(row)
    return table(heads, rows)


def _values(results: Results, cell: Cell, target: str, name: str) -> list[float]:
    samples = results.samples.get((cell.name, target), [])
    return [value for value in (getattr(sample, name) for sample in samples) if value is not None]


def paired(ours: Sequence[float], reference: Sequence[float]) -> list[float]:
    """The ratio in each round that both have."""
    return [one / other for one, other in zip(ours, reference, strict=False) if other]


def spread(ratios: Sequence[float]) -> str:
    """Median, and from where to where if there are several."""
    if not ratios:
        return ""
    span = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{median(ratios):.2f}{span}"


def number(values: Sequence[float], digits: int) -> str:
    return f"{median(values):,.{digits}f}" if values else ""


def _verdict(figure: Figure, cell: Cell, ratios: Sequence[float], values: Sequence[float]) -> str:
    if figure.goal is None or not cell.acceptance:
        return ""
    judged = values if figure.goal.absolute else ratios
    mark = "" if not judged else "✓ " if figure.goal.met(median(judged)) else "✗ "
    return f"{mark}{figure.goal}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose source is aligned as well: the first column left, the rest right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    widths = [max(width, 3) for width in widths]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(row, widths) for row in (heads, rule, *rows))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        text.ljust(width) if place == 0 else text.rjust(width)
        for place, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    return "| " + " | ".join((first, *rest)) + " |"


def _notes(targets: Sequence[str], results: Results) -> str:
    """Each reason once, with the rows that it concerns."""
    concerned: dict[tuple[str, str], list[str]] = {}
    for (cell, target), reason in results.reasons.items():
        if target in targets:
            concerned.setdefault((target, reason), []).append(cell)
    return "\n".join(
        f"- {target}, {'; '.join(names)}: {reason}" for (target, reason), names in concerned.items()
    )
