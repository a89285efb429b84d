"""Which cells a run has, how often and how long each is measured."""

from __future__ import annotations

import attrs

from benchmarks.endpoint import TRUST, Access
from benchmarks.figures import Memory, Sample, Sharing, Transactions, Transfer
from benchmarks.runs.pgbench import Load


@attrs.frozen
class Cell:
    """One line of the report. ``acceptance`` cells are held against the goals."""

    name: str
    kind: type[Sample]
    rounds: int
    seconds: int
    acceptance: bool = False
    load: Load | None = None
    size: int = 0
    """Bytes of a row, the number of idle clients, or server connections."""
    direct: bool = True
    """Whether PostgreSQL without a pooler is measured too; once, as nothing is held against it."""
    access: Access = TRUST
    moves: bool = False
    """Whether clients may move between processes."""


PROTOCOLS = ("simple", "extended", "prepared")
_IDLE_CLIENTS = 5000


def full() -> list[Cell]:
    """All cells; five rounds where the project has promised something."""
    cells = []
    for clients in (1, 16, 64, 1000):
        for protocol in PROTOCOLS:
            promised = clients in (16, 64) and protocol != "prepared"
            others = 3 if clients > 1 else 2
            rounds = 5 if promised else others
            cells.append(_transactions(Load(clients, protocol), rounds, 2, promised))
    cells.append(_transactions(Load(16, "simple", reconnect=True), rounds=3, seconds=2))
    cells += _secured(rounds=3, seconds=2)
    return [*cells, *_others(rounds=5, seconds=2), *sharing(rounds=5, seconds=2)]


def sharing(
    rounds: int, seconds: int, access: Access = TRUST, *, moves: bool = False
) -> list[Cell]:
    """Small pools whose clients are spread unevenly over processes."""
    more = ", clients move" * moves + ", TLS" * access.tls
    return [
        Cell(
            f"pool of {size}, shared{more}",
            Sharing,
            rounds,
            seconds,
            True,
            size=size,
            direct=False,
            access=access,
            moves=moves,
        )
        for size in (1, 3, 8)
    ]


def asked_for() -> list[Cell]:
    """Cells for which a full run has no time: only those are measured that ``--only`` names."""
    moving = sharing(rounds=5, seconds=2, moves=True)
    return [*moving, *sharing(rounds=5, seconds=2, access=Access(tls=True))]


def quick() -> list[Cell]:
    """The shape of things in under a minute: single short runs, too few to rely on."""
    loads = [Load(clients, protocol) for clients in (16, 64) for protocol in PROTOCOLS[:2]]
    loads += [Load(16, "prepared"), Load(1000, "simple"), Load(16, "simple", reconnect=True)]
    cells = [
        _transactions(load, 1, 1, load.clients in (16, 64) and load in loads[:4]) for load in loads
    ]
    return [*cells, *_secured(rounds=1, seconds=1), *_others(rounds=1, seconds=1)]


def _secured(rounds: int, seconds: int) -> list[Cell]:
    """TLS on both sides, and storms of log-ins with what a log-in usually takes."""
    storm, tls = Load(16, "simple", reconnect=True), Access(tls=True)
    scram, both = Access(scram=True), Access(scram=True, tls=True)
    cells = [
        _transactions(Load(clients, "simple"), rounds, seconds, access=tls) for clients in (16, 64)
    ]
    return [*cells, *(_transactions(storm, rounds, seconds, access=one) for one in (scram, both))]


def _transactions(
    load: Load, rounds: int, seconds: int, acceptance: bool = False, access: Access = TRUST
) -> Cell:
    plural = "" if load.clients == 1 else "s"
    name = f"{load.clients} client{plural}, {load.protocol}"
    if load.reconnect:
        name += ", reconnect"
    name += ", SCRAM" * access.scram + ", TLS" * access.tls
    # To start and end a thousand server processes takes seconds: once is enough to see it.
    direct = load.clients < 1000 or (load.protocol == "simple" and rounds > 1)
    direct = direct and access == TRUST
    return Cell(name, Transactions, rounds, seconds, acceptance, load, direct=direct, access=access)


def _others(rounds: int, seconds: int) -> list[Cell]:
    """Transfers, and memory: that is the same in every round, so one will do."""
    return [
        Cell("rows of 100 B", Transfer, rounds, seconds, acceptance=True, size=100),
        Cell("rows of 8 kB", Transfer, rounds, seconds, acceptance=True, size=8192),
        Cell(
            f"{_IDLE_CLIENTS} clients",
            Memory,
            1,
            0,
            acceptance=True,
            size=_IDLE_CLIENTS,
            direct=False,
        ),
    ]


def choose(
    cells: list[Cell], only: list[str], rounds: int | None, seconds: int | None
) -> list[Cell]:
    """The cells with one of the words ``only`` in their names, with rounds and seconds as asked."""
    chosen = [cell for cell in cells if not only or any(word in cell.name for word in only)]
    return [
        attrs.evolve(
            cell,
            rounds=cell.rounds if rounds is None or cell.kind is Memory else rounds,
            seconds=cell.seconds if seconds is None else seconds,
        )
        for cell in chosen
    ]
