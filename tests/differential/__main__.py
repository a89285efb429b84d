"""Run a printed example again: ``python -m tests.differential [TIMES] < SCRIPT``.

TIMES (20): the pool's processes take their turns as they like, so not every run goes the same way.
"""

from __future__ import annotations

import sys
from collections import Counter

from poolproxy.demo.postgres import PostgresServer
from tests.differential.arena import arena
from tests.differential.script import read_script
from tests.fixtures.postgres import SERVER
from tests.fixtures.proxy import started_proxies
from tests.fixtures.tls import new_authority


def main() -> None:
    """Ends with the first Difference."""
    example = read_script(sys.stdin.read())
    times = int(sys.argv[1]) if sys.argv[1:] else 20
    used: Counter[str] = Counter()
    with (
        PostgresServer(**SERVER) as server,
        started_proxies() as start,
        new_authority() as certificates,
        arena(server, start, certificates) as ground,
    ):
        for _ in range(times):
            used.update(ground.run(example))
    print(f"{times} runs, no difference; masks used: {dict(used)}")


main()
