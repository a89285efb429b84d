"""Loading the configuration for a command, which tells all mistakes and ends with status 1."""

from __future__ import annotations

import click

from poolproxy.errors import ConfigError
from poolproxy.settings.files import LoadedConfig
from poolproxy.tls.contexts import load


def load_or_exit(path: str) -> LoadedConfig:
    """The configuration; with mistakes in it each goes to stderr and the process ends (status 1)."""
    try:
        return load(path)
    except ConfigError as error:
        for mistake in error.mistakes:
            click.echo(f"{mistake.where}: error: {mistake.text}", err=True)
        if error.read_as:
            click.echo(error.read_as, err=True)
        raise click.exceptions.Exit(1) from error
