"""``poolproxy demo``."""

from __future__ import annotations

import sys

import click

PORT = click.IntRange(1, 65535)


def _say(text: str = "") -> None:
    click.echo(text)
    sys.stdout.flush()  # the reader may be a program that waits for the URL


@click.command()
@click.option(
    "--port", default=6432, show_default=True, help="Where clients connect to the pooler."
)
@click.option(
    "--metrics-port", default=9127, show_default=True, help="Where Prometheus scrapes it."
)
@click.option(
    "--backend",
    metavar="URL",
    help="Pool for this server (postgresql://USER:PASSWORD@HOST:PORT/DATABASE) instead of a new one.",
)
def demo(port: int, metrics_port: int, backend: str | None) -> None:
    """Try the pooler without a configuration or a database.

    Starts a PostgreSQL of its own in a temporary folder, fills it with sample data, runs the
    pooler in front of it and prints how to connect. Ctrl-C ends it and removes everything. Only
    this machine can connect. If a port is busy a free one is used.
    """
    # Every other command would wait for these.
    from poolproxy.demo.binaries import NoPostgres
    from poolproxy.demo.identity import NoIdentity
    from poolproxy.demo.postgres import PostgresError
    from poolproxy.demo.session import DemoError, DemoOptions, run_demo

    try:
        run_demo(DemoOptions(port=port, metrics_port=metrics_port, backend=backend), _say)
    except (NoPostgres, NoIdentity, PostgresError, DemoError) as error:
        raise click.ClickException(str(error)) from error
