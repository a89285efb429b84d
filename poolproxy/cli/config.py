"""``poolproxy config``: what is derived from the classes of the settings."""

from __future__ import annotations

import click

from poolproxy.settings import render


@click.group()
def config() -> None:
    """Print a sample, or the table of all settings."""


@config.command()
def sample() -> None:
    """Print a commented configuration with every setting and its default."""
    click.echo(render.sample(), nl=False)


@config.command()
def reference() -> None:
    """Print the table of all settings: default, unit, when a change takes effect, meaning."""
    click.echo(render.reference(), nl=False)
