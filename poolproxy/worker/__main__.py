"""``python -m poolproxy.worker --fd N``: started by the acceptor, never by hand."""

from __future__ import annotations

import argparse
import sys

from poolproxy.worker.main import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="poolproxy.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited end of the channel")
    return run(parser.parse_args().fd)


if __name__ == "__main__":
    sys.exit(main())
