"""``poolproxy-pgbouncer``: PgBouncer's command line, for scripts and tools that start ``pgbouncer``."""

from __future__ import annotations

import sys

import click

from poolproxy import PGBOUNCER_VERSION, __version__
from poolproxy.cli.background import Streams, leave_terminal, quiet
from poolproxy.cli.loading import load_or_exit, warn_of_root
from poolproxy.settings.files import LoadedConfig, Overrides

NAME = "poolproxy-pgbouncer"
VERSION = f"PgBouncer {PGBOUNCER_VERSION} (poolproxy {__version__})"
NO_REBOOT = (
    "-R does not work here yet: nothing takes over the connections of a running process. A reload (SIGHUP)"
    " changes nearly every setting without a restart; for a new version start one instance beside the other"
    " (so_reuseport), then send SIGTERM to the old one"
)
NO_PIDFILE = "pidfile is not set: with -d the process could not be found again"


@click.command(
    name=NAME,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Signals are those of PgBouncer; see also: poolproxy run --help",
)
@click.option(
    "-d", "--daemon", is_flag=True, help="Run in the background. Needs the setting pidfile."
)
@click.option("-q", "--quiet", "silent", is_flag=True, help="Do not log to stderr.")
@click.option("-R", "--reboot", is_flag=True, help="Does not work here yet, and says so.")
@click.option("-u", "--user", default="", help="Account to become, instead of the setting user.")
@click.option("-v", "--verbose", count=True, help="Log more; may be repeated.")
@click.version_option(VERSION, "-V", "--version", message="%(version)s")
@click.argument("path", metavar="CONFIG")
def command(daemon: bool, silent: bool, reboot: bool, user: str, verbose: int, path: str) -> int:
    """Run the pooler with CONFIG, a pgbouncer.ini or a TOML file, as `pgbouncer` would be run."""
    if reboot:
        # Starting as if it had not been given would leave two processes where one was meant.
        raise click.UsageError(NO_REBOOT)
    loaded = load_or_exit(path, Overrides(user, verbose))
    if daemon and not loaded.config.settings.pidfile:
        click.echo(f"{path}: error: {NO_PIDFILE}", err=True)
        return 1
    warn_of_root(loaded)
    streams = leave_terminal() if daemon else quiet() if silent else None
    return streams if isinstance(streams, int) else _serve(loaded, streams)


def _serve(loaded: LoadedConfig, streams: Streams | None) -> int:
    # Only now the server's modules, which take a while to load: mistakes are told before.
    from poolproxy.acceptor.main import run

    status = run(loaded) if streams is None else run(loaded, early=streams)
    return 1 if status else 0


def main() -> None:
    """The installed program. As PgBouncer it ends with status 1 for whatever it can't do."""
    try:
        status = command.main(prog_name=NAME, standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"{NAME}: {error.format_message()}", err=True)
        click.echo(f'Try "{NAME} --help" for more information.', err=True)
        status = 1
    except click.exceptions.Exit as leave:
        status = leave.exit_code
    sys.exit(status)
