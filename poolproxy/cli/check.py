"""``poolproxy check``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from poolproxy.cli.loading import load_or_exit
from poolproxy.settings import Address, Settings, worst_case
from poolproxy.settings.files import LoadedConfig


@click.command()
@click.argument("path", metavar="CONFIG")
def check(path: str) -> None:
    """Find the mistakes in the TOML file CONFIG.

    Nothing is started. Every mistake, also of the auth_file, goes to stderr with its file and
    line, and the exit status is 1. Without a mistake it prints what would be run, and how many
    server connections that can open at most: to hold against PostgreSQL's max_connections.
    """
    loaded = load_or_exit(path)
    click.echo("\n".join(_summary(loaded)))


def _summary(loaded: LoadedConfig) -> Iterator[str]:
    settings = loaded.config.settings
    yield f"{loaded.path}: no mistakes"
    yield f"listens on {', '.join(_listeners(settings)) or 'nothing'}"
    yield f"workers: {settings.workers or 'one for each core'}"
    yield f"databases: {', '.join(sorted(loaded.config.databases)) or 'none'}"
    yield f"users: {len({*loaded.config.users, *loaded.secrets})}"
    yield f"client connections: at most {settings.max_client_conn}"
    yield str(worst_case(loaded.config, loaded.secrets))


def _listeners(settings: Settings) -> Iterator[str]:
    for host in settings.listen_addr:
        yield str(Address(host, settings.listen_port))
    if settings.unix_socket_dir:
        yield f"{settings.unix_socket_dir}/.s.PGSQL.{settings.listen_port}"
