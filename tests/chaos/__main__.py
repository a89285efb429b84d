"""See the package's text."""

from __future__ import annotations

import sys

from poolproxy.demo.postgres import PostgresServer
from tests.chaos.run import run
from tests.fixtures.postgres import SERVER
from tests.fixtures.proxy import started_proxies


def main(seconds: str = "60", seed: str = "") -> None:
    """Ends with what was seen, or with an error."""
    with PostgresServer(**SERVER) as server, started_proxies() as start:
        print(run(server, start, float(seconds), int(seed) if seed else None))


main(*sys.argv[1:])
