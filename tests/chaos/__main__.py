"""See the package's text."""

from __future__ import annotations

import sys

from tests.chaos.run import run
from tests.fixtures.proxy import started_proxies
from tests.fixtures.tls import encrypted_server, new_authority


def main(seconds: str = "60", seed: str = "") -> None:
    """Ends with what was seen, or with an error."""
    with (
        new_authority() as certificates,
        encrypted_server(certificates) as server,
        started_proxies() as start,
    ):
        print(run(server, certificates, start, float(seconds), int(seed) if seed else None))


main(*sys.argv[1:])
