"""Everything at once, for a short time; ``python -m tests.chaos`` runs longer."""

from __future__ import annotations

import os

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.chaos.run import run
from tests.fixtures.proxy import StartProxy
from tests.fixtures.tls import Certificates

pytestmark = pytest.mark.needs_system_postgres

SECONDS = float(os.environ.get("CHAOS_SECONDS", "12"))


def test_nothing_is_lost_or_mixed_up_in_chaos(
    start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """Workers die and are replaced, limits change and clients leave, encrypted ones and others: rows stay
    with their clients, limits hold, nobody is cut off whose workers live, and in the end no descriptor and
    no permit is missing.
    """
    report = run(tls_postgres, certificates, start_proxy, SECONDS, None)
    assert report.fallen
    print(report)
