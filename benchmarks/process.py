"""CPU time and memory of a tree of processes, from /proc (see proc(5))."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import attrs

_TICK = 1 / os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Stat:
    """What the benchmarks need of /proc/PID/stat."""

    parent: int
    cpu_seconds: float


def parse_stat(text: str) -> Stat:
    """Read /proc/PID/stat.

    The time of children that were waited for counts too, so that a process which ends
    between two readings does not take its share with it.
    """
    # The second field is the command in parentheses, and may itself hold blanks and parentheses.
    fields = text[text.rindex(")") + 1 :].split()
    return Stat(parent=int(fields[1]), cpu_seconds=sum(map(int, fields[11:15])) * _TICK)


def parse_pss(text: str) -> int:
    """The proportional set size in bytes from /proc/PID/smaps_rollup."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss line in smaps_rollup")


def descendants(root: int, parents: Mapping[int, int]) -> list[int]:
    """``root`` and all processes below it, given the parent of each process."""
    tree = [root]
    for pid in tree:  # grows while it is walked: breadth first
        tree += sorted(child for child, parent in parents.items() if parent == pid)
    return tree


def tree(root: int) -> list[int]:
    """The living processes of ``root``'s tree."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            text = _read(entry / "stat")
            if text:
                parents[int(entry.name)] = parse_stat(text).parent
    return descendants(root, parents)


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of ``pids`` together."""
    texts = (_read(Path(f"/proc/{pid}/stat")) for pid in pids)
    return sum(parse_stat(text).cpu_seconds for text in texts if text)


def pss(pids: Iterable[int]) -> int:
    """Memory of ``pids`` in bytes; a page that several processes share is counted once."""
    texts = (_read(Path(f"/proc/{pid}/smaps_rollup")) for pid in pids)
    return sum(parse_pss(text) for text in texts if text)


def _read(path: Path) -> str:
    """The file's text, or nothing if the process has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@attrs.frozen
class CpuReading:
    """CPU time that a tree had used up at ``at``, in seconds since the epoch."""

    at: float
    cpu_seconds: float


class CpuRecorder:
    """Reads a tree's CPU time every 50 ms, in a thread, while the ``with`` block runs.

    Readings with times, instead of one before and one after, let the caller cut log-ins at
    the start and good-byes at the end away afterwards. Without ``pid`` the CPU time is 0.
    """

    _INTERVAL = 0.05

    def __init__(self, pid: int | None) -> None:
        self._pids = tree(pid) if pid is not None else []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._record)
        self.readings: list[CpuReading] = []

    def __enter__(self) -> CpuRecorder:
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._read()

    def _record(self) -> None:
        while not self._done.wait(self._INTERVAL):
            self._read()

    def _read(self) -> None:
        self.readings.append(CpuReading(time.time(), cpu_seconds(self._pids)))
