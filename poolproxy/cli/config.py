"""``poolproxy config``: what is derived from the classes of the settings."""

from __future__ import annotations

from collections.abc import Iterator

import click

from poolproxy.cli.loading import load_or_exit
from poolproxy.settings import render
from poolproxy.settings.files import FILES, Format, LoadedConfig
from poolproxy.settings.write import to_toml


@click.group()
def config() -> None:
    """Print a sample, the table of all settings, or a pgbouncer.ini as TOML."""


@config.command()
def sample() -> None:
    """Print a commented configuration with every setting and its default."""
    click.echo(render.sample(), nl=False)


@config.command()
def reference() -> None:
    """Print the table of all settings: default, unit, when a change takes effect, meaning."""
    click.echo(render.reference(), nl=False)


@config.command()
@click.argument("path", metavar="CONFIG")
def convert(path: str) -> None:
    """Print the pgbouncer.ini CONFIG, with the files that it includes, as TOML.

    Passwords in it are printed, too. What differs from the defaults is told, comments are lost.
    """
    loaded = load_or_exit(path)
    if loaded.format is not Format.INI:
        raise click.UsageError(f"{path} is TOML already")
    for note in loaded.notes:
        click.echo(f"note: {note}", err=True)
    click.echo("".join(_head(loaded)) + to_toml(loaded.config), nl=False)


def _head(loaded: LoadedConfig) -> Iterator[str]:
    yield f"# Made of {loaded.path} by `poolproxy config convert`.\n"
    settings = loaded.config.settings
    files = [name for name in FILES if (file := getattr(settings, name)) and file[0] != "/"]
    if files:
        yield f"# Relative names begin at the folder of this file: {', '.join(files)}.\n"
    yield "\n"
