"""Where and with what the figures were measured."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

import attrs


@attrs.frozen
class Setting:
    """What a reader needs to judge the figures, and to make them again."""

    command: str
    date: str
    cores: int
    cpu: str
    memory_gb: float
    kernel: str
    load: float
    versions: Mapping[str, str]


def describe(arguments: list[str], versions: Mapping[str, str]) -> Setting:
    """Look at the machine; ``versions`` are those of the targets."""
    return Setting(
        command=shlex.join(["python", "-m", "benchmarks", *arguments]),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cores=len(os.sched_getaffinity(0)),
        cpu=cpu_model(),
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        kernel=f"{platform.system()} {platform.release()}",
        load=os.getloadavg()[0],
        versions={**versions, "Python": f"{platform.python_version()} ({sys.implementation.name})"},
    )


def cpu_model() -> str:
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
