"""The report and the plan."""

from __future__ import annotations

import attrs
import pytest

from benchmarks import plan
from benchmarks.endpoint import TRUST, Access
from benchmarks.figures import Goal, Memory, Sample, Transactions, Transfer, figures
from benchmarks.machine import Setting
from benchmarks.plan import Cell
from benchmarks.report import paired, render, spread, table
from benchmarks.runner import Results
from benchmarks.runs.pgbench import Load
from benchmarks.targets import DIRECT, OURS, REFERENCE

SETTING = Setting(
    command="python -m benchmarks",
    date="2030-01-01 00:00 UTC",
    cores=2,
    cpu="Abacus",
    memory_gb=8,
    kernel="Linux 9",
    load=0.5,
    versions={"PostgreSQL": "15", "Python": "3.11"},
)
CELL = Cell("16 clients, simple", Transactions, 2, 1, True, Load(16, "simple"))


def runs(*rates: float) -> list[Sample]:
    return [Transactions(tps=rate, cpu_us=20e3 / rate, p50_ms=1, p99_ms=2) for rate in rates]


def report(results: Results) -> str:
    return render(SETTING, [CELL], [DIRECT, REFERENCE, OURS], results)


def row(text: str, title: str) -> list[str]:
    """The cells of the only row below a heading."""
    lines = text[text.index(f"## {title}") :].splitlines()
    return [cell.strip() for cell in lines[4].strip("|").split("|")]


def test_a_table_is_aligned_markdown() -> None:
    """Each line has the same width, numbers to the right."""
    assert table(["", "b"], [["long name", "1"], ["x", "12345"]]).splitlines() == [
        "|           |     b |",
        "| --------- | ----: |",
        "| long name |     1 |",
        "| x         | 12345 |",
    ]


def test_ratios_are_taken_round_by_round() -> None:
    """A drift that strikes both targets leaves the ratio alone; its span is shown."""
    assert paired([10, 30], [20, 60]) == [0.5, 0.5]
    assert spread([0.5, 0.7, 0.6]) == "0.60 (0.50 to 0.70)"
    assert spread([0.5]) == "0.50"
    assert spread([]) == ""


@pytest.mark.parametrize(("ours", "mark"), [(90.0, "✓"), (80.0, "✗")])
def test_a_goal_is_judged_by_the_ratio(ours: float, mark: str) -> None:
    """A missed goal shows, and a met one does."""
    samples = {(CELL.name, REFERENCE): runs(100, 100), (CELL.name, OURS): runs(ours, ours)}
    line = row(report(Results(samples=samples)), "Transactions per second")
    assert line == [
        CELL.name, "2", "", "100", f"{ours:.0f}", f"{ours / 100:.2f} ({ours / 100:.2f} to "
        f"{ours / 100:.2f})", f"{mark} ≥ 0.85 × PgBouncer",
    ]  # fmt: skip


def test_what_a_target_cannot_do_is_told() -> None:
    """n/a stands in the table and the reason below it, once for all cells."""
    results = Results(
        samples={(CELL.name, REFERENCE): runs(100)}, reasons={(CELL.name, OURS): "it is tired"}
    )
    text = report(results)
    assert row(text, "Transactions per second")[2:6] == ["", "100", "n/a", ""]
    assert f"- {OURS}, {CELL.name}: it is tired" in text


def test_the_report_says_where_it_comes_from() -> None:
    """Machine, versions and the command to repeat it are in it, and a shortened run is."""
    text = report(Results(skipped=True))
    for words in ("python -m benchmarks", "2 cores", "Abacus", "PostgreSQL 15", "Linux 9"):
        assert words in text
    assert "The time was over" in text


def test_absolute_goals_look_at_the_figure_itself() -> None:
    """The memory of an idle client has a limit of its own, whatever PgBouncer needs."""
    (goal,) = [figure.goal for _, figure in figures(Memory) if figure.goal]
    assert goal.absolute
    assert goal.met(6000)
    assert not goal.met(6001)
    assert str(goal) == "≤ 6000"
    assert str(Goal(1.4, at_most=True)) == "≤ 1.4 × PgBouncer"


def test_cells_have_names_of_their_own() -> None:
    """Results are kept by name: two cells of one name would be mixed up."""
    for cells in (plan.full(), plan.quick()):
        assert len({cell.name for cell in cells}) == len(cells)


def test_every_kind_of_figure_is_in_the_report() -> None:
    """Whatever a full run measures has its tables."""
    cells = plan.full()
    text = render(SETTING, cells, [DIRECT, REFERENCE, OURS], Results())
    for kind in {cell.kind for cell in cells}:
        for _, figure in figures(kind):
            assert f"## {figure.title}\n" in text


def test_the_full_run_fits_into_ten_minutes() -> None:
    """Seconds of load alone, on all targets, leave a quarter for log-ins and starts."""

    def seconds(cells: list[Cell]) -> int:
        return sum((cell.direct + 2 * cell.rounds) * cell.seconds for cell in cells)

    assert seconds(plan.full()) <= 450
    assert seconds(plan.quick()) <= 46


def test_storms_of_logins_and_tls_are_measured() -> None:
    """Against PgBouncer, in both runs: trust, SCRAM, SCRAM over TLS; and queries over TLS."""
    for cells in (plan.full(), plan.quick()):
        storms = {cell.access for cell in cells if cell.load is not None and cell.load.reconnect}
        assert storms == {TRUST, Access(scram=True), Access(scram=True, tls=True)}
        assert any(cell.access == Access(tls=True) for cell in cells)


def test_what_is_promised_is_measured_five_times() -> None:
    """Cells that have a goal get five rounds in the full run; memory repeats itself."""
    for cell in plan.full():
        assert not cell.acceptance or cell.kind is Memory or cell.rounds >= 5


def test_cells_can_be_chosen_and_resized() -> None:
    """Words choose by name, rounds and seconds override; memory keeps its one round."""
    (transfer,) = plan.choose(plan.full(), ["8 kB"], 2, 7)
    assert (transfer.kind, transfer.rounds, transfer.seconds) == (Transfer, 2, 7)
    (memory,) = plan.choose(plan.full(), ["5000"], 2, None)
    assert memory.rounds == 1
    assert plan.choose([CELL], ["no such"], None, None) == []
    assert plan.choose([CELL], [], 9, None) == [attrs.evolve(CELL, rounds=9)]
