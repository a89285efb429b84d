"""The command line: one file a command."""

from __future__ import annotations

import platform

import click

from poolproxy import __version__
from poolproxy.cli.check import check
from poolproxy.cli.config import config
from poolproxy.cli.console import console
from poolproxy.cli.demo import demo
from poolproxy.cli.run import run
from poolproxy.cli.top import top

EPILOG = """\b
Examples:
  poolproxy demo                               try it, with a database of its own
  poolproxy config sample > poolproxy.toml     begin a configuration
  poolproxy check poolproxy.toml               find its mistakes
  poolproxy run poolproxy.toml                 start the pooler
  poolproxy console 'SHOW POOLS'               ask it
  poolproxy top                                watch it
"""


def _print_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from poolproxy.wire import compiled_modules  # no other command needs it

    compiled = ", ".join(compiled_modules()) or "none"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    click.echo(f"poolproxy {__version__}, {python}, compiled parts: {compiled}")
    context.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version, Python's, and whether compiled parts are in use.",
)
def main() -> None:
    """A connection pooler for PostgreSQL: all cores, one exact pool limit.

    Clients connect to it as if to a server; many clients share few server connections.
    """


main.add_command(run)
main.add_command(check)
main.add_command(demo)
main.add_command(config)
main.add_command(console)
main.add_command(top)
