"""``python -m poolproxy.worker --fd N --slot I``: started by the acceptor, never by hand."""

from __future__ import annotations

import argparse
import sys

from poolproxy.worker.main import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="poolproxy.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited end of the channel")
    parser.add_argument("--slot", type=int, required=True, help="the worker's number, from 0")
    options = parser.parse_args()
    return run(options.fd, options.slot)


if __name__ == "__main__":
    sys.exit(main())
