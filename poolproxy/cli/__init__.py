"""The command line: one file a command."""

from __future__ import annotations

import platform
from importlib import import_module

import click

from poolproxy import __version__

# Each is the function of its name in the module of its name, which is loaded when it is needed.
COMMANDS = ("check", "config", "console", "demo", "run", "top")
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


class Commands(click.Group):
    """The commands by their names: most have modules of their own, and ``run`` is waited for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"poolproxy.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=Commands,
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
