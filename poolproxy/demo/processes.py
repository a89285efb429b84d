"""Looking at processes by /proc, and the shared memory that a killed PostgreSQL leaves."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

IPC_RMID = 0


def children(pid: int) -> list[int]:
    """The process ids of the direct children of ``pid``, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state, parent = _state_and_parent(int(entry.name))
            if parent == pid and state not in "ZX":
                found.append(int(entry.name))
    return sorted(found)


def process_name(pid: int) -> str:
    """The name of the process as ps shows it; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    return _state_and_parent(pid)[0] not in "ZX"


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "X", 0
    # The name in parentheses may hold anything, so count from its end: proc(5).
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def kill_family(pid: int) -> None:
    """SIGKILL a process and its children at one moment, and wait until the children are gone."""
    try:
        os.kill(pid, signal.SIGSTOP)  # so that it starts no further child while we look
    except ProcessLookupError:
        return
    family = children(pid)
    for member in (pid, *family):
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            pass
    wait_for(lambda: not any_alive(family), 10)


def any_alive(pids: Iterable[int]) -> bool:
    """Whether at least one of the processes is alive."""
    return any(is_alive(pid) for pid in pids)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until the condition holds (True) or the time is over (False)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def remove_shared_memory(postmaster_pid: Path) -> None:
    """Remove the System V segment that a killed server has left, named in its postmaster.pid.

    PostgreSQL itself would do so at its next start, which a throw-away server never has.
    """
    try:
        lines = postmaster_pid.read_text().splitlines()
        segment = int(lines[6].split()[1])  # line 7: "key id", see miscadmin.h of PostgreSQL
    except (OSError, IndexError, ValueError):
        return
    ctypes.CDLL(None).shmctl(segment, IPC_RMID, None)
