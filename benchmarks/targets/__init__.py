"""What is compared. A further pooler is one class here and one line in ``TARGETS``."""

from __future__ import annotations

from benchmarks.endpoint import Endpoint
from benchmarks.targets.pgbouncer import PgBouncer
from benchmarks.targets.pooler import Limits, Target, running
from benchmarks.targets.poolproxy import PoolProxy

DIRECT = "direct"
REFERENCE = PgBouncer.name
OURS = PoolProxy.name

TARGETS: dict[str, Target] = {target.name: target for target in (PgBouncer(), PoolProxy())}

__all__ = ["DIRECT", "OURS", "REFERENCE", "TARGETS", "Endpoint", "Limits", "Target", "running"]
