"""Loading the configuration for a command, which tells all mistakes and ends with status 1."""

from __future__ import annotations

import os

import click

from poolproxy.errors import ConfigError
from poolproxy.settings.files import NOTHING, LoadedConfig, Overrides
from poolproxy.tls.contexts import load


def load_or_exit(path: str, overrides: Overrides = NOTHING) -> LoadedConfig:
    """The configuration; with mistakes in it each goes to stderr and the process ends (status 1)."""
    try:
        return load(path, overrides)
    except ConfigError as error:
        for mistake in error.mistakes:
            click.echo(f"{mistake.where}: error: {mistake.text}", err=True)
        if error.read_as:
            click.echo(error.read_as, err=True)
        raise click.exceptions.Exit(1) from error


def warn_of_root(loaded: LoadedConfig) -> None:
    """Say so if the pooler is going to run as root."""
    if os.geteuid() == 0 and not loaded.config.settings.user:
        click.echo(
            "poolproxy: warning: running as root; set `user` to the account to change to", err=True
        )
