"""Everything at once, for a short time; ``python -m tests.chaos`` runs longer."""

from __future__ import annotations

import os

from poolproxy.demo.postgres import PostgresServer
from tests.chaos.run import run
from tests.fixtures.proxy import StartProxy

SECONDS = float(os.environ.get("CHAOS_SECONDS", "12"))


def test_nothing_is_lost_or_mixed_up_in_chaos(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """Workers die and are replaced, limits change and clients leave: rows stay with their clients, limits
    hold, and in the end no descriptor and no permit is missing.
    """
    report = run(one_postgres, start_proxy, SECONDS, None)
    assert report.kills
    print(report)
