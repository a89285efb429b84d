"""``poolproxy run``."""

from __future__ import annotations

import click

from poolproxy.cli.loading import load_or_exit, warn_of_root

EPILOG = """\b
Signals:
  HUP   read CONFIG again          TERM  leave when all clients have left
  QUIT  leave now                  INT   leave when running transactions have ended
"""


@click.command(epilog=EPILOG)
@click.argument("path", metavar="CONFIG")
def run(path: str) -> None:
    """Run the pooler with CONFIG, a TOML file or a pgbouncer.ini.

    It stays in the foreground and logs to stderr.
    """
    loaded = load_or_exit(path)
    warn_of_root(loaded)
    # Only this command needs the server's modules, which take a while to load.
    from poolproxy.acceptor.main import run as serve

    raise click.exceptions.Exit(serve(loaded))
