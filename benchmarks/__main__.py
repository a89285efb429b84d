"""``python -m benchmarks``: compare PostgreSQL, PgBouncer and poolproxy on this machine."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from benchmarks import certificate, plan
from benchmarks.endpoint import Access, Endpoint
from benchmarks.errors import Unavailable
from benchmarks.machine import describe
from benchmarks.report import render
from benchmarks.runner import Runner, note
from benchmarks.runs import pgbench
from benchmarks.targets import DIRECT, TARGETS, Limits, running
from poolproxy.demo.binaries import NoPostgres
from poolproxy.demo.identity import NoIdentity, choose_identity
from poolproxy.demo.postgres import PostgresError, PostgresServer

_RESULTS = Path(__file__).with_name("RESULTS.md")
# Ten minutes and one, less what the last run and the clean-up may take.
_FULL_SECONDS, _QUICK_SECONDS = 580, 48

_POSTGRES: dict[str, str | int] = {
    "max_connections": 1100,  # 1000 direct clients, and the pools
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
    "autovacuum": "off",  # it would strike one target and not the other
    "jit": "off",
    "log_min_messages": "fatal",
}


def main(arguments: list[str]) -> int:
    """Run and report. 0, or 1 if there is no PostgreSQL to measure with, 2 for a wrong option."""
    options = _parse(arguments)
    deadline = time.monotonic() + (_QUICK_SECONDS if options.quick else _FULL_SECONDS)
    _raise_descriptor_limit()
    more = plan.asked_for() if options.only and not options.quick else []
    cells = plan.choose(
        plan.quick() if options.quick else [*plan.full(), *more],
        options.only,
        options.rounds,
        options.seconds,
    )
    if not cells:
        note("no cell has one of these words in its name")
        return 2
    try:
        report = _compare(arguments, options.targets, cells, deadline)
    except KeyboardInterrupt:
        note("interrupted: nothing is written")
        return 130
    except (NoPostgres, NoIdentity, PostgresError, Unavailable) as error:
        note(f"PostgreSQL: {error}")
        return 1
    print(report, end="")
    complete = not (options.quick or options.only or set(options.targets) < {DIRECT, *TARGETS})
    output = options.output or (_RESULTS if complete else None)
    if output:
        output.write_text(report)
        note(f"written to {output}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a rough picture in under a minute")
    add("--only", action="append", default=[], metavar="WORDS", help="cells with WORDS in the name")
    add("--rounds", type=_positive, help="rounds of each cell")
    add("--seconds", type=_positive, help="seconds of each run")
    names = [DIRECT, *TARGETS]
    add("--targets", nargs="+", choices=names, default=names, help="what to compare")
    add("--output", type=Path, help=f"where to write; without it a complete run writes {_RESULTS}")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _compare(
    arguments: list[str], targets: list[str], cells: list[plan.Cell], deadline: float
) -> str:
    """Start everything, measure, render. All targets run all the time, and sleep in turn."""
    with ExitStack() as stack:
        trust = f"host all all {PostgresServer.host}/32 trust"
        pem = certificate.make(PostgresServer.host)
        tls = _tls(Path(stack.enter_context(TemporaryDirectory(prefix="benchmark-"))), pem)
        postgres = stack.enter_context(PostgresServer(settings=_POSTGRES | tls, hba=[trust]))
        program = postgres.binaries.tool("pgbench")
        server = Endpoint(postgres.host, postgres.port, postgres.user, "postgres")
        pgbench.initialise(program, server)
        endpoints: dict[tuple[str, Access], Endpoint] = {}
        lost: dict[tuple[str, Access], str] = {}
        versions = {"PostgreSQL": postgres.binaries.version}
        accesses = dict.fromkeys(cell.access for cell in cells)
        for name, access in product(targets, accesses):
            try:
                if name == DIRECT:
                    endpoints[name, access] = attrs.evolve(server, access=access)
                    continue
                versions[name] = TARGETS[name].version()
                limits = Limits(access=access, certificate=pem)
                running_ = running(TARGETS[name], server, limits)
                endpoints[name, access] = stack.enter_context(running_)
            except Unavailable as error:
                lost[name, access] = str(error)
                note(f"{name}: {error}")
        setting = describe(arguments, versions)
        results = Runner(program, server, endpoints, lost, cells, deadline, pem).measure()
    return render(setting, cells, targets, results)


def _tls(folder: Path, pem: certificate.Certificate) -> dict[str, str | int]:
    """PostgreSQL's settings; it offers TLS, and who does not ask for it has none."""
    folder.chmod(0o755)
    chain, key = pem.write(folder)
    key.chmod(0o600)
    identity = choose_identity()
    for path in (chain, key):
        identity.own(path)
    return {"ssl": "on", "ssl_cert_file": str(chain), "ssl_key_file": str(key)}


def _raise_descriptor_limit() -> None:
    """Thousands of clients here, and as many in the poolers, which inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
